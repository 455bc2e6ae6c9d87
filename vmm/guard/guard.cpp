// SPDX-License-Identifier: Apache-2.0
#include "guard/guard.hpp"

#include "guard/page_walk.hpp"
#include "guard/report.hpp"

#include <algorithm>
#include <cstring>
#include <fmt/core.h>
#include <tuple>
#include <utility>
#include <variant>

namespace casemate {
namespace {

// A lost race explains a fault the next time, or the time after; a real one never does.
constexpr unsigned max_retries = 32;

// Every pair of lock and policy is told once; a guest that locks RAM page by page must not fill the disk.
constexpr uint64_t max_lock_events = 4096;

constexpr uint64_t refusal(uint64_t error) {
    return ~error + 1;
}

// Overloads for std::visit.
template <typename... Handlers>
struct Match : Handlers... {
    using Handlers::operator()...;
};

} // namespace

Guard::Guard(Parts parts, Options options)
    : m_parts(std::move(parts))
    , m_options(options) {}

uint64_t Guard::hypercall(const GuestCpu& cpu, const HypercallRegisters& registers) {
    ++m_hypercalls;
    const auto call = parse_hypercall(registers);
    if (!call)
        return refusal(call.error());
    const std::lock_guard one_at_a_time(m_call_mutex);
    return std::visit(Match{[this](FeaturesCall) { return features(); },
                            [this, &cpu](const LockCall& request) { return lock(cpu, request.lock); },
                            [this](SealCall) { return seal(); }},
                      *call);
}

bool Guard::tables_enforced() {
    if (!m_tables_enforced)
        m_tables_enforced = m_parts.tables_tolerated();
    return *m_tables_enforced;
}

uint64_t Guard::features() {
    uint64_t features = CASEMATE_FEATURE_LOCKS;
    if (tables_enforced())
        features |= CASEMATE_FEATURE_TABLES_ENFORCED;
    if (m_sealed)
        features |= CASEMATE_FEATURE_SEALED;
    return features;
}

uint64_t Guard::lock(const GuestCpu& cpu, const Lock& lock) {
    if (m_sealed)
        return refusal(CASEMATE_EPERM);
    if (!m_parts.memory.is_ram(lock.range))
        return refusal(CASEMATE_EFAULT);
    if (lock.kind == LockKind::page_table && !tables_enforced())
        return refusal(CASEMATE_EOPNOTSUPP);
    const auto change = m_table.add(lock);
    if (!change)
        return refusal(change.error() == LockRefusal::lowers_policy ? CASEMATE_EPERM : CASEMATE_E2BIG);
    // The table shows the lock by now, so no new host-side write can begin. Those that asked before must land
    // before the pages become unwritable for this process too.
    m_parts.memory.drain_writes();
    if (const auto done = m_parts.protection.protect(change->newly_locked); !done) {
        m_table.undo(*change);
        m_parts.log.host(done.error().message());
        return refusal(CASEMATE_E2BIG);
    }
    if (lock.kind == LockKind::text && !m_text_locked.exchange(true))
        note_text(cpu);
    if (m_lock_events++ < max_lock_events)
        m_parts.events.write("lock", {{"gpa", hex_string(lock.range.start().value)},
                                      {"bytes", lock.range.bytes()},
                                      {"kind", std::string(name_of(lock.kind))},
                                      {"policy", std::string(name_of(lock.policy))},
                                      {"vcpu", uint64_t{cpu.index()}}});
    return 0;
}

uint64_t Guard::seal() {
    if (m_sealed.exchange(true))
        return 0;
    m_parts.events.write("sealed",
                         {{"locks", uint64_t{m_table.count()}}, {"locked_bytes", m_table.locked_bytes()}});
    return 0;
}

// While text is being locked the guest may still be believed about where its kernel lies.
void Guard::note_text(const GuestCpu& cpu) {
    if (m_parts.symbols == nullptr)
        return;
    const auto state = cpu.state();
    const auto entry = cpu.syscall_entry();
    if (!state || !entry)
        return;
    const std::lock_guard lock(m_record_mutex);
    m_symbols = loaded_symbols(*m_parts.symbols, *entry, [&](GuestLinear address) {
        const auto found = translate(m_parts.memory, state->system, address);
        return found ? std::optional(found->address) : std::nullopt;
    });
}

std::optional<GuardEnd> Guard::store_fault(const GuestCpu& cpu, Unexplained unexplained) {
    const auto state = cpu.state();
    // A failed emulation queues an exception of its own, which says nothing about this instruction.
    const auto delivering =
        unexplained == Unexplained::retry ? cpu.is_delivering_event() : Result<bool>(false);
    if (!state || !delivering)
        return GuardEnd{.reason = GuardEnd::Reason::host_failure,
                        .summary = (state ? delivering.error() : state.error()).message()};
    PerCpu& own = m_cpus[cpu.index()];
    if (!own.decoder)
        own.decoder = std::make_unique<Decoder>();

    Violation violation{.vcpu = cpu.index(), .state = *state};
    if (*delivering)
        return give_up(std::move(violation), "the frame of an exception or interrupt cannot be pushed");

    auto found = attribute_store(m_parts.memory, *state, *own.decoder,
                                 [this](const GuestRange& range) { return m_table.find(range); });
    violation.instruction = std::move(found.instruction);
    violation.code = std::move(found.code);
    if (!found.hit) {
        ++m_unexplained;
        if (unexplained == Unexplained::fail)
            return give_up(std::move(violation), "KVM cannot emulate the instruction; " + found.reason);
        const auto& registers = state->registers;
        if (own.rip != registers.rip || own.rcx != registers.rcx)
            own.retries = 0;
        own.rip = registers.rip;
        own.rcx = registers.rcx;
        if (++own.retries > max_retries)
            return give_up(std::move(violation), found.reason);
        return std::nullopt;
    }
    own.retries = 0;
    violation.lock = found.hit->lock;
    violation.address = found.hit->address;
    violation.linear = found.hit->linear;
    violation.bytes = found.hit->bytes;
    violation.value = found.hit->value;
    if (auto end = judge(violation))
        return end;
    if (const auto done = cpu.inject_general_protection(); !done)
        return GuardEnd{.reason = GuardEnd::Reason::host_failure, .summary = done.error().message()};
    return std::nullopt;
}

std::optional<GuardEnd> Guard::emulated_store(const GuestCpu& cpu, GuestPhysical address,
                                              std::span<const std::byte> data) {
    const auto range = GuestRange::from_guest(GuestValue(address.value), GuestValue(uint64_t{data.size()}));
    const auto lock = range ? m_table.find(*range) : std::nullopt;
    if (!lock) {
        // Not locked, or no longer refused: the guest gets what it asked for.
        std::ignore = m_parts.memory.write(address, data);
        return std::nullopt;
    }
    Violation violation{.source = ViolationSource::emulated_store,
                        .lock = lock,
                        .address = address,
                        .bytes = data.size(),
                        .vcpu = cpu.index()};
    uint64_t value = 0;
    std::memcpy(&value, data.data(), std::min(data.size(), sizeof(value)));
    violation.value = value;
    if (const auto state = cpu.state())
        violation.state = *state;
    return judge(violation);
}

void Guard::refused(const GuestRange& range) const {
    const auto lock = m_table.find(range);
    if (!lock)
        return;
    const Violation violation{.source = ViolationSource::host_write,
                              .lock = lock,
                              .address = std::max(range.start(), lock->range.start()),
                              .bytes = range.bytes(),
                              .detail = "a device acting for the guest"};
    if (auto end = judge(violation))
        m_parts.end(std::move(*end));
}

std::optional<GuardEnd> Guard::judge(const Violation& violation) const {
    const uint64_t number = ++m_violations;
    const bool fatal = violation.lock && violation.lock->policy == LockPolicy::die_on_write;
    const bool too_many = m_options.max_violations != 0 && number >= m_options.max_violations;
    const LoadedSymbols symbols = record(violation, fatal || too_many);
    if (fatal)
        return GuardEnd{GuardEnd::Reason::die_on_write, summary(violation, symbols),
                        report(violation, symbols)};
    if (too_many)
        return GuardEnd{
            GuardEnd::Reason::too_many_violations,
            fmt::format("{} writes to locked memory, the last: {}", number, summary(violation, symbols)),
            report(violation, symbols)};
    return std::nullopt;
}

GuardEnd Guard::give_up(Violation violation, std::string why) const {
    violation.source = ViolationSource::unattributable;
    violation.detail = std::move(why);
    const LoadedSymbols symbols = record(violation, true);
    return {GuardEnd::Reason::unattributable, summary(violation, symbols), report(violation, symbols)};
}

LoadedSymbols Guard::record(const Violation& violation, bool last) const {
    const std::lock_guard lock(m_record_mutex);
    const RateLimit::Pass pass = m_rate.take(RateLimit::Clock::now());
    if (pass.passes || last) {
        EventFields fields = event_fields(violation, m_symbols);
        if (pass.suppressed != 0)
            fields.emplace_back("suppressed", pass.suppressed);
        m_parts.events.write("violation", fields);
        // The end of the machine brings its own message.
        if (!last)
            m_parts.log.guest(m_log_site, summary(violation, m_symbols));
    }
    return m_symbols;
}

Guard::Counts Guard::counts() const {
    return {.hypercalls = m_hypercalls,
            .locks = m_table.count(),
            .locked_bytes = m_table.locked_bytes(),
            .violations = m_violations,
            .unexplained_faults = m_unexplained};
}

} // namespace casemate
