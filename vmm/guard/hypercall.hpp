// SPDX-License-Identifier: Apache-2.0
// Hypercall: the registers of a guest's call, checked and taken apart as casemate_abi.h says.
#pragma once

#include "guard/lock.hpp"
#include "guard/roots.hpp"
#include "memory/guest_range.hpp"

#include <cstdint>
#include <expected>
#include <optional>
#include <variant>

namespace casemate {

// As KVM_EXIT_HYPERCALL hands them on.
struct HypercallRegisters {
    uint64_t address = 0;    // rbx, guest-physical, bytes
    uint64_t pages = 0;      // rcx, of 4 KiB
    uint64_t attributes = 0; // rdx
};

struct FeaturesCall {};
struct LockCall {
    Lock lock; // the range may lie outside RAM, but does not wrap
};
struct SealCall {};
struct RootReferenceCall {
    RootRequest request; // page-aligned; may lie outside RAM; the slot may be any
};
struct RootCheckCall {
    std::optional<GuestPhysical> next; // the root that is about to be loaded; page-aligned, may be no RAM
};
struct RootArenaCall {
    GuestRange pages; // whole ones; may lie outside RAM, but does not wrap
    LockPolicy policy = LockPolicy::read_only;
};
struct RootWriteCall {
    uint64_t root = 0;               // any number
    uint64_t slot = 0;               // of 512
    std::optional<GuestRange> table; // a page; may lie outside RAM, but does not wrap; none: taken out
};
struct RootClearCall {
    uint64_t root = 0; // any number
};
struct RootClockCall {
    GuestRange page; // a whole one; may lie outside RAM, but does not wrap
    LockPolicy policy = LockPolicy::read_only;
    uint64_t interval = 0; // cycles of the guest's TSC, not 0
};
using Hypercall = std::variant<FeaturesCall, LockCall, SealCall, RootReferenceCall, RootCheckCall,
                               RootArenaCall, RootWriteCall, RootClearCall, RootClockCall>;

// What the guest gets in rax for a positive CASEMATE_E*.
constexpr uint64_t refusal(uint64_t error) {
    return ~error + 1;
}

// The call, or the positive CASEMATE_E* that refuses it.
std::expected<Hypercall, uint32_t> parse_hypercall(const HypercallRegisters& registers);

} // namespace casemate
