// SPDX-License-Identifier: Apache-2.0
// The memory type registers of the guest's CPUs: what MTRRcap says of them. SDM Vol. 3A, 13.11.1
// "MTRR Feature Identification".
#pragma once

#include <array>
#include <cstdint>

namespace casemate {

// IA32_MTRRCAP: write-combining is known; no variable and no fixed ranges, for KVM's have no effect on memory
// that is not a passed-through device's, and Linux reads all 27 of them three times a boot. What they
// overrule is the default type, which is there, and PAT.
inline constexpr std::array intercepted_msr_reads{uint32_t{0xfe}};
inline constexpr uint64_t mtrr_capabilities = 1U << 10U;

} // namespace casemate
