// SPDX-License-Identifier: Apache-2.0
// Store effect: what a storing instruction changes beside memory, for who sees it only afterwards.
#pragma once

#include "guard/encoding.hpp"

#include <cstdint>

namespace casemate {

enum class StoreEffect : uint8_t {
    repeatable,     // no register, and no flag that it reads
    same_addresses, // something, but no register that the addresses of its stores are made of
    string,         // rDI, by one element a store, and perhaps rSI and rCX
    push,           // rSP: the last store lies at the new top of the stack, those before it above
    unknown,        // anything
};

// Of an instruction that has stores in 64-bit code (SDM Vol. 2).
[[gnu::cold]] StoreEffect store_effect(const Encoding& encoding);

// Whether the CPU may set the accessed or busy bit of a descriptor in the GDT for it: loads of segment and
// task registers, far transfers (SDM Vol. 3A, "Code- and Data-Segment Descriptor Types").
[[gnu::cold]] bool marks_descriptor(const Encoding& encoding);

} // namespace casemate
