// SPDX-License-Identifier: Apache-2.0
// The part of the guard that looks past a vCPU's registers: at where they lead.
#include "guard/guard.hpp"

#include <utility>

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
    return report_difference(cpu, std::move(*difference));
}

} // namespace casemate
