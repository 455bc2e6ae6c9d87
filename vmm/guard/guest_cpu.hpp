// SPDX-License-Identifier: Apache-2.0
// GuestCpu: what the guard asks of the vCPU whose exit it judges.
#pragma once

#include "base/error.hpp"
#include "guard/audit.hpp"
#include "guard/instruction.hpp"
#include "guard/paravirtual.hpp"
#include "kvm/vcpu.hpp"

#include <chrono>
#include <cstdint>

namespace casemate {

// Used on the vCPU's own thread, between two KVM_RUN.
class GuestCpu {
public:
    GuestCpu() = default;
    GuestCpu(const GuestCpu&) = delete;
    GuestCpu& operator=(const GuestCpu&) = delete;
    virtual ~GuestCpu() = default;

    virtual uint32_t index() const = 0;
    virtual Result<CpuState> state() const = 0;
    // The system registers alone, without an ioctl where KVM hands them over with the exit.
    virtual Result<kvm_sregs> system_registers() const = 0;
    // Whether the last exit came while an exception or interrupt was being delivered: KVM has put it back and
    // will deliver it again. SDM Vol. 3C, "Information for VM Exits That Occur During Event Delivery".
    virtual Result<bool> is_delivering_event() const = 0;
    // Makes the next KVM_RUN deliver #GP(0) before the instruction at RIP.
    virtual Result<void> inject_general_protection() const = 0;
    // Where it goes on.
    virtual Result<void> set_instruction_pointer(uint64_t rip) const = 0;
    // IA32_TIME_STAMP_COUNTER, as the guest's RDTSC gives it now.
    virtual Result<uint64_t> time_stamp() const = 0;
    // MSR_LSTAR: where SYSCALL goes.
    virtual Result<uint64_t> syscall_entry() const = 0;
    // What the auditor compares.
    virtual Result<AuditedState> audited_state() const = 0;
    // Where KVM writes for it.
    virtual Result<ParavirtualValues> paravirtual_values() const = 0;
    // Whether it runs nothing until it gets a start-up IPI. SDM Vol. 3A, 10.4.4.
    virtual Result<bool> waits_for_start() const = 0;
    // As the guest's own WRMSR would.
    virtual Result<void> write_msr(uint32_t index, uint64_t value) const = 0;
    // How long its thread has run on a host CPU.
    virtual std::chrono::nanoseconds run_time() const = 0;
};

class KvmGuestCpu final : public GuestCpu {
public:
    explicit KvmGuestCpu(const Vcpu& vcpu)
        : m_vcpu(vcpu) {}
    uint32_t index() const override { return m_vcpu.index(); }
    Result<CpuState> state() const override;
    Result<kvm_sregs> system_registers() const override { return m_vcpu.exit_system_registers(); }
    Result<bool> is_delivering_event() const override;
    Result<void> inject_general_protection() const override;
    Result<void> set_instruction_pointer(uint64_t rip) const override;
    Result<uint64_t> time_stamp() const override;
    Result<uint64_t> syscall_entry() const override;
    Result<AuditedState> audited_state() const override;
    Result<ParavirtualValues> paravirtual_values() const override;
    Result<bool> waits_for_start() const override { return m_vcpu.waits_for_start(); }
    Result<void> write_msr(uint32_t index, uint64_t value) const override;
    std::chrono::nanoseconds run_time() const override;

private:
    const Vcpu& m_vcpu;
};

} // namespace casemate
