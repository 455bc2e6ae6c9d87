// SPDX-License-Identifier: Apache-2.0
// Violation: one attempt to change locked memory or a refused MSR, as far as the monitor could make it out.
#pragma once

#include "guard/instruction.hpp"
#include "guard/lock.hpp"
#include "guard/roots.hpp"

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace casemate {

enum class ViolationSource {
    store,          // a vCPU's instruction, stopped before it took effect
    emulated_store, // a vCPU's instruction that KVM emulated: dropped, RIP is past it
    host_write,     // the monitor acting for the guest: a device's transfer, a ring
    changed_table,  // a table under verification was found changed; who did it is not known
    root,           // a vCPU's page-table root, or the one it is about to load, is not the kernel's
    msr_write,      // a vCPU's WRMSR to one of refused_msrs()
    kvm_write,      // an MSR has KVM itself write there (paravirtual.hpp), which it cannot
    unattributable, // a protection fault on a vCPU that no operand explains
};
// "store", "emulated_store", "host_write", "changed_table", "root", "msr_write", "kvm_write",
// "unattributable".
const char* name_of(ViolationSource source);

struct RootViolation {
    RootMismatch mismatch;
    LockPolicy policy = LockPolicy::read_only; // of the reference
};

struct Violation {
    ViolationSource source = ViolationSource::store;
    // The locked part that was hit; empty for roots, MSRs and when unattributable.
    std::optional<Lock> lock;
    std::optional<GuestPhysical> address; // first byte of the store that is locked
    std::optional<GuestLinear> linear;    // the same byte as the instruction addressed it
    uint64_t bytes = 0;                   // of the whole store
    std::optional<uint64_t> value;        // its low 8 bytes; of an MSR; of a changed table what was found
    std::optional<uint64_t> expected;     // of a changed table: the entry as it was
    std::optional<RootViolation> root;    // for roots only
    std::optional<uint32_t> msr;          // its index
    // For vCPUs only.
    std::optional<uint32_t> vcpu;
    std::optional<CpuState> state;
    std::string instruction;     // disassembled; empty when it could not be
    std::vector<std::byte> code; // bytes at RIP, when they could be fetched
    std::string detail;          // why it is unattributable; which device; how many entries; or empty

    std::optional<LockPolicy> policy() const {
        if (root)
            return root->policy;
        return lock ? std::optional(lock->policy) : std::nullopt;
    }
};

} // namespace casemate
