// SPDX-License-Identifier: Apache-2.0
#include "guard/guest_cpu.hpp"

#include <algorithm>
#include <array>
#include <ctime>

namespace casemate {
namespace {

constexpr uint8_t general_protection = 13;
constexpr uint32_t msr_time_stamp_counter = 0x10;
constexpr uint32_t msr_lstar = 0xc0000082;

} // namespace

Result<CpuState> KvmGuestCpu::state() const {
    CpuState state;
    state.registers = TRY(m_vcpu.registers());
    state.system = TRY(m_vcpu.system_registers());
    state.fpu = TRY(m_vcpu.fpu());
    return state;
}

Result<bool> KvmGuestCpu::is_delivering_event() const {
    const kvm_vcpu_events events = TRY(m_vcpu.events());
    return events.exception.injected != 0 || events.interrupt.injected != 0 || events.nmi.injected != 0;
}

Result<void> KvmGuestCpu::inject_general_protection() const {
    kvm_vcpu_events events = TRY(m_vcpu.events());
    // Flags name the optional parts to set, none of which changes: a pending NMI may have come meanwhile.
    events.flags = 0;
    events.exception = {.injected = 1, .nr = general_protection, .has_error_code = 1};
    return m_vcpu.set_events(events);
}

Result<void> KvmGuestCpu::set_instruction_pointer(uint64_t rip) const {
    kvm_regs registers = TRY(m_vcpu.registers());
    registers.rip = rip;
    return m_vcpu.set_registers(registers);
}

Result<uint64_t> KvmGuestCpu::time_stamp() const {
    return m_vcpu.msr(msr_time_stamp_counter);
}

Result<uint64_t> KvmGuestCpu::syscall_entry() const {
    return m_vcpu.msr(msr_lstar);
}

Result<AuditedState> KvmGuestCpu::audited_state() const {
    std::array<uint32_t, entry_msrs.size()> indices{};
    std::ranges::transform(entry_msrs, indices.begin(), &EntryMsr::index);
    AuditedState state;
    state.system = TRY(m_vcpu.system_registers());
    TRY(m_vcpu.get_msrs(indices, state.msrs));
    return state;
}

Result<ParavirtualValues> KvmGuestCpu::paravirtual_values() const {
    std::array<uint32_t, paravirtual_msrs.size()> indices{};
    std::ranges::transform(paravirtual_msrs, indices.begin(), &ParavirtualMsr::index);
    ParavirtualValues values;
    TRY(m_vcpu.get_known_msrs(indices, values));
    return values;
}

Result<void> KvmGuestCpu::write_msr(uint32_t index, uint64_t value) const {
    const std::array entry{kvm_msr_entry{.index = index, .reserved = 0, .data = value}};
    return m_vcpu.set_msrs(entry);
}

std::chrono::nanoseconds KvmGuestCpu::run_time() const {
    timespec now{};
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
    return std::chrono::seconds(now.tv_sec) + std::chrono::nanoseconds(now.tv_nsec);
}

} // namespace casemate
