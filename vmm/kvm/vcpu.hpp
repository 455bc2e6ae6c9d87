// SPDX-License-Identifier: Apache-2.0
// Vcpu: one KVM virtual CPU: its registers and its run page.
#pragma once

#include "base/error.hpp"
#include "base/fd.hpp"
#include "base/mapping.hpp"
#include "kvm/uapi.hpp"

#include <csignal>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>

namespace casemate {

// Every method belongs to the thread that runs the vCPU, but for request_exit().
class Vcpu {
public:
    uint32_t index() const { return m_index; }

    Result<void> set_cpuid(std::span<const kvm_cpuid_entry2> entries) const;
    Result<kvm_regs> registers() const;
    Result<void> set_registers(const kvm_regs& registers) const;
    Result<kvm_sregs> system_registers() const;
    // Those of the last exit: by an ioctl the first time, then from the run page, where KVM puts them with
    // each exit from then on (KVM API, KVM_CAP_SYNC_REGS). For who sets none between exits.
    Result<kvm_sregs> exit_system_registers() const;
    Result<void> set_system_registers(const kvm_sregs& registers) const;
    Result<void> set_msrs(std::span<const kvm_msr_entry> msrs) const;
    Result<uint64_t> msr(uint32_t index) const;
    // One ioctl for all; `values` has as many as `indices`.
    Result<void> get_msrs(std::span<const uint32_t> indices, std::span<uint64_t> values) const;
    // The same where KVM may not have some of them, which stay empty.
    Result<void> get_known_msrs(std::span<const uint32_t> indices,
                                std::span<std::optional<uint64_t>> values) const;
    // KVM_GET_MP_STATE: whether it waits for INIT or a start-up IPI, and so runs nothing.
    Result<bool> waits_for_start() const;
    // XMM registers among them. KVM API, KVM_GET_FPU.
    Result<kvm_fpu> fpu() const;
    // Exceptions and interrupts that are being delivered. KVM API, KVM_GET_VCPU_EVENTS.
    Result<kvm_vcpu_events> events() const;
    Result<void> set_events(const kvm_vcpu_events& events) const;

    // KVM_SET_SIGNAL_MASK: the thread's signal mask while it is in KVM_RUN. A pending signal that this mask
    // lets through ends KVM_RUN with EINTR and stays pending when the thread itself blocks it.
    Result<void> set_signal_mask(const sigset_t& mask) const;

    // KVM_KVMCLOCK_CTRL, before KVM_RUN: the guest's soft lockup detector and such learn that this vCPU was
    // stopped. Does nothing for a guest that has not asked KVM for its clock.
    void mark_stopped() const;
    // KVM_GET_TSC_KHZ: how fast the guest's time stamp counter runs; empty where KVM does not know.
    std::optional<uint32_t> tsc_khz() const;

    // KVM_RUN: 0, or the errno value. The exit is in run_page().
    int run() const;
    // What KVM shares of the last exit. Addresses and data in it are the guest's: check before use.
    kvm_run& run_page() const { return *reinterpret_cast<kvm_run*>(m_run.data()); }
    // Makes the next or current KVM_RUN return EINTR at once; any thread (a current one needs a signal too).
    void request_exit(bool exit) const {
        __atomic_store_n(&run_page().immediate_exit, static_cast<uint8_t>(exit), __ATOMIC_SEQ_CST);
    }

private:
    friend class Vm;
    Vcpu(Fd fd, Mapping run, uint32_t index, bool can_synchronise)
        : m_fd(std::move(fd))
        , m_run(std::move(run))
        , m_index(index)
        , m_can_synchronise(can_synchronise) {}

    Result<void> call(unsigned long request, const char* name, void* argument) const;
    Result<size_t> get_first_msrs(std::span<const uint32_t> indices,
                                  std::span<std::optional<uint64_t>> values) const;

    Fd m_fd;
    Mapping m_run;
    uint32_t m_index;
    bool m_can_synchronise; // KVM puts system registers into the run page
};

} // namespace casemate
