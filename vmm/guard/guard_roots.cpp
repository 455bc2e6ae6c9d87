// SPDX-License-Identifier: Apache-2.0
// The half of the guard that is about page-table roots: the calls that define, check and write them, and the
// tables under verification.
#include "base/stopwatch.hpp"
#include "guard/guard.hpp"

#include <fmt/core.h>
#include <utility>

namespace casemate {
namespace {

// Compared at a root check: all that most guests have (a dozen, and one for each GiB of RAM), at some 10 us.
constexpr size_t tables_per_check = 64;

// Compared when a root is wrong: the reference, which the guest then loads, may be one of them.
constexpr size_t tables_per_mismatch = 1024;

} // namespace

Guard::Answer Guard::root_reference(const GuestCpu& cpu, const RootRequest& request) {
    if (m_sealed)
        return {.result = refusal(CASEMATE_EPERM)};
    const auto system = cpu.system_registers();
    if (!system)
        return {.result = refusal(CASEMATE_EINVAL), .end = host_failure(system.error())};
    const bool first = !m_roots.has_reference();
    const LockPolicy policy = m_roots.policy();
    // In the table is what is protected, and what is under verification.
    const auto done = m_roots.reference(
        request, PagingMode::of(*system), m_table.locks(),
        [this](GuestPhysical page) { return !m_table.may_write(GuestRange::of(page, page_bytes)); },
        m_parts.ending);
    if (!done) {
        const RootRefusal& why = done.error();
        m_parts.log.guest(m_reference_site,
                          fmt::format("the guest's reference for page-table roots, {}, is refused: {}{}",
                                      to_string(request.root), words(why.reason),
                                      why.table ? fmt::format(", {} of level {}", to_string(why.table->page),
                                                              why.table->level)
                                                : ""));
        return {.result = refusal(error_of(why.reason))};
    }
    if (first || policy != request.policy)
        m_parts.events.write("root_reference", {{"gpa", hex_string(request.root.value)},
                                                {"first_slot", request.first_slot},
                                                {"pair", request.pair},
                                                {"policy", std::string(name_of(request.policy))},
                                                {"tables", m_roots.extent().tables},
                                                {"required_tables", m_roots.extent().required},
                                                {"walked", m_roots.extent().work},
                                                {"verified_tables", uint64_t{m_golden.pages()}},
                                                {"vcpu", uint64_t{cpu.index()}}});
    return {};
}

Guard::Answer Guard::root_check(const GuestCpu& cpu, const RootCheckCall& call) {
    ++m_root_checks;
    if (!m_roots.has_reference())
        return {.result = refusal(CASEMATE_EINVAL)};
    const auto system = cpu.system_registers();
    if (!system)
        return {.result = refusal(CASEMATE_EPERM), .end = host_failure(system.error())};
    const auto loaded = m_roots.check(system->cr3, PagingMode::of(*system));
    const bool names_another = call.next && *call.next != root_of_cr3(system->cr3);
    const auto next = names_another ? m_roots.check_page(*call.next) : std::nullopt;
    Answer answer;
    if (loaded) {
        RootNotice& notice = m_cpus[cpu.index()].notice;
        notice = notice == RootNotice::spared ? notice : RootNotice::told;
        answer.end = judge(root_violation(cpu, *loaded, ""));
    }
    if (!answer.end && next)
        answer.end = judge(root_violation(cpu, *next, "about to be loaded"));
    // A wrong root is no reason against leaving it.
    if (names_another ? next.has_value() : loaded.has_value())
        answer.result = refusal(CASEMATE_EPERM);
    if (!answer.end)
        answer.end = verify_tables(cpu.index(), loaded || next ? tables_per_mismatch : tables_per_check);
    if (const RootClock* const clock = m_root_clock.load(std::memory_order_acquire)) {
        const auto now = cpu.time_stamp();
        if (!now)
            return {.result = refusal(CASEMATE_EPERM), .end = host_failure(now.error())};
        clock->set(cpu.index(), *now);
    }
    return answer;
}

Violation Guard::root_violation(const GuestCpu& cpu, const RootMismatch& mismatch, std::string detail) const {
    Violation violation{.source = ViolationSource::root,
                        .root = RootViolation{.mismatch = mismatch, .policy = m_roots.policy()},
                        .vcpu = cpu.index(),
                        .detail = std::move(detail)};
    if (const auto state = cpu.state())
        violation.state = *state;
    return violation;
}

std::optional<GuardEnd> Guard::verify_tables(std::optional<uint32_t> finder, size_t pages) {
    if (m_golden.pages() == 0)
        return std::nullopt;
    ++m_verifications;
    const Stopwatch time(m_verification_nanoseconds);
    for (const TableDifference& difference : m_golden.compare(pages)) {
        const auto lock = m_table.find(GuestRange::of(difference.page, page_bytes));
        const bool repairs = !lock || lock->policy == LockPolicy::read_only;
        // Another vCPU may have found it too.
        if (repairs && m_golden.repair(difference.page) == 0)
            continue;
        const Violation violation{.source = ViolationSource::changed_table,
                                  .lock = lock,
                                  .address = difference.entry(),
                                  .bytes = sizeof(difference.found),
                                  .value = difference.found,
                                  .expected = difference.expected,
                                  .vcpu = finder,
                                  .detail = fmt::format("{} of the table's entries differ{}",
                                                        difference.entries, repairs ? ", written back" : "")};
        if (auto end = judge(violation))
            return end;
    }
    return std::nullopt;
}

// The positive CASEMATE_E*, if the call is not one for now.
std::optional<uint32_t> Guard::refuse_arena(const RootArenaCall& call) {
    if (m_sealed || m_arena)
        return CASEMATE_EPERM;
    if (!m_roots.has_reference())
        return CASEMATE_EINVAL;
    const GuestRange reference = m_roots.reference_pages();
    const uint64_t root_bytes = reference.bytes();
    if (!is_aligned(call.pages.start().value, root_bytes) || !is_aligned(call.pages.bytes(), root_bytes))
        return CASEMATE_EINVAL;
    if (call.pages.bytes() / page_bytes > CASEMATE_ARENA_MAX_PAGES)
        return CASEMATE_E2BIG;
    if (!m_parts.memory.is_ram(call.pages))
        return CASEMATE_EFAULT;
    if (!m_table.may_write(call.pages) || call.pages.overlaps(reference))
        return CASEMATE_EPERM;
    if (!m_parts.tables_tolerated)
        return CASEMATE_EOPNOTSUPP;
    for (uint64_t page = reference.start().value; page < reference.end(); page += page_bytes) {
        const auto lock = m_table.find(GuestRange::of({page}, page_bytes));
        if (!lock || lock->kind != LockKind::page_table)
            return CASEMATE_EOPNOTSUPP;
    }
    // It could be changed until it was locked.
    if (m_roots.check_page(reference.start()))
        return CASEMATE_EOPNOTSUPP;
    return std::nullopt;
}

Guard::Answer Guard::root_arena(const GuestCpu& cpu, const RootArenaCall& call) {
    if (const auto error = refuse_arena(call))
        return {.result = refusal(*error)};
    const Lock lock{.range = call.pages, .policy = call.policy, .kind = LockKind::page_table};
    const auto change = take_lock(lock);
    if (!change)
        return {.result = refusal(change.error())};
    const RootContents contents = m_roots.contents();
    const bool shadows = m_parts.shadows_tables();
    auto arena = RootArena::create(call.pages, contents, m_parts.protection,
                                   shadows ? m_parts.drop_shadow_pages : nullptr, m_parts.ending);
    if (!arena) {
        m_table.undo(*change);
        m_parts.log.guest(m_arena_site, arena.error().message());
        return {.result = refusal(CASEMATE_E2BIG)};
    }
    m_arena = std::move(*arena);
    note_protected();
    m_roots.use_arena(call.pages);
    write_lock_event(cpu, lock);
    m_parts.events.write("root_arena", {{"gpa", hex_string(call.pages.start().value)},
                                        {"bytes", call.pages.bytes()},
                                        {"roots", m_arena->roots()},
                                        {"pair", contents.pair},
                                        {"policy", std::string(name_of(call.policy))},
                                        {"shadow_paging", shadows},
                                        {"vcpu", uint64_t{cpu.index()}}});
    return answer(m_arena->drop_shadow_pages());
}

Guard::Answer Guard::root_clock(const GuestCpu& cpu, const RootClockCall& call) {
    if (m_sealed || m_owned_root_clock)
        return {.result = refusal(CASEMATE_EPERM)};
    if (!m_roots.has_reference())
        return {.result = refusal(CASEMATE_EINVAL)};
    if (!m_parts.memory.is_ram(call.page))
        return {.result = refusal(CASEMATE_EFAULT)};
    if (!m_table.may_write(call.page))
        return {.result = refusal(CASEMATE_EPERM)};
    const Lock lock{.range = call.page, .policy = call.policy, .kind = LockKind::data};
    const auto change = take_lock(lock);
    if (!change)
        return {.result = refusal(change.error())};
    auto clock = RootClock::create(call.page, call.interval, m_parts.protection);
    if (!clock) {
        m_table.undo(*change);
        m_parts.log.guest(m_clock_site, clock.error().message());
        return {.result = refusal(CASEMATE_E2BIG)};
    }
    m_owned_root_clock = std::move(*clock);
    m_root_clock.store(m_owned_root_clock.get(), std::memory_order_release);
    note_protected();
    write_lock_event(cpu, lock);
    m_parts.events.write("root_clock", {{"gpa", hex_string(call.page.start().value)},
                                        {"interval_cycles", call.interval},
                                        {"policy", std::string(name_of(call.policy))},
                                        {"vcpu", uint64_t{cpu.index()}}});
    return {};
}

Guard::Answer Guard::answer(const RootArena::Done& done) {
    m_shadow_drops = m_arena->shadow_drops();
    if (done)
        return {};
    Answer answer{.result = refusal(error_of(done.error().reason))};
    if (const auto& error = done.error().error)
        answer.end = host_failure(*error);
    return answer;
}

Guard::Answer Guard::root_write(const RootWriteCall& call) {
    ++m_root_writes;
    if (!m_arena)
        return {.result = refusal(CASEMATE_EINVAL)};
    if (!call.table)
        return answer(m_arena->take_out(call.root, call.slot));
    if (!m_parts.memory.is_ram(*call.table))
        return {.result = refusal(CASEMATE_EFAULT)};
    if (!m_table.may_write(*call.table))
        return {.result = refusal(CASEMATE_EPERM)};
    return answer(m_arena->link(call.root, call.slot, call.table->start()));
}

Guard::Answer Guard::root_clear(const RootClearCall& call) {
    ++m_root_clears;
    if (!m_arena)
        return {.result = refusal(CASEMATE_EINVAL)};
    return answer(m_arena->clear(call.root));
}

} // namespace casemate
