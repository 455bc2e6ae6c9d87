// SPDX-License-Identifier: Apache-2.0
// ProbeGuest: a throwaway VM of eight pages whose one vCPU runs one of the firmware's probes in long mode,
// with a protection for them.
#pragma once

#include "base/error.hpp"
#include "guard/make_protection.hpp"
#include "kvm/system.hpp"
#include "kvm/vcpu.hpp"
#include "kvm/vm.hpp"
#include "probe/tables.hpp"

#include <array>
#include <chrono>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>

namespace casemate {

// How one KVM_RUN of a probe ended.
struct ProbeStop {
    bool timed_out = false;    // the watchdog ended it; when it had to give up, the rest is zero
    int error = 0;             // KVM_RUN's errno value
    kvm_run exit{};            // a copy of the run page's fixed part
    std::optional<uint8_t> al; // set when the guest stopped by itself: the code it gave
    kvm_regs registers{};      // after an MMIO exit: once KVM has completed the instruction

    // "KVM_RUN failed: Bad address", "KVM_EXIT_SHUTDOWN", "stop 1": for people.
    std::string describe() const;
};

class ProbeGuest {
public:
    // Fails where there is no such protection.
    static Result<std::shared_ptr<ProbeGuest>> create(const System& system,
                                                      std::span<const ProtectionKind> kinds = any_protection);

    // The VM, for capabilities that must be enabled before it runs.
    const Vm& vm() const { return m_vm; }
    // The guest's memory from address 0. Nothing here is hostile.
    std::span<std::byte, probe_layout::memory_bytes> memory() const {
        return m_memory.bytes_behind(GuestRange::of({0}, probe_layout::memory_bytes))
            .first<probe_layout::memory_bytes>();
    }
    // Whole pages of that memory, for good.
    Result<void> protect(const GuestRange& pages) { return m_protection->protect({&pages, 1}); }

    // Where the vCPU goes next: `entry` is a label in probe_code(), `registers` gives the rest but for the
    // instruction pointer, stack pointer and flags.
    Result<void> enter(const std::byte* entry, kvm_regs registers);
    // The guest address of a label.
    static uint64_t address_of(const std::byte* label);

    // KVM_RUN on the calling thread, unbounded; watchdog_signal interrupts it.
    Result<ProbeStop> run_here();

private:
    ProbeGuest(GuestMemory memory, Vm vm)
        : m_memory(std::move(memory))
        , m_vm(std::move(vm)) {}
    static constexpr std::array any_protection{ProtectionKind::mapping};
    Result<void> set_up(const System& system, std::span<const ProtectionKind> kinds);

    // Order matters: the vCPU and the VM go before the memory that their slots point to.
    GuestMemory m_memory;
    Vm m_vm;
    std::unique_ptr<Protection> m_protection;
    std::unique_ptr<Vcpu> m_vcpu; // always, once create() has returned
};

// Runs the guest until its next exit, at most `limit` as run_bounded() counts it. When KVM_RUN cannot even be
// interrupted, its thread keeps the guest, and the caller must not enter it again.
Result<ProbeStop> run_probe(const std::shared_ptr<ProbeGuest>& guest, std::chrono::milliseconds limit);

} // namespace casemate
