// SPDX-License-Identifier: Apache-2.0
// Audit: what a sealed guest's vCPUs must keep in their registers, pinned at SEAL and compared ever after.
#pragma once

#include "guard/apic_base.hpp"
#include "guard/instruction.hpp"
#include "kvm/uapi.hpp"

#include <array>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <mutex>
#include <optional>
#include <stop_token>
#include <utility>
#include <vector>

namespace casemate {

// An MSR that decides how the kernel is entered. SDM Vol. 4, 2.1 and APM Vol. 2, 6.1.
struct EntryMsr {
    uint32_t index;
    const char* name;
};
inline constexpr std::array entry_msrs{
    EntryMsr{0xc0000082, "LSTAR"},   EntryMsr{0xc0000081, "STAR"},   EntryMsr{0xc0000084, "SFMASK"},
    EntryMsr{0xc0000083, "CSTAR"},   EntryMsr{0x174, "SYSENTER_CS"}, EntryMsr{0x175, "SYSENTER_ESP"},
    EntryMsr{0x176, "SYSENTER_EIP"},
};
inline constexpr EntryMsr efer_msr{0xc0000080, "EFER"};
// What the guest may not move from the machine's creation on.
inline constexpr std::array msrs_refused_at_once{apic_base_msr};
// And from SEAL on also what it may then write only as it is pinned: Linux writes them when it brings a CPU
// up, for the first time or again, and at no other time.
constexpr auto refused_msrs() {
    std::array<uint32_t, entry_msrs.size() + 1 + msrs_refused_at_once.size()> indices{};
    size_t count = 0;
    for (const EntryMsr& msr : entry_msrs)
        indices.at(count++) = msr.index;
    indices.at(count++) = efer_msr.index;
    for (const uint32_t index : msrs_refused_at_once)
        indices.at(count++) = index;
    return indices;
}
// "LSTAR"; null for an MSR that is none of these.
const char* msr_name(uint32_t index);

// A vCPU's registers as the auditor reads them.
struct AuditedState {
    kvm_sregs system{};
    std::array<uint64_t, entry_msrs.size()> msrs{}; // as entry_msrs has them
};

// A register that is not as it was.
struct AuditDifference {
    uint32_t vcpu = 0;
    const char* name = ""; // "CR0.WP", "LSTAR", "IDTR.base"; "start" of a vCPU that ran only after SEAL
    uint64_t expected = 0; // of one bit: 0 or 1
    uint64_t found = 0;
    std::optional<CpuState> state; // when it was found
};

// The pins of all vCPUs. Any thread.
class Auditor {
public:
    // Whoever waits, now or later, goes on at once when `ending` is requested. `now`: the monitor's own
    // clock.
    using Clock = std::chrono::steady_clock;
    explicit Auditor(uint32_t cpus, std::stop_token ending = {}, Clock::time_point (*now)() = Clock::now)
        : m_ending(std::move(ending))
        , m_now(now)
        , m_pins(cpus) {}

    // Pins may be taken from here on: SEAL has begun, and the guest's writes to MSRs are refused.
    void begin();
    bool has_begun() const;
    // Waits for begin(). False when the machine ends.
    bool wait_to_begin();
    // Sets a vCPU's pins, unless it has them. Without a state it waits for its start-up IPI, and must never
    // get one.
    void pin(uint32_t cpu, const std::optional<AuditedState>& state);
    bool is_pinned(uint32_t cpu) const;
    // Waits until every vCPU is pinned. False when the machine ends.
    bool wait_for_pins();

    // The first register that differs from its pin, for a vCPU that runs; `run_time` is what its thread has
    // run. Empty when it has no pins yet, and while it may be starting again: after INIT, which alone clears
    // EFER.LME once the guest's writes are refused, as long as it has some of its start_time left; and once
    // it has page tables only in long mode, and but for stray_time where `strays` says no: on the kernel's
    // root and in its text. `strays` is asked under the auditor's lock.
    std::optional<AuditDifference> audit(uint32_t cpu, const AuditedState& found,
                                         std::chrono::nanoseconds run_time,
                                         const std::function<bool()>& strays);
    // Whether it is starting again: INIT was noticed, and it has not been as pinned since.
    bool is_restarting(uint32_t cpu) const;
    // Ends a start that is over. Beside audits, so that what comes behind it does not count.
    void settle(uint32_t cpu, const AuditedState& found, std::chrono::nanoseconds run_time);
    // Whether the guest may write this value, where `efer` is what the vCPU has there now.
    bool grants(uint32_t cpu, uint32_t msr, uint64_t value, uint64_t efer, std::chrono::nanoseconds run_time);
    // How often vCPUs were reset and started again after SEAL.
    uint64_t restarts() const;
    // And how long they have run until they were as pinned, or still run so.
    std::chrono::nanoseconds time_in_restarts() const;
    // Times of the thread's own, so that a busy host does not matter. A start of Linux 6.12 takes
    // milliseconds. What a vCPU has for all its starts together, and of what it has used this part of the
    // time that goes by comes back.
    static constexpr std::chrono::nanoseconds start_time = std::chrono::seconds(2);
    static constexpr int refill_divisor = 20;
    // In each start, on page tables and in code of Linux's trampoline, which does microseconds' work there.
    static constexpr std::chrono::nanoseconds stray_time = std::chrono::milliseconds(50);

private:
    enum class Pinned { not_yet, waiting, running };
    struct Start {                                       // in run time
        std::chrono::nanoseconds charged;                // up to here
        std::optional<std::chrono::nanoseconds> strayed; // since then, perhaps
    };
    struct Pins {
        Pinned pinned = Pinned::not_yet;
        AuditedState state;
        std::optional<Start> start;       // that is not over
        std::chrono::nanoseconds used{0}; // of start_time
        Clock::time_point refilled;
    };
    void note_restart(Pins& pins, uint64_t efer, std::chrono::nanoseconds run_time);
    bool may_go_on(Pins& pins, Start& start, const AuditedState& found, std::chrono::nanoseconds run_time,
                   const std::function<bool()>& strays);
    void charge(Pins& pins, Start& start, std::chrono::nanoseconds run_time);
    void end_start(Pins& pins, std::chrono::nanoseconds run_time);

    std::stop_token m_ending;
    Clock::time_point (*m_now)();
    mutable std::mutex m_mutex; // guards what follows
    std::condition_variable_any m_changed;
    bool m_begun = false;
    std::vector<Pins> m_pins;
    uint64_t m_restarts = 0;
    std::chrono::nanoseconds m_time_in_restarts{0};
};

} // namespace casemate
