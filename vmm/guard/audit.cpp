// SPDX-License-Identifier: Apache-2.0
#include "guard/audit.hpp"

#include <algorithm>
#include <utility>

namespace casemate {
namespace {

enum class Rule {
    same,      // the CPU's mode
    stays_set, // a protection: what was off at SEAL may still be switched on
};

// Bits that Linux sets once at each CPU's start. The others change while it runs: CR0.TS and CD, CR4.TSD,
// PGE, PCE, OSXSAVE and so on.
struct AuditedBit {
    const char* name;
    __u64 kvm_sregs::* reg;
    unsigned bit;
    Rule rule;
};
constexpr std::array audited_bits{
    // SDM Vol. 3A, 2.5
    AuditedBit{"CR0.PE", &kvm_sregs::cr0, 0, Rule::same},
    AuditedBit{"CR0.WP", &kvm_sregs::cr0, 16, Rule::stays_set},
    AuditedBit{"CR0.PG", &kvm_sregs::cr0, 31, Rule::same},
    AuditedBit{"CR4.PAE", &kvm_sregs::cr4, 5, Rule::same},
    AuditedBit{"CR4.UMIP", &kvm_sregs::cr4, 11, Rule::stays_set},
    AuditedBit{"CR4.LA57", &kvm_sregs::cr4, 12, Rule::same},
    AuditedBit{"CR4.SMEP", &kvm_sregs::cr4, 20, Rule::stays_set},
    AuditedBit{"CR4.SMAP", &kvm_sregs::cr4, 21, Rule::stays_set},
    // SDM Vol. 3A, 2.2.1
    AuditedBit{"EFER.SCE", &kvm_sregs::efer, 0, Rule::same},
    AuditedBit{"EFER.LME", &kvm_sregs::efer, 8, Rule::same},
    AuditedBit{"EFER.LMA", &kvm_sregs::efer, 10, Rule::same},
    AuditedBit{"EFER.NXE", &kvm_sregs::efer, 11, Rule::same},
};

// SDM Vol. 3A, 2.2.1
constexpr uint64_t efer_lme = 1 << 8;
constexpr uint64_t efer_lma = 1 << 10;
constexpr uint64_t cr0_paging = 1ULL << 31U;
constexpr uint64_t efer_always = 1 | efer_lme | 1 << 11; // SCE and NXE too

// Nothing moves it, INIT neither. SDM Vol. 3A, 11.4.7.3.
std::optional<AuditDifference> apic_difference(const AuditedState& expected, const AuditedState& found) {
    const uint64_t was = layout::local_apic.start.value | (expected.system.apic_base & apic_base_boot_cpu);
    const uint64_t is = found.system.apic_base & ~(apic_base_enable | apic_base_x2apic);
    if (was == is)
        return std::nullopt;
    return AuditDifference{.name = "APIC_BASE", .expected = was, .found = is, .state = {}};
}

std::optional<AuditDifference> first_difference(const AuditedState& expected, const AuditedState& found) {
    const auto difference = [](const char* name, uint64_t was, uint64_t is) {
        return AuditDifference{.name = name, .expected = was, .found = is, .state = {}};
    };
    for (const AuditedBit& entry : audited_bits) {
        const uint64_t was = (expected.system.*entry.reg >> entry.bit) & 1;
        const uint64_t is = (found.system.*entry.reg >> entry.bit) & 1;
        if (was != is && (entry.rule == Rule::same || was == 1))
            return difference(entry.name, was, is);
    }
    if (found.system.idt.base != expected.system.idt.base)
        return difference("IDTR.base", expected.system.idt.base, found.system.idt.base);
    if (found.system.idt.limit != expected.system.idt.limit)
        return difference("IDTR.limit", expected.system.idt.limit, found.system.idt.limit);
    for (size_t i = 0; i < entry_msrs.size(); ++i)
        if (found.msrs.at(i) != expected.msrs.at(i))
            return difference(entry_msrs.at(i).name, expected.msrs.at(i), found.msrs.at(i));
    return std::nullopt;
}

} // namespace

const char* msr_name(uint32_t index) {
    if (index == efer_msr.index)
        return efer_msr.name;
    if (index == apic_base_msr)
        return "APIC_BASE";
    const auto* const found = std::ranges::find(entry_msrs, index, &EntryMsr::index);
    return found == entry_msrs.end() ? nullptr : found->name;
}

void Auditor::begin() {
    const std::lock_guard lock(m_mutex);
    m_begun = true;
    m_changed.notify_all();
}

bool Auditor::has_begun() const {
    const std::lock_guard lock(m_mutex);
    return m_begun;
}

bool Auditor::wait_to_begin() {
    std::unique_lock lock(m_mutex);
    return m_changed.wait(lock, m_ending, [this] { return m_begun; });
}

void Auditor::pin(uint32_t cpu, const std::optional<AuditedState>& state) {
    const std::lock_guard lock(m_mutex);
    Pins& pins = m_pins.at(cpu);
    if (!m_begun || pins.pinned != Pinned::not_yet)
        return;
    pins.pinned = state ? Pinned::running : Pinned::waiting;
    pins.state = state.value_or(AuditedState{});
    m_changed.notify_all();
}

bool Auditor::is_pinned(uint32_t cpu) const {
    const std::lock_guard lock(m_mutex);
    return m_pins.at(cpu).pinned != Pinned::not_yet;
}

bool Auditor::wait_for_pins() {
    std::unique_lock lock(m_mutex);
    return m_changed.wait(lock, m_ending, [this] {
        return std::ranges::none_of(m_pins, [](const Pins& pins) { return pins.pinned == Pinned::not_yet; });
    });
}

// INIT clears EFER (SDM Vol. 3A, table 10-1).
void Auditor::note_restart(Pins& pins, uint64_t efer, std::chrono::nanoseconds run_time) {
    if ((pins.state.system.efer & efer_lme) == 0 || (efer & efer_lme) != 0 || pins.start)
        return;
    pins.start = Start{.charged = run_time, .strayed = {}};
    ++m_restarts;
}

void Auditor::charge(Pins& pins, Start& start, std::chrono::nanoseconds run_time) {
    const Clock::time_point now = m_now();
    const auto refill = std::chrono::nanoseconds(now - std::exchange(pins.refilled, now)) / refill_divisor;
    const auto ran = run_time - std::exchange(start.charged, run_time);
    pins.used = std::max(pins.used - refill, std::chrono::nanoseconds(0)) + ran;
    m_time_in_restarts += ran;
}

void Auditor::end_start(Pins& pins, std::chrono::nanoseconds run_time) {
    if (pins.start)
        charge(pins, *pins.start, run_time);
    pins.start.reset();
}

bool Auditor::may_go_on(Pins& pins, Start& start, const AuditedState& found,
                        std::chrono::nanoseconds run_time, const std::function<bool()>& strays) {
    charge(pins, start, run_time);
    if (pins.used > start_time)
        return false;
    if ((found.system.cr0 & cr0_paging) == 0)
        return true;
    if ((found.system.efer & efer_lma) == 0)
        return false;
    if (!strays())
        return true;
    if (!start.strayed)
        start.strayed = run_time;
    return run_time - *start.strayed <= stray_time;
}

void Auditor::settle(uint32_t cpu, const AuditedState& found, std::chrono::nanoseconds run_time) {
    const std::lock_guard lock(m_mutex);
    Pins& pins = m_pins.at(cpu);
    if (pins.start && !first_difference(pins.state, found))
        end_start(pins, run_time);
}

std::optional<AuditDifference> Auditor::audit(uint32_t cpu, const AuditedState& found,
                                              std::chrono::nanoseconds run_time,
                                              const std::function<bool()>& strays) {
    const std::lock_guard lock(m_mutex);
    Pins& pins = m_pins.at(cpu);
    if (pins.pinned == Pinned::not_yet)
        return std::nullopt;
    if (pins.pinned == Pinned::waiting)
        return AuditDifference{.vcpu = cpu, .name = "start", .expected = 0, .found = 1, .state = {}};
    if (auto moved = apic_difference(pins.state, found)) {
        moved->vcpu = cpu;
        return moved;
    }
    auto difference = first_difference(pins.state, found);
    if (!difference) {
        end_start(pins, run_time);
        return std::nullopt;
    }
    note_restart(pins, found.system.efer, run_time);
    if (pins.start && may_go_on(pins, *pins.start, found, run_time, strays))
        return std::nullopt;
    difference->vcpu = cpu;
    return difference;
}

bool Auditor::is_restarting(uint32_t cpu) const {
    const std::lock_guard lock(m_mutex);
    return m_pins.at(cpu).start.has_value();
}

bool Auditor::grants(uint32_t cpu, uint32_t msr, uint64_t value, uint64_t efer,
                     std::chrono::nanoseconds run_time) {
    const std::lock_guard lock(m_mutex);
    Pins& pins = m_pins.at(cpu);
    if (pins.pinned != Pinned::running)
        return false;
    if (msr == efer_msr.index) {
        // The CPU itself keeps EFER.LMA.
        const uint64_t pinned = pins.state.system.efer & ~efer_lma;
        const uint64_t wanted = value & ~efer_lma;
        // Linux enters long mode before it sets what the CPU's model adds.
        const bool restarts = (efer & efer_lme) == 0 && (wanted & ~pinned) == 0 &&
                              (wanted & efer_always) == (pinned & efer_always);
        if (restarts)
            note_restart(pins, efer, run_time);
        return wanted == pinned || restarts;
    }
    for (size_t i = 0; i < entry_msrs.size(); ++i)
        if (entry_msrs.at(i).index == msr)
            return value == pins.state.msrs.at(i);
    return false;
}

uint64_t Auditor::restarts() const {
    const std::lock_guard lock(m_mutex);
    return m_restarts;
}

std::chrono::nanoseconds Auditor::time_in_restarts() const {
    const std::lock_guard lock(m_mutex);
    return m_time_in_restarts;
}

} // namespace casemate
