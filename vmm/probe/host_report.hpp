// SPDX-License-Identifier: Apache-2.0
// HostReport: what the probes found out about this host, as plain values that other parts choose by; and
// the findings, the same for people.
#pragma once

#include "guard/make_protection.hpp"

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace casemate {

enum class KvmAccess {
    open,          // /dev/kvm opened, API version 12
    absent,        // no /dev/kvm, or nothing behind it
    denied,        // the user may not open it
    wrong_version, // opened, another API version
};

// What executes guest instructions.
enum class KvmKind { unknown, vmx, svm, software };

enum class HypercallReport {
    untested,
    exits,   // reached user space with its arguments
    missing, // KVM does not offer KVM_CAP_EXIT_HYPERCALL
    silent,  // offered, but the guest went on, or died, without the exit
    hangs,   // KVM_RUN did not return; the watchdog ended it
};

// What a guest's store to protected memory does.
enum class StoreReport {
    untested,
    missing,         // the host has no such protection
    told_at_store,   // KVM_RUN fails with EFAULT and tells the address, RIP at the store, memory unchanged
    efault_at_store, // the same without the address
    mmio_past_store, // KVM_EXIT_MMIO, RIP past the store, memory unchanged
    none,            // the store went through, or the VM cannot go on
};

// How locked page tables are kept: `enforced` makes them unwritable, `verified` compares them with a copy.
enum class TableEnforcement { enforced, verified };

// How the shipped guest kernel's page-table roots are kept: in an `arena` that the monitor alone writes to,
// or by its locked text, which does `compare` them at each context switch.
enum class RootMode { arena, compare };

struct WalkReport {
    bool tested = false;
    bool tolerated = false;    // the guest runs with its page tables on write-protected pages
    bool store_caught = false; // and a store into them is caught
};

// What one kind of protection does here.
struct ProtectionReport {
    StoreReport store = StoreReport::untested;
    WalkReport walk;
    // A line of evidence each, empty when there is nothing to add.
    std::string store_note;
    std::string walk_note;
};

enum class HugePages { untested, got, offered, never };

struct SpeedReport {
    std::optional<double> ratio; // guest time by host time of the same instructions; empty: not measured
    bool useful = false;         // Linux boots in a time that one would wait for
};

// Members in the order of the findings, not of their sizes: there is one report a process.
// NOLINTNEXTLINE(clang-analyzer-optin.performance.Padding)
struct HostReport {
    KvmAccess access = KvmAccess::absent;
    std::string access_error; // why, when not open
    KvmKind kind = KvmKind::unknown;
    std::string module;     // "kvm_intel (ept=Y, eptad=Y)"; empty when not known
    std::string probe_note; // why the probes could not run, when they could not
    SpeedReport speed;

    HypercallReport hypercall = HypercallReport::untested;
    std::array<ProtectionReport, protection_kinds.size()> protections;
    std::optional<bool> msr_filter;     // a guest's wrmsr was refused
    std::optional<uint64_t> attributes; // the VM's KVM_CAP_MEMORY_ATTRIBUTES
    bool cpu_tells_rings_apart = false; // for execution: Intel's MBEC, AMD's GMET
    std::optional<bool> guest_memfd;
    uint64_t guest_memfd_flags = 0; // KVM_CAP_GUEST_MEMFD_FLAGS: 1 mmap, 2 shared from the start
    std::optional<bool> tsc_deadline;

    // One line of evidence per probe guest, empty when there is nothing to add.
    std::string hypercall_note;
    std::string msr_filter_note;

    // Nothing of KVM's.
    bool mseal = false;
    HugePages huge_pages = HugePages::untested;
    int io_uring_error = 0;             // errno value of io_uring_setup; 0: works
    std::optional<int> io_uring_policy; // sysctl kernel.io_uring_disabled
};

// Guests can be run here: KVM opened and its speed is useful.
bool is_usable(const HostReport& report);
// With the best protection.
TableEnforcement table_enforcement(const HostReport& report);
TableEnforcement table_enforcement(const ProtectionReport& report);
RootMode root_mode(const HostReport& report);
// The first of protection_kinds that stops a store; empty: none, or the guest has no way to ask for a lock.
std::optional<ProtectionKind> best_protection(const HostReport& report);
inline ProtectionReport& protection_report(HostReport& report, ProtectionKind kind) {
    return report.protections.at(static_cast<size_t>(kind));
}
inline const ProtectionReport& protection_report(const HostReport& report, ProtectionKind kind) {
    return report.protections.at(static_cast<size_t>(kind));
}
bool stops_stores(const ProtectionReport& report);

enum class Answer { yes, partly, no, untested };

struct Finding {
    const char* id;    // stable, for scripts
    const char* title; // for people
    Answer answer = Answer::untested;
    std::string value;   // what was seen
    std::string meaning; // what that means for the user
    std::string remedy;  // how to get it; empty when there is nothing to do
};

// In the order in which they are shown.
[[gnu::cold]] std::vector<Finding> findings(const HostReport& report);

} // namespace casemate
