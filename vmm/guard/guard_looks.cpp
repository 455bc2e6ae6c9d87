// SPDX-License-Identifier: Apache-2.0
// The part of the guard that looks past a vCPU's registers: at where they lead, and where they have KVM
// write.
#include "guard/guard.hpp"

#include <algorithm>

namespace casemate {

void Guard::pin_translations(const GuestCpu& cpu, const AuditedState& state) {
    const RootPages roots = m_roots.pages_of(state.system.cr3);
    m_cpus[cpu.index()].translations.pin(m_parts.memory, state, roots.all(), [this](GuestPhysical page) {
        return !m_table.may_write(GuestRange::of(page, page_bytes));
    });
}

std::optional<GuardEnd> Guard::audit_translations(const GuestCpu& cpu, const kvm_sregs& system) {
    const PinnedTranslations& pinned = m_cpus[cpu.index()].translations;
    const RootPages roots = m_roots.pages_of(system.cr3);
    if (!pinned.compare(m_parts.memory, system, roots.all()))
        return std::nullopt;
    // Where the entry is in a table under verification, the policy of that lock says what becomes of it.
    if (auto end = verify_tables(cpu.index()))
        return end;
    auto difference = pinned.compare(m_parts.memory, system, roots.all());
    if (!difference)
        return std::nullopt;
    difference->vcpu = cpu.index();
    return report_difference(cpu, *difference);
}

std::vector<uint32_t> intercepted_msrs() {
    constexpr auto refused = refused_msrs();
    std::vector<uint32_t> indices(refused.begin(), refused.end());
    for (const ParavirtualMsr& msr : paravirtual_msrs) {
        indices.push_back(msr.index);
        if (msr.old_index != 0)
            indices.push_back(msr.old_index);
    }
    return indices;
}

std::optional<Violation> Guard::kvm_write(const GuestCpu& cpu, const ParavirtualMsr& msr,
                                          uint64_t value) const {
    const auto range = written_by_kvm(msr, value);
    const auto lock = range ? m_table.find(*range) : std::nullopt;
    if (!lock)
        return std::nullopt;
    return Violation{.source = ViolationSource::kvm_write,
                     .lock = lock,
                     .address = std::max(range->start(), lock->range.start()),
                     .bytes = msr.bytes,
                     .value = value,
                     .msr = msr.index,
                     .vcpu = cpu.index()};
}

std::optional<GuardEnd> Guard::look_at_paravirtual(const GuestCpu& cpu) {
    if (!has_locks())
        return std::nullopt;
    const auto values = cpu.paravirtual_values();
    if (!values)
        return host_failure(values.error());
    ToldParavirtual& told = m_cpus[cpu.index()].told;
    for (size_t i = 0; i < paravirtual_msrs.size(); ++i) {
        const uint64_t value = values->at(i).value_or(0);
        auto violation = kvm_write(cpu, paravirtual_msrs.at(i), value);
        if (!violation) {
            told.forget(i);
            continue;
        }
        if (!told.is_new(i, value, violation->policy().value_or(LockPolicy::read_only)))
            continue;
        violation->detail = "found when the monitor looked at the vCPU";
        if (auto end = judge(*violation))
            return end;
    }
    return std::nullopt;
}

Guard::MsrWrite Guard::paravirtual_write(const GuestCpu& cpu, uint32_t index, uint64_t value) const {
    auto violation = kvm_write(cpu, *find_paravirtual_msr(index), value);
    if (!violation) // KVM takes not every value, and the guest is to see that
        return {.refused = !cpu.write_msr(index, value), .end = {}};
    violation->msr = index;
    violation->detail = "its WRMSR is refused";
    if (const auto state = cpu.state())
        violation->state = *state;
    return {.refused = true, .end = judge(*violation)};
}

} // namespace casemate
