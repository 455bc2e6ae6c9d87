// SPDX-License-Identifier: Apache-2.0
// Guard: a machine's locks and roots. Takes the guest's hypercalls, has pages protected or verified, judges
// who writes to them.
#pragma once

#include "base/error.hpp"
#include "base/event_log.hpp"
#include "base/log.hpp"
#include "guard/attribution.hpp"
#include "guard/audit.hpp"
#include "guard/golden_tables.hpp"
#include "guard/guest_cpu.hpp"
#include "guard/hypercall.hpp"
#include "guard/lock_table.hpp"
#include "guard/paravirtual.hpp"
#include "guard/pinned_translation.hpp"
#include "guard/protection.hpp"
#include "guard/root_arena.hpp"
#include "guard/root_clock.hpp"
#include "guard/roots.hpp"
#include "guard/symbols.hpp"
#include "guard/violation.hpp"
#include "memory/guest_memory.hpp"
#include "memory/layout.hpp"

#include <array>
#include <atomic>
#include <chrono>
#include <expected>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <stop_token>
#include <string>
#include <utility>
#include <vector>

namespace casemate {

// Why the guard wants the machine ended.
struct GuardEnd {
    enum class Reason {
        die_on_write,  // a store to a lock of that policy, or a verified table of that policy changed
        root_mismatch, // a vCPU's page-table root is not the kernel's, and the reference's policy says so
        too_many_violations, // Guard::Options::max_violations
        unattributable,      // a protection fault that nothing explains, and that would come again for ever
        audit_mismatch,      // a vCPU's registers, or where they lead, are not as they were at SEAL
        host_failure,        // KVM refused what the guard needs
    };
    Reason reason = Reason::host_failure;
    std::string summary; // one line
    std::string report;  // of several lines; may be empty
};
inline GuardEnd host_failure(const Error& error) {
    return {.reason = GuardEnd::Reason::host_failure, .summary = error.message(), .report = {}};
}

// What Parts::intercept_msr_writes() is about.
std::vector<uint32_t> intercepted_msrs();

class Guard final : public WriteGate {
public:
    struct Options {
        uint64_t max_violations = 0; // the one of this number ends the machine; 0: no limit
        uint32_t cpus = 1;
    };
    // What the guard uses; all outlive it.
    struct Parts {
        const GuestMemory& memory;
        Protection& protection;
        const Log& log;
        EventLog& events;
        const Symbols* symbols; // null: addresses have no names
        bool tables_tolerated;  // the host's page-table walker can do with locked tables
        // Whether KVM keeps shadows of the guest's page tables; asked once, on a vCPU's thread.
        std::function<bool()> shadows_tables = [] { return false; };
        // See RootArena; on a vCPU's thread.
        std::function<Result<void>()> drop_shadow_pages = [] { return Result<void>(); };
        // Ends the machine for what was found on a thread that is no vCPU's. Any thread.
        std::function<void(GuardEnd)> end;
        // Has KVM hand the guest's writes to intercepted_msrs() to msr_write(); on a vCPU's thread, once.
        std::function<Result<void>()> intercept_msr_writes = [] { return Result<void>(); };
        // Has the threads of all vCPUs but this one call look() soon, and does not wait for them.
        std::function<void(uint32_t)> ask_others_to_look = [](uint32_t) {};
        // The protection has its first pages.
        std::function<void()> pages_protected = [] {};
        // All vCPUs are pinned: from here on look() compares.
        std::function<void()> sealed = [] {};
        // The machine ends: calls that wait or walk, or are still to begin, fail at once.
        std::stop_token ending;
    };
    Guard(Parts parts, Options options);

    struct Answer {
        uint64_t result = 0; // for rax
        std::optional<GuardEnd> end;
    };
    // KVM_EXIT_HYPERCALL of number CASEMATE_HYPERCALL. LOCK waits for transfers under way, and other calls
    // for it, but for ROOT_CHECK: that waits only while tables are being copied. Each does a bounded amount
    // of work, and ends early when the machine does.
    Answer hypercall(const GuestCpu& cpu, const HypercallRegisters& registers);

    // Compares up to `pages` of the tables under verification, by turns, and repairs or ends the machine by
    // the policy of their lock. `finder`: the vCPU on whose thread this is, if any.
    // Any thread.
    std::optional<GuardEnd> verify_tables(std::optional<uint32_t> finder, size_t pages = ~size_t{0});

    // What to do about a fault that no store explains: another vCPU may have changed the instruction or its
    // tables meanwhile, so it is tried again a few times; or there is no second try.
    enum class Unexplained { retry, fail };
    // KVM_RUN failed with EFAULT, or KVM could not emulate an instruction: RIP is at it, nothing is stored.
    // `denied`: where, if KVM says so. Empty: run on; #GP(0) has been injected when a store was refused.
    std::optional<GuardEnd> store_fault(const GuestCpu& cpu, Unexplained unexplained,
                                        const std::optional<DeniedWrite>& denied = std::nullopt);
    // KVM_EXIT_MMIO of a store to RAM: KVM emulated it and something refused it; RIP is past it. Dropped and
    // judged when it hits a lock, made now when not. At most 8 bytes. Where it is sure which instruction it
    // was (emulated_store.hpp) RIP has been set back to it and #GP(0) injected, as after store_fault().
    std::optional<GuardEnd> emulated_store(const GuestCpu& cpu, GuestPhysical address,
                                           std::span<const std::byte> data);

    // Whether KVM keeps this vCPU from going on: at the same instruction in two calls in a row, while its
    // thread ran all the time, and that instruction stores to a lock. Then it is judged as in store_fault().
    // What merely spins stays alone. Called now and then once Parts::pages_protected was.
    std::optional<GuardEnd> check_progress(const GuestCpu& cpu);

    struct MsrWrite {
        bool refused = true; // the instruction has to raise #GP(0)
        std::optional<GuardEnd> end;
    };
    // KVM_EXIT_X86_WRMSR of one of intercepted_msrs(). Of refused_msrs(): made when it writes what is pinned,
    // as a CPU that starts again does, or the mode of an APIC that stays where it is. Of paravirtual_msrs:
    // made unless it has KVM write to a lock. Else refused, and recorded once there are locks.
    MsrWrite msr_write(const GuestCpu& cpu, uint32_t index, uint64_t value);

    // Looks at the registers of the vCPU whose thread calls: pins them when SEAL wants that, compares them
    // with their pins afterwards, and CR3 with the roots there are; and where KVM is to write for it. Those
    // after start_audit_round() also compare all tables under verification; the first alone, unless there are
    // thousands.
    std::optional<GuardEnd> look(const GuestCpu& cpu);
    // Before all vCPUs are asked to look, which they should have been at `due`. From one thread at a time.
    void start_audit_round(std::chrono::steady_clock::time_point due = std::chrono::steady_clock::now());

    // Any thread.
    bool has_locks() const { return m_table.count() != 0; }
    // Whether the guest has locked text, and sealed.
    bool has_taken_locks() const { return m_sealed && m_text_locked; }

    struct Counts {
        uint64_t hypercalls = 0;
        uint64_t locks = 0; // ranges in the table
        uint64_t locked_bytes = 0;
        uint64_t violations = 0;
        uint64_t unexplained_faults = 0; // gone over again, or ended the machine
        uint64_t root_checks = 0;
        uint64_t verified_tables = 0;           // pages
        uint64_t audits = 0;                    // looks at one vCPU's registers
        uint64_t restarts = 0;                  // of vCPUs after SEAL
        uint64_t restart_microseconds = 0;      // that they ran until they were as pinned
        uint64_t audit_microseconds = 0;        // that they took, without the way out of the guest and back
        uint64_t audit_latest_microseconds = 0; // the most that one came after its round was due
        uint64_t verifications = 0;             // comparisons of some or all tables under verification
        uint64_t verification_microseconds = 0;
        uint64_t root_writes = 0;
        uint64_t root_clears = 0;
        uint64_t shadow_drops = 0; // of KVM's shadow pages
    };
    Counts counts() const;

    // WriteGate.
    bool may_write(const GuestRange& range) const override { return m_table.may_write(range); }
    void refused(const GuestRange& range) const override;

private:
    uint64_t features();
    uint64_t lock(const GuestCpu& cpu, const Lock& lock);
    // Takes a range of RAM into the table so that no host-side write to it begins or is under way: the caller
    // has it protected next, or undone. Or the positive CASEMATE_E*, and nothing has changed.
    std::expected<LockTable::Change, uint32_t> take_lock(const Lock& lock);
    void write_lock_event(const GuestCpu& cpu, const Lock& lock);
    Answer root_reference(const GuestCpu& cpu, const RootRequest& request);
    Answer root_check(const GuestCpu& cpu, const RootCheckCall& call);
    Answer root_arena(const GuestCpu& cpu, const RootArenaCall& call);
    std::optional<uint32_t> refuse_arena(const RootArenaCall& call);
    Answer root_clock(const GuestCpu& cpu, const RootClockCall& call);
    Answer root_write(const RootWriteCall& call);
    Answer root_clear(const RootClearCall& call);
    Answer answer(const RootArena::Done& done);
    Violation root_violation(const GuestCpu& cpu, const RootMismatch& mismatch, std::string detail) const;
    uint64_t seal(const GuestCpu& cpu);
    Result<void> pin(const GuestCpu& cpu);
    void note_text(const GuestCpu& cpu);
    void note_protected();
    Decoder& decoder_of(const GuestCpu& cpu);
    Attribution attribute(const GuestCpu& cpu, const CpuState& state);
    // The lock of the byte that the guest's tables have there, and the byte.
    std::optional<std::pair<Lock, GuestPhysical>> lock_behind(const CpuState& state,
                                                              GuestLinear address) const;
    // The lowest locked part of the GDT.
    std::optional<std::pair<Lock, GuestPhysical>> locked_descriptors(const CpuState& state) const;
    // The lock that the frame of an event on its way may have to be pushed to, and where.
    std::optional<std::pair<Lock, GuestPhysical>> locked_frame(const CpuState& state) const;
    // Judges a store of the instruction at RIP, which the guest gets #GP(0) for unless that ends the machine.
    std::optional<GuardEnd> refuse(const GuestCpu& cpu, const Violation& violation);
    // Counts and records a refused store, and says whether it ends the machine.
    std::optional<GuardEnd> judge(const Violation& violation) const;
    GuardEnd give_up(Violation violation, std::string why) const;
    std::optional<GuardEnd> audit(const GuestCpu& cpu);
    void note_look(std::chrono::steady_clock::time_point due);
    // How many of the tables that this round is still to compare the caller has to.
    size_t take_tables();
    // Whether a vCPU that has page tables is on the kernel's root, and in locked text if any is.
    bool runs_kernel(const GuestCpu& cpu, const kvm_sregs& system) const;
    GuardEnd report_root(const GuestCpu& cpu, const RootMismatch& mismatch) const;
    void pin_translations(const GuestCpu& cpu, const AuditedState& state);
    std::optional<GuardEnd> audit_translations(const GuestCpu& cpu, const kvm_sregs& system);
    // What KVM is to write for this vCPU into locked pages is judged once. LOCK, SEAL and audits look.
    std::optional<GuardEnd> look_at_paravirtual(const GuestCpu& cpu);
    MsrWrite paravirtual_write(const GuestCpu& cpu, uint32_t index, uint64_t value) const;
    std::optional<Violation> kvm_write(const GuestCpu& cpu, const ParavirtualMsr& msr, uint64_t value) const;
    template <typename Difference> // AuditDifference, TranslationDifference
    GuardEnd report_difference(const GuestCpu& cpu, Difference difference) const;
    // Writes event and message, if not too many came lately or it is the last; returns the symbols to report
    // with.
    LoadedSymbols record(const Violation& violation, bool last) const;

    Parts m_parts;
    Options m_options;
    LockTable m_table;
    Roots m_roots;
    GoldenTables m_golden; // of page tables that are in m_table, and that the protection knows nothing of
    std::atomic<const RootClock*> m_root_clock = nullptr; // null: the guest gave none
    std::atomic<bool> m_sealed = false;
    std::atomic<bool> m_text_locked = false;

    Auditor m_auditor;
    // One call at a time but for ROOT_CHECK and SEAL, none while m_sealed changes; guards what follows up to
    // the sites.
    std::mutex m_call_mutex;
    std::unique_ptr<RootArena> m_arena;
    std::unique_ptr<const RootClock> m_owned_root_clock;
    bool m_pages_protected = false;
    uint64_t m_lock_changes = 0; // calls that locked or raised something
    LogSite m_protect_site;
    LogSite m_reference_site;
    LogSite m_arena_site;
    LogSite m_clock_site;
    LogSite m_symbols_site;

    // A root that ROOT_CHECK has recorded is given one audit's time to be left, until an audit finds a right
    // one.
    enum class RootNotice { none, told, spared };
    // Of one vCPU, used on its thread only.
    struct PerCpu {
        RootNotice notice = RootNotice::none;
        PinnedTranslations translations;
        ToldParavirtual told;
        std::unique_ptr<Decoder> decoder; // made at the first fault: most guests cause none
        struct Place {
            uint64_t rip = 0;
            uint64_t rcx = 0; // goes on within a REP instruction
            bool operator==(const Place&) const = default;
        };
        // Where the last unexplained fault was, and how often in a row.
        Place fault_place;
        unsigned retries = 0;
        // As check_progress() last saw it.
        struct Progress {
            Place place;
            std::chrono::nanoseconds run_time{};
            unsigned deliveries = 0; // checks in a row that found an event on its way
        };
        std::optional<Progress> progress;
        // Where the last emulated store was refused, and how often again in a row.
        Place refused_place;
        unsigned refusals = 0;
        // Of the oldest round that this vCPU has not answered; the epoch when there is none. Any thread.
        std::atomic<std::chrono::steady_clock::time_point> look_due{};
    };
    std::array<PerCpu, layout::max_cpus> m_cpus{};

    mutable std::mutex m_record_mutex; // guards what follows
    mutable RateLimit m_rate;
    mutable LogSite m_log_site;
    LoadedSymbols m_symbols;
    mutable std::atomic<uint64_t> m_violations = 0;
    mutable std::atomic<uint64_t> m_unexplained = 0;
    std::atomic<uint64_t> m_hypercalls = 0;
    std::atomic<uint64_t> m_audits = 0;
    std::atomic<uint64_t> m_audit_nanoseconds = 0;
    std::atomic<uint64_t> m_root_checks = 0;
    std::atomic<uint64_t> m_root_writes = 0;
    std::atomic<uint64_t> m_root_clears = 0;
    std::atomic<uint64_t> m_shadow_drops = 0;
    std::atomic<size_t> m_tables_due = 0; // still to be compared in this round of audits
    std::atomic<uint64_t> m_latest_look_nanoseconds = 0;
    std::atomic<uint64_t> m_verifications = 0;
    std::atomic<uint64_t> m_verification_nanoseconds = 0;
};

} // namespace casemate
