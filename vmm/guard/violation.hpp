// SPDX-License-Identifier: Apache-2.0
// Violation: one attempt to change locked memory or a refused MSR, as far as the monitor could make it out.
#pragma once

#include "guard/instruction.hpp"
#include "guard/lock.hpp"

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace casemate {

enum class ViolationSource {
    store,          // a vCPU's instruction, stopped before it took effect
    emulated_store, // a vCPU's instruction that KVM emulated: dropped, RIP is past it
    host_write,     // the monitor acting for the guest: a device's transfer, a ring
    msr_write,      // a vCPU's WRMSR to one of refused_msrs(), after SEAL
    unattributable, // a protection fault on a vCPU that no operand explains
};
// "store", "emulated_store", "host_write", "msr_write", "unattributable".
const char* name_of(ViolationSource source);

struct Violation {
    ViolationSource source = ViolationSource::store;
    // The locked part that was hit; empty when unattributable, or of an MSR.
    std::optional<Lock> lock;
    std::optional<GuestPhysical> address; // first byte of the store that is locked
    std::optional<GuestLinear> linear;    // the same byte as the instruction addressed it
    uint64_t bytes = 0;                   // of the whole store
    std::optional<uint64_t> value;        // its low 8 bytes; of an MSR
    std::optional<uint32_t> msr;          // its index
    // For vCPUs only.
    std::optional<uint32_t> vcpu;
    std::optional<CpuState> state;
    std::string instruction;     // disassembled; empty when it could not be
    std::vector<std::byte> code; // bytes at RIP, when they could be fetched
    std::string detail;          // why it is unattributable; which device; empty otherwise
};

} // namespace casemate
