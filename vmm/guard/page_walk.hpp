// SPDX-License-Identifier: Apache-2.0
// Page walk: from a guest's linear address to its guest-physical one, through the guest's own tables.
#pragma once

#include "base/units.hpp"
#include "kvm/uapi.hpp"
#include "memory/guest_memory.hpp"

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>

namespace casemate {

struct Translation {
    GuestPhysical address;   // of the byte asked for; may lie outside RAM
    uint64_t page_bytes = 0; // size of the mapping: 4 KiB, 2 MiB, 4 MiB, 1 GiB; 4 GiB: paging is off
    bool writable = false;   // R/W set at every level
    bool user = false;       // U/S set at every level
    bool no_execute = false; // NX set at some level
};

// The entries that one walk read, the root's first.
struct WalkedEntries {
    struct Entry {
        GuestPhysical address;
        uint64_t value = 0;
    };
    std::array<Entry, 5> entries{};
    size_t count = 0;
};

// Walks as the CPU would in the mode that `state` describes (SDM Vol. 3A, chapter "Paging"): none, 32-bit
// with PSE, PAE, 4-level, 5-level. Empty when an entry is not present, has a reserved bit that KVM checks
// too, lies outside RAM, or the address is not canonical (above 4 GiB outside long mode). Reads tables once
// each, changes nothing (no A or D bits), at most five reads: hostile tables (loops, self-maps) cost no more.
// `walked` gets the entries of 64 bits that were read, also when the last one leads nowhere.
// Any thread while `memory` lives.
std::optional<Translation> translate(const GuestMemory& memory, const kvm_sregs& state, GuestLinear address,
                                     WalkedEntries* walked = nullptr);

} // namespace casemate
