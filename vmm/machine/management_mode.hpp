// SPDX-License-Identifier: Apache-2.0
// Management mode: what a vCPU finds when a system management interrupt takes it. There is no firmware that
// could serve one, and none can be kept from the guest: any local APIC sends them. KVM kills a VM whose
// management mode has no memory, on all its vCPUs at once and without a word of why; so there is some, apart
// from the guest's, with one instruction that leaves the guest.
#pragma once

#include "base/error.hpp"
#include "base/mapping.hpp"
#include "kvm/vcpu.hpp"
#include "kvm/vm.hpp"

namespace casemate {

class ManagementMode {
public:
    // Nothing where KVM has no such mode, and ignores the interrupt. After `vm` is gone the memory may go.
    static Result<ManagementMode> create(const Vm& vm);
    // Of each vCPU, before it runs.
    Result<void> set_up(const Vcpu& vcpu) const;

    // Whether the vCPU was in it when KVM_RUN returned, whatever that returned; on its thread.
    static bool has_entered(const Vcpu& vcpu) { return (vcpu.run_page().flags & KVM_RUN_X86_SMM) != 0; }

private:
    Mapping m_memory;
};

} // namespace casemate
