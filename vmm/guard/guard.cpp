// SPDX-License-Identifier: Apache-2.0
#include "guard/guard.hpp"

#include "base/stopwatch.hpp"
#include "guard/emulated_store.hpp"
#include "guard/event_frame.hpp"
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

// A guest that locks RAM page by page must not fill the disk.
constexpr uint64_t max_lock_events = 4096;

// Compared at a violation, which is rare or hostile: under a millisecond.
constexpr size_t tables_per_violation = 1024;
// Compared by one vCPU in a round of audits: some milliseconds. All that a guest of 7 GiB has whose direct
// map is of small pages; and with large ones, of a TiB.
constexpr size_t tables_per_look = 4096;

// Of a vCPU's thread, between two checks of its progress: more than the checks themselves take.
constexpr std::chrono::milliseconds least_stuck_time{20};

// An event that has been on its way for so many checks of a vCPU that stays where it is cannot be delivered:
// soon where a stack is locked, and for sure after some seconds.
constexpr unsigned deliveries_to_locked_stack = 5;
constexpr unsigned deliveries_at_most = 50;

constexpr const char* frame_refused = "the frame of an exception or interrupt cannot be pushed";

void take_hit(Violation& violation, const StoreHit& hit) {
    violation.lock = hit.lock;
    violation.address = hit.address;
    violation.linear = hit.linear;
    violation.bytes = hit.bytes;
    violation.value = hit.value;
}

// SDM Vol. 3A, "Determination of Access Rights", without keys and SMAP.
bool tables_permit_write(const GuestMemory& memory, const CpuState& state, GuestLinear address) {
    constexpr uint64_t cr0_wp = 1ULL << 16U;
    const auto translation = translate(memory, state.system, address);
    const bool user = state.system.ss.dpl == 3;
    return translation && (translation->writable || (!user && (state.system.cr0 & cr0_wp) == 0)) &&
           (translation->user || !user);
}

// Overloads for std::visit.
template <typename... Handlers>
struct Match : Handlers... {
    using Handlers::operator()...;
};

} // namespace

Guard::Guard(Parts parts, Options options)
    : m_parts(std::move(parts))
    , m_options(options)
    , m_roots(m_parts.memory)
    , m_golden(m_parts.memory)
    , m_auditor(options.cpus, m_parts.ending) {}

Guard::Answer Guard::hypercall(const GuestCpu& cpu, const HypercallRegisters& registers) {
    ++m_hypercalls;
    const auto call = parse_hypercall(registers);
    if (!call)
        return {.result = refusal(call.error())};
    // At each context switch of each vCPU.
    if (const auto* const check = std::get_if<RootCheckCall>(&*call))
        return root_check(cpu, *check);
    // SEAL waits for other vCPUs, one of which may be about to make a call.
    if (std::holds_alternative<SealCall>(*call))
        return {.result = seal(cpu), .end = look_at_paravirtual(cpu)};
    const std::lock_guard one_at_a_time(m_call_mutex);
    if (m_parts.ending.stop_requested())
        return {.result = refusal(CASEMATE_EPERM)};
    return std::visit(
        Match{[this](FeaturesCall) { return Answer{.result = features()}; },
              [this, &cpu](const LockCall& request) {
                  return Answer{.result = lock(cpu, request.lock), .end = look_at_paravirtual(cpu)};
              },
              [this, &cpu](const RootReferenceCall& request) { return root_reference(cpu, request.request); },
              [this, &cpu](const RootArenaCall& request) { return root_arena(cpu, request); },
              [this, &cpu](const RootClockCall& request) { return root_clock(cpu, request); },
              [this](const RootWriteCall& request) { return root_write(request); },
              [this](const RootClearCall& request) { return root_clear(request); },
              [](const auto& /*handled above*/) { return Answer{.result = refusal(CASEMATE_EPERM)}; }},
        *call);
}

uint64_t Guard::features() {
    uint64_t features = CASEMATE_FEATURE_LOCKS | CASEMATE_FEATURE_ROOT_CHECK | CASEMATE_FEATURE_ROOT_CLOCK;
    features |= m_parts.tables_tolerated ? CASEMATE_FEATURE_TABLES_ENFORCED | CASEMATE_FEATURE_ROOT_ARENA
                                         : CASEMATE_FEATURE_TABLES_VERIFIED;
    if (m_sealed)
        features |= CASEMATE_FEATURE_SEALED;
    return features;
}

std::expected<LockTable::Change, uint32_t> Guard::take_lock(const Lock& lock) {
    auto change = m_table.add(lock);
    if (!change)
        return std::unexpected(change.error() == LockRefusal::lowers_policy ? CASEMATE_EPERM
                                                                            : CASEMATE_E2BIG);
    // The table shows the lock by now, so no new host-side write can begin. Those that asked before must land
    // before the pages become unwritable for this process too.
    if (!m_parts.memory.drain_writes(m_parts.ending)) {
        m_table.undo(*change); // the machine is ending
        return std::unexpected(CASEMATE_EPERM);
    }
    return *std::move(change);
}

uint64_t Guard::lock(const GuestCpu& cpu, const Lock& lock) {
    if (m_sealed)
        return refusal(CASEMATE_EPERM);
    if (!m_parts.memory.is_ram(lock.range))
        return refusal(CASEMATE_EFAULT);
    const bool verified = lock.kind == LockKind::page_table && !m_parts.tables_tolerated;
    // It would stay as it is, which is less than such a lock promises.
    if (!verified && m_golden.overlaps(lock.range))
        return refusal(CASEMATE_EPERM);
    const auto change = take_lock(lock);
    if (!change)
        return refusal(change.error());
    if (verified) {
        if (!m_golden.add(change->newly_locked)) {
            m_table.undo(*change);
            return refusal(CASEMATE_E2BIG);
        }
    } else if (const auto done = m_parts.protection.protect(change->newly_locked); !done) {
        m_table.undo(*change);
        m_parts.log.guest(m_protect_site, done.error().message());
        return refusal(CASEMATE_E2BIG);
    } else {
        note_protected();
    }
    if (lock.kind == LockKind::text && !m_text_locked.exchange(true))
        note_text(cpu);
    if (change->sequence != 0)
        write_lock_event(cpu, lock);
    return 0;
}

void Guard::note_protected() {
    if (!std::exchange(m_pages_protected, true))
        m_parts.pages_protected();
}

void Guard::write_lock_event(const GuestCpu& cpu, const Lock& lock) {
    if (++m_lock_changes <= max_lock_events)
        m_parts.events.write("lock", {{"gpa", hex_string(lock.range.start().value)},
                                      {"bytes", lock.range.bytes()},
                                      {"kind", std::string(name_of(lock.kind))},
                                      {"policy", std::string(name_of(lock.policy))},
                                      {"vcpu", uint64_t{cpu.index()}}});
}

// Every vCPU is pinned when this returns, so that none has time to change what is then taken for good.
uint64_t Guard::seal(const GuestCpu& cpu) {
    const bool first = [this] {
        const std::lock_guard no_other_call(m_call_mutex);
        return !m_sealed.exchange(true);
    }();
    bool intercepted = false;
    if (first) {
        // Before the pins: what a vCPU writes until the filter holds for it is still pinned as it then is.
        const auto done = m_parts.intercept_msr_writes();
        intercepted = done.has_value();
        if (!done)
            m_parts.log.host(done.error().message());
        m_auditor.begin();
    } else if (!m_auditor.wait_to_begin()) {
        return refusal(CASEMATE_EPERM);
    }
    // Two vCPUs that call at once wait for each other, so each pins itself first.
    if (const auto done = pin(cpu); !done) {
        m_parts.end(host_failure(done.error()));
        return refusal(CASEMATE_EPERM);
    }
    if (first)
        m_parts.ask_others_to_look(cpu.index());
    if (!m_auditor.wait_for_pins())
        return refusal(CASEMATE_EPERM); // the machine is ending
    if (!first)
        return 0;
    m_parts.sealed();
    m_parts.events.write("sealed", {{"locks", uint64_t{m_table.count()}},
                                    {"locked_bytes", m_table.locked_bytes()},
                                    {"lock_changes", m_lock_changes},
                                    {"msr_writes_refused", intercepted}});
    return 0;
}

Result<void> Guard::pin(const GuestCpu& cpu) {
    if (m_auditor.is_pinned(cpu.index()))
        return {};
    const AuditedState state = TRY(cpu.audited_state());
    const bool waits = TRY(cpu.waits_for_start());
    if (!waits)
        pin_translations(cpu, state);
    m_auditor.pin(cpu.index(), waits ? std::nullopt : std::optional(state));
    return {};
}

std::optional<GuardEnd> Guard::look(const GuestCpu& cpu) {
    if (!m_auditor.has_begun())
        return std::nullopt;
    if (!m_auditor.is_pinned(cpu.index())) {
        if (const auto done = pin(cpu); !done)
            return host_failure(done.error());
        return look_at_paravirtual(cpu);
    }
    auto end = audit(cpu);
    if (!end)
        end = look_at_paravirtual(cpu);
    if (const size_t tables = end ? 0 : take_tables(); tables != 0)
        end = verify_tables(cpu.index(), tables);
    if (const auto due = m_cpus[cpu.index()].look_due.exchange({}); due.time_since_epoch().count() != 0)
        note_look(due);
    return end;
}

void Guard::start_audit_round(std::chrono::steady_clock::time_point due) {
    m_tables_due = m_golden.pages();
    for (PerCpu& cpu : std::span(m_cpus).first(m_options.cpus)) {
        std::chrono::steady_clock::time_point before{};
        if (!cpu.look_due.compare_exchange_strong(before, due))
            note_look(before);
    }
}

void Guard::note_look(std::chrono::steady_clock::time_point due) {
    const auto late = std::chrono::nanoseconds(std::chrono::steady_clock::now() - due).count();
    const auto nanoseconds = static_cast<uint64_t>(std::max(late, decltype(late){0}));
    for (uint64_t latest = m_latest_look_nanoseconds; latest < nanoseconds;)
        if (m_latest_look_nanoseconds.compare_exchange_weak(latest, nanoseconds))
            break;
}

size_t Guard::take_tables() {
    for (size_t due = m_tables_due; due != 0;) {
        const size_t taken = std::min(due, tables_per_look);
        if (m_tables_due.compare_exchange_weak(due, due - taken))
            return taken;
    }
    return 0;
}

std::optional<GuardEnd> Guard::audit(const GuestCpu& cpu) {
    ++m_audits;
    const Stopwatch time(m_audit_nanoseconds);
    const auto state = cpu.audited_state();
    if (!state)
        return host_failure(state.error());
    const auto difference = m_auditor.audit(cpu.index(), *state, cpu.run_time(),
                                            [&] { return !runs_kernel(cpu, state->system); });
    std::optional<RootMismatch> mismatch;
    if (!difference && !m_auditor.is_restarting(cpu.index()))
        mismatch = m_roots.check(state->system.cr3, PagingMode::of(state->system));
    RootNotice& notice = m_cpus[cpu.index()].notice;
    if (!mismatch)
        notice = RootNotice::none;
    else if (notice == RootNotice::told) {
        notice = RootNotice::spared;
        mismatch.reset();
    }
    if (!difference && !mismatch) {
        const bool own_root = notice == RootNotice::none && !m_auditor.is_restarting(cpu.index());
        return own_root ? audit_translations(cpu, state->system) : std::nullopt;
    }
    // INIT resets registers, and Linux parks other CPUs with it before a reboot.
    const auto waits = cpu.waits_for_start();
    if (!waits)
        return host_failure(waits.error());
    if (*waits)
        return std::nullopt;
    return difference ? report_difference(cpu, *difference) : report_root(cpu, *mismatch);
}

bool Guard::runs_kernel(const GuestCpu& cpu, const kvm_sregs& system) const {
    if (m_roots.check(system.cr3, PagingMode::of(system)))
        return false;
    if (!m_text_locked)
        return true;
    const auto state = cpu.state();
    if (!state || state->system.ss.dpl != 0)
        return false;
    const auto code = lock_behind(*state, instruction_address(*state));
    return code && code->first.kind == LockKind::text;
}

// Whatever the policy: what such a root maps can no longer be refused.
GuardEnd Guard::report_root(const GuestCpu& cpu, const RootMismatch& mismatch) const {
    const Violation violation = root_violation(cpu, mismatch, "found by an audit");
    ++m_violations;
    const LoadedSymbols symbols = record(violation, true);
    return {GuardEnd::Reason::root_mismatch, summary(violation, symbols), report(violation, symbols)};
}

template <typename Difference>
GuardEnd Guard::report_difference(const GuestCpu& cpu, Difference difference) const {
    if (auto state = cpu.state())
        difference.state = *state;
    const std::lock_guard lock(m_record_mutex);
    m_parts.events.write("audit", event_fields(difference, m_symbols));
    return {GuardEnd::Reason::audit_mismatch, summary(difference, m_symbols), report(difference, m_symbols)};
}
template GuardEnd Guard::report_difference(const GuestCpu& cpu, AuditDifference difference) const;
template GuardEnd Guard::report_difference(const GuestCpu& cpu, TranslationDifference difference) const;

Guard::MsrWrite Guard::msr_write(const GuestCpu& cpu, uint32_t index, uint64_t value) {
    if (find_paravirtual_msr(index) != nullptr)
        return paravirtual_write(cpu, index, value);
    const auto state = cpu.state();
    const bool granted =
        state && (index == apic_base_msr
                      ? may_write_apic_base(state->system.apic_base, value)
                      : m_auditor.grants(cpu.index(), index, value, state->system.efer, cpu.run_time()));
    if (granted) {
        if (const auto done = cpu.write_msr(index, value); !done)
            return {.end = host_failure(done.error())};
        // The last that Linux writes makes a CPU that starts again as it was.
        if (m_auditor.is_restarting(cpu.index()))
            if (const auto now = cpu.audited_state())
                m_auditor.settle(cpu.index(), *now, cpu.run_time());
        return {.refused = false};
    }
    if (index == apic_base_msr && !has_locks())
        return {};
    Violation violation{
        .source = ViolationSource::msr_write, .value = value, .msr = index, .vcpu = cpu.index()};
    if (state)
        violation.state = *state;
    return {.end = judge(violation)};
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
    if (m_symbols.symbols == nullptr)
        m_parts.log.guest(m_symbols_site,
                          "the symbols given are not this kernel's, so reports go without names: "
                          "pass the System.map or vmlinux of its very build");
}

std::optional<GuardEnd> Guard::store_fault(const GuestCpu& cpu, Unexplained unexplained,
                                           const std::optional<DeniedWrite>& denied) {
    const auto state = cpu.state();
    // A failed emulation queues an exception of its own, which says nothing about this instruction.
    const auto delivering =
        unexplained == Unexplained::retry ? cpu.is_delivering_event() : Result<bool>(false);
    if (!state || !delivering)
        return host_failure(state ? delivering.error() : state.error());
    PerCpu& own = m_cpus[cpu.index()];

    Violation violation{.vcpu = cpu.index(), .state = *state};
    if (denied) {
        violation.lock = m_table.find(GuestRange::of(denied->address, 1));
        violation.address = denied->address;
        if (violation.lock && denied->is_page_walk)
            return give_up(std::move(violation), "the CPU's walk of the guest's page tables writes to it");
    }
    if (*delivering)
        return give_up(std::move(violation), frame_refused);

    auto found = attribute(cpu, *state);
    violation.instruction = std::move(found.instruction);
    violation.code = std::move(found.code);
    // The decoder finds the same store and more of it, unless another vCPU changes the instruction meanwhile.
    const bool told = denied && violation.lock &&
                      !(found.hit && (found.hit->address == denied->address ||
                                      found.hit->lock.policy > violation.lock->policy));
    if (!found.hit && !told) {
        ++m_unexplained;
        if (unexplained == Unexplained::fail)
            return give_up(std::move(violation), "KVM cannot emulate the instruction; " + found.reason);
        const PerCpu::Place place{.rip = state->registers.rip, .rcx = state->registers.rcx};
        if (std::exchange(own.fault_place, place) != place)
            own.retries = 0;
        if (++own.retries > max_retries)
            return give_up(std::move(violation), found.reason);
        violation.source = ViolationSource::unattributable;
        violation.detail = found.reason + "; tried again";
        return judge(violation);
    }
    own.retries = 0;
    if (!told)
        take_hit(violation, *found.hit);
    return refuse(cpu, violation);
}

std::optional<GuardEnd> Guard::refuse(const GuestCpu& cpu, const Violation& violation) {
    if (auto end = judge(violation))
        return end;
    if (auto end = verify_tables(cpu.index(), tables_per_violation))
        return end;
    if (const auto done = cpu.inject_general_protection(); !done)
        return host_failure(done.error());
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
    const auto state = cpu.state();
    const auto delivering = cpu.is_delivering_event();
    if (state)
        violation.state = *state;
    auto origin = state && delivering && !*delivering
                      ? find_store_origin(m_parts.memory, *state, decoder_of(cpu), address, data)
                      : std::nullopt;
    if (state && origin) {
        if (const auto done = cpu.set_instruction_pointer(origin->rip); !done)
            return host_failure(done.error());
        violation.source = ViolationSource::store;
        violation.state = *state;
        violation.state->registers.rip = origin->rip;
        violation.linear = origin->linear;
        violation.instruction = std::move(origin->instruction);
        violation.code = std::move(origin->code);
        // KVM forgets an exception whose frame it cannot push, and emulates the instruction once more.
        PerCpu& own = m_cpus[cpu.index()];
        const PerCpu::Place place{.rip = origin->rip, .rcx = state->registers.rcx};
        own.refusals = std::exchange(own.refused_place, place) == place ? own.refusals + 1 : 0;
        if (own.refusals > max_retries && locked_frame(*state))
            return give_up(std::move(violation), frame_refused);
        return refuse(cpu, violation);
    }
    if (auto end = judge(violation))
        return end;
    return verify_tables(cpu.index(), tables_per_violation);
}

Decoder& Guard::decoder_of(const GuestCpu& cpu) {
    std::unique_ptr<Decoder>& decoder = m_cpus[cpu.index()].decoder;
    if (!decoder)
        decoder = std::make_unique<Decoder>();
    return *decoder;
}

Attribution Guard::attribute(const GuestCpu& cpu, const CpuState& state) {
    return attribute_store(m_parts.memory, state, decoder_of(cpu),
                           [this](const GuestRange& range) { return m_table.find(range); });
}

std::optional<std::pair<Lock, GuestPhysical>> Guard::lock_behind(const CpuState& state,
                                                                 GuestLinear address) const {
    const auto translation = translate(m_parts.memory, state.system, address);
    const auto lock = translation ? m_table.find(GuestRange::of(translation->address, 1)) : std::nullopt;
    return lock ? std::optional(std::pair(*lock, translation->address)) : std::nullopt;
}

std::optional<std::pair<Lock, GuestPhysical>> Guard::locked_descriptors(const CpuState& state) const {
    const kvm_dtable& table = state.system.gdt;
    for (uint64_t offset = 0; offset <= table.limit;
         offset += page_bytes - (table.base + offset) % page_bytes)
        if (const auto found = lock_behind(state, {table.base + offset}))
            return found;
    return std::nullopt;
}

std::optional<std::pair<Lock, GuestPhysical>> Guard::locked_frame(const CpuState& state) const {
    for (const GuestLinear& word : event_frame_words(m_parts.memory, state))
        if (const auto found = lock_behind(state, word))
            return found;
    return std::nullopt;
}

std::optional<GuardEnd> Guard::check_progress(const GuestCpu& cpu) {
    const auto state = cpu.state();
    if (!state)
        return host_failure(state.error());
    const PerCpu::Place place{.rip = state->registers.rip, .rcx = state->registers.rcx};
    std::optional<PerCpu::Progress>& last = m_cpus[cpu.index()].progress;
    const auto run_time = cpu.run_time();
    const bool same = last && last->place == place;
    const bool stuck = same && run_time - last->run_time >= least_stuck_time;
    const auto delivering = cpu.is_delivering_event();
    if (!delivering)
        return host_failure(delivering.error());
    if (!same || stuck)
        last = {.place = place,
                .run_time = run_time,
                .deliveries = stuck && *delivering ? last->deliveries + 1 : 0};
    if (!stuck)
        return std::nullopt;
    // #GP cannot go beside it; a vCPU that is stuck still is at the next call.
    if (*delivering) {
        if (last->deliveries < deliveries_to_locked_stack)
            return std::nullopt;
        const auto frame = locked_frame(*state);
        if (!frame && last->deliveries < deliveries_at_most)
            return std::nullopt;
        Violation violation{.vcpu = cpu.index(), .state = *state};
        if (frame)
            std::tie(violation.lock, violation.address) = *frame;
        return give_up(std::move(violation), frame_refused);
    }
    auto found = attribute(cpu, *state);
    Violation violation{.vcpu = cpu.index(), .state = *state};
    violation.instruction = std::move(found.instruction);
    violation.code = std::move(found.code);
    if (!found.hit && found.marks_descriptor)
        if (const auto descriptors = locked_descriptors(*state)) {
            std::tie(violation.lock, violation.address) = *descriptors;
            return give_up(std::move(violation), "a descriptor in a locked table cannot be marked as in use");
        }
    // Where the guest's own tables refuse the store it is the guest's fault handler that comes back to it.
    if (!found.hit || !tables_permit_write(m_parts.memory, *state, found.hit->linear))
        return std::nullopt;
    violation.detail = "KVM went over it again and again, without an exit";
    take_hit(violation, *found.hit);
    return refuse(cpu, violation);
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
    const bool fatal = violation.policy() == LockPolicy::die_on_write;
    const bool too_many = m_options.max_violations != 0 && number >= m_options.max_violations;
    const LoadedSymbols symbols = record(violation, fatal || too_many);
    if (fatal)
        return GuardEnd{violation.root ? GuardEnd::Reason::root_mismatch : GuardEnd::Reason::die_on_write,
                        summary(violation, symbols), report(violation, symbols)};
    if (too_many)
        return GuardEnd{GuardEnd::Reason::too_many_violations,
                        fmt::format("{} violations, the last: {}", number, summary(violation, symbols)),
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
            .unexplained_faults = m_unexplained,
            .root_checks = m_root_checks,
            .verified_tables = m_golden.pages(),
            .audits = m_audits,
            .restarts = m_auditor.restarts(),
            .restart_microseconds =
                static_cast<uint64_t>(m_auditor.time_in_restarts() / std::chrono::microseconds(1)),
            .audit_microseconds = m_audit_nanoseconds / 1000,
            .audit_latest_microseconds = m_latest_look_nanoseconds / 1000,
            .verifications = m_verifications,
            .verification_microseconds = m_verification_nanoseconds / 1000,
            .root_writes = m_root_writes,
            .root_clears = m_root_clears,
            .shadow_drops = m_shadow_drops};
}

} // namespace casemate
