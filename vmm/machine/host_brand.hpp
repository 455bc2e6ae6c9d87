// SPDX-License-Identifier: Apache-2.0
// The name of a processor, as CPUID has it: SDM Vol. 2A and APM Vol. 3, leaves 0x80000002 to 0x80000004.
#pragma once

#include <array>
#include <cstdint>
#include <string_view>

namespace casemate {

// Zero-terminated: eax, ebx, ecx and edx of the three leaves.
using CpuBrand = std::array<uint32_t, 12>;

// At most 47 characters.
CpuBrand make_brand(std::string_view name);

// Of the processor that this runs on, or, where that has no name, one that says so.
CpuBrand host_brand();
// The same for a processor whose CPUID answers as `leaf` does: a leaf's number to its four registers.
CpuBrand host_brand(std::array<uint32_t, 4> (*leaf)(uint32_t));

} // namespace casemate
