// SPDX-License-Identifier: Apache-2.0
// Attribution: which lock the instruction at RIP stores into, when KVM tells of a refused store but not
// where.
#pragma once

#include "guard/instruction.hpp"
#include "guard/lock.hpp"
#include "memory/guest_memory.hpp"

#include <cstddef>
#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

namespace casemate {

// The locked parts that overlap a range: the one of the highest policy, the lowest address among equals
// (LockTable::find).
using LockLookup = std::function<std::optional<Lock>(const GuestRange&)>;

struct StoreHit {
    Lock lock;
    GuestPhysical address;         // first byte of the store that is locked, in the order of storing
    GuestLinear linear;            // the same byte as the instruction addressed it
    uint64_t bytes = 0;            // of the whole store
    std::optional<uint64_t> value; // its low 8 bytes
};

struct Attribution {
    // Of the highest policy, the first among equals; empty: nothing explains the fault.
    std::optional<StoreHit> hit;
    std::string instruction;       // disassembled; empty when it could not be
    bool marks_descriptor = false; // may set bits of one in the GDT
    std::vector<std::byte> code;   // bytes of the instruction; all that could be fetched when it is unknown
    std::string reason;            // without a hit: why
};

// What KVM says of a write that it denied by itself, where it does (KVM_EXIT_MEMORY_FAULT with the write
// flag). It may be out of date as everything else, but for the address.
struct DeniedWrite {
    GuestPhysical address;     // of the first byte
    bool is_page_walk = false; // of the CPU, while it walked the guest's page tables
};

// Page walks for one attribution: a REP string of 2^64 bytes costs no more. 2 MiB when mapped by small pages.
constexpr size_t max_page_walks = 512;

// Names, never permits: another vCPU may have changed code and tables since. The rest of a REP run counts
// only when the next element explains nothing.
[[gnu::cold]] Attribution attribute_store(const GuestMemory& memory, const CpuState& state,
                                          const Decoder& decoder, const LockLookup& find_lock);

} // namespace casemate
