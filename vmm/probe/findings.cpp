// SPDX-License-Identifier: Apache-2.0
// What a HostReport means, in words: the explanations of `casemate check`.
#include "probe/host_report.hpp"
#include "probe/speed.hpp"

#include <fmt/core.h>

namespace casemate {
namespace {

constexpr const char* any_host_remedy = "Load kvm_intel or kvm_amd on a machine with hardware "
                                        "virtualization, or use tools/kvm-host of Casemate's source, which "
                                        "emulates one.";

Answer answer_of(std::optional<bool> value) {
    if (!value)
        return Answer::untested;
    return *value ? Answer::yes : Answer::no;
}

// `note` in place of `otherwise` when there is one.
std::string or_note(const char* otherwise, const std::string& note) {
    return note.empty() ? otherwise : note;
}

Finding kvm_finding(const HostReport& report) {
    Finding finding{.id = "kvm", .title = "KVM"};
    finding.meaning = "Casemate runs guests with the kernel's KVM through /dev/kvm.";
    if (report.access == KvmAccess::open) {
        finding.answer = Answer::yes;
        finding.value = "/dev/kvm opened, API version 12";
        return finding;
    }
    finding.answer = Answer::no;
    // The error's hint, after the semicolon, is the remedy below.
    finding.value = report.access_error.substr(0, report.access_error.find("; "));
    switch (report.access) {
    case KvmAccess::denied:
        finding.remedy = "Have root add you to its group (usermod -aG kvm USER), then log in again.";
        break;
    case KvmAccess::wrong_version:
        finding.remedy = "Use a Linux host kernel: KVM has had API version 12 since Linux 2.6.22.";
        break;
    case KvmAccess::absent:
    case KvmAccess::open:
        finding.remedy = any_host_remedy;
        break;
    }
    return finding;
}

Finding hardware_finding(const HostReport& report) {
    Finding finding{.id = "hardware", .title = "hardware virtualization"};
    const char* const name = report.kind == KvmKind::vmx ? "Intel VMX" : "AMD SVM";
    if (report.kind == KvmKind::vmx || report.kind == KvmKind::svm) {
        finding.answer = Answer::yes;
        finding.value = report.module.empty() ? name : fmt::format("{}, module {}", name, report.module);
        finding.meaning = "The CPU itself runs the guest's instructions.";
        return finding;
    }
    finding.answer = Answer::no;
    finding.value = report.module.empty() ? "neither VMX nor SVM in CPUID"
                                          : fmt::format("neither VMX nor SVM, module {}", report.module);
    finding.meaning = "The CPU offers nothing to run guests with: a KVM here can only be software, and slow.";
    finding.remedy =
        "Enable virtualization in the firmware, or nested virtualization for this virtual machine; "
        "else use tools/kvm-host of Casemate's source.";
    return finding;
}

Finding speed_finding(const HostReport& report) {
    Finding finding{.id = "speed", .title = "useful speed"};
    if (!report.speed.ratio) {
        finding.answer = report.probe_note.empty() ? Answer::untested : Answer::no;
        finding.value = or_note("not measured", report.probe_note);
        finding.meaning = "A probe guest runs a fixed mix of instructions; here it could not.";
        return finding;
    }
    finding.answer = report.speed.useful ? Answer::yes : Answer::no;
    finding.value =
        fmt::format("guest kernel code takes {:.1f} times as long as host code", *report.speed.ratio);
    finding.meaning =
        report.speed.useful
            ? "Linux boots at a useful speed."
            : fmt::format("Above {:.0f} times it does not pay to boot Linux; tiny payloads still run.",
                          highest_useful_ratio);
    if (!report.speed.useful)
        finding.remedy = "Run in tools/kvm-host of Casemate's source, which emulates a whole host with "
                         "hardware virtualization.";
    return finding;
}

Finding hypercall_finding(const HostReport& report) {
    Finding finding{.id = "hypercall", .title = "hypercall exits"};
    finding.meaning = "The guest asks for its locks with KVM hypercall 12.";
    switch (report.hypercall) {
    case HypercallReport::untested:
        finding.value = "not tried";
        return finding;
    case HypercallReport::exits:
        finding.answer = Answer::yes;
        finding.value = "hypercall 12 reached the monitor";
        return finding;
    case HypercallReport::missing:
        finding.value = "KVM does not offer KVM_CAP_EXIT_HYPERCALL";
        finding.remedy = "Use Linux 5.14 or later on the host.";
        break;
    case HypercallReport::silent:
    case HypercallReport::hangs:
        finding.value = report.hypercall_note;
        finding.remedy = any_host_remedy;
        break;
    }
    finding.answer = Answer::no;
    finding.meaning += " Without it guests run unlocked.";
    return finding;
}

// `meaning` of a kind that stops stores where they happen.
void answer_for(Finding& finding, const ProtectionReport& report, const char* meaning) {
    finding.meaning = meaning;
    switch (report.store) {
    case StoreReport::untested:
        finding.value = "not tried";
        break;
    case StoreReport::missing:
        finding.answer = Answer::no;
        // The error's hint, after the semicolon, is the remedy.
        finding.value = report.store_note.substr(0, report.store_note.find("; "));
        break;
    case StoreReport::told_at_store:
        finding.answer = Answer::yes;
        finding.value = "stopped at the store, with its address; memory unchanged";
        break;
    case StoreReport::efault_at_store:
        finding.answer = Answer::yes;
        finding.value = "stopped at the store: EFAULT, memory unchanged";
        break;
    case StoreReport::mmio_past_store:
        finding.answer = Answer::partly;
        finding.value = "dropped: MMIO exit past the store, memory unchanged";
        break;
    case StoreReport::none:
        finding.answer = Answer::no;
        finding.value = or_note("not stopped", report.store_note);
        break;
    }
}

Finding attributes_finding(const HostReport& report) {
    Finding finding{.id = "attributes", .title = "lock by memory attributes"};
    const ProtectionReport& own = protection_report(report, ProtectionKind::attributes);
    answer_for(
        finding, own,
        "The best lock: KVM itself refuses the store and names its address, refuses its own writes too, "
        "and nothing takes the lock back.");
    if (finding.answer == Answer::no) {
        if (report.attributes.value_or(0) != 0)
            finding.value += fmt::format(" (it has {:#x})", *report.attributes);
        finding.meaning = "A lock inside KVM. No released kernel has it; lock by mapping does without.";
        finding.remedy = "Build and boot the host kernel of tools/host-kernel of Casemate's source.";
    }
    return finding;
}

Finding mapping_finding(const HostReport& report) {
    Finding finding{.id = "mapping", .title = "lock by mapping"};
    const ProtectionReport& own = protection_report(report, ProtectionKind::mapping);
    answer_for(finding, own,
               "The best lock of a stock host: precise, and it binds the monitor and KVM as well.");
    if (finding.answer == Answer::partly)
        finding.meaning = "The store does not happen, but the guest is already past it: its fault cannot be "
                          "injected at the instruction.";
    else if (finding.answer == Answer::no)
        finding.meaning = "Write-protecting the monitor's mapping does not hold the guest.";
    if (finding.answer == Answer::partly || finding.answer == Answer::no)
        finding.remedy = any_host_remedy;
    return finding;
}

Finding slots_finding(const HostReport& report) {
    Finding finding{.id = "slots", .title = "lock by read-only slots"};
    const ProtectionReport& own = protection_report(report, ProtectionKind::slots);
    answer_for(finding, own,
               "For hosts that have no better lock: stores are dropped, some instructions end the guest, and "
               "vCPUs stand still while something is locked.");
    return finding;
}

Finding tables_finding(const HostReport& report) {
    Finding finding{.id = "locked_tables", .title = "locked page tables"};
    const auto best = best_protection(report);
    const ProtectionReport own = best ? protection_report(report, *best) : ProtectionReport{};
    if (!own.walk.tested) {
        finding.value = "not tried";
        finding.meaning = "Whether a guest runs with its page tables on write-protected pages.";
        return finding;
    }
    if (table_enforcement(report) == TableEnforcement::enforced) {
        finding.answer = Answer::yes;
        finding.value = "the guest runs on write-protected tables, a store into them is caught";
        finding.meaning = "Page tables are enforced: nothing can write to a locked one.";
        return finding;
    }
    finding.answer = Answer::no;
    finding.value = own.walk.tolerated ? "the guest runs on them, but a store into them is not caught"
                                       : "the CPU's table walk writes to them: " + own.walk_note;
    finding.meaning =
        "Page tables are verified instead: compared with a copy at every context switch and audit, so a "
        "change is found, but later than it happens.";
    if (report.kind == KvmKind::vmx)
        finding.remedy = "Load kvm_intel with eptad=0; as root: modprobe -r kvm_intel && modprobe kvm_intel "
                         "eptad=0";
    else if (report.kind == KvmKind::svm)
        finding.remedy =
            "Load kvm_amd with npt=0, which makes guests slower; as root: modprobe -r kvm_amd && "
            "modprobe kvm_amd npt=0";
    else
        finding.remedy = any_host_remedy;
    return finding;
}

Finding roots_finding(const HostReport& report) {
    Finding finding{.id = "roots", .title = "page-table roots"};
    const auto best = best_protection(report);
    if (!best || !protection_report(report, *best).walk.tested) {
        finding.value = "not tried";
        finding.meaning = "Whether context switches are watched without an exit.";
        return finding;
    }
    if (root_mode(report) == RootMode::arena) {
        finding.answer = Answer::yes;
        finding.value = "in an arena that the monitor alone writes to";
        finding.meaning = "A root in it cannot be forged, and a context switch needs no exit.";
        return finding;
    }
    finding.answer = Answer::no;
    finding.value = "compared at each context switch, by the guest's locked text";
    finding.meaning = "Which needs no exit either; once a second and at each audit the monitor looks for "
                      "itself. A root that "
                      "is forged after the comparison may be used until the next switch or audit. An arena "
                      "needs what enforced "
                      "page tables need.";
    return finding;
}

Finding execution_finding(const HostReport& report) {
    Finding finding{.id = "execution", .title = "execution by ring"};
    finding.answer = Answer::no;
    finding.value = report.cpu_tells_rings_apart
                        ? "the CPU could deny it to ring 0 alone, KVM does not use that"
                        : "the CPU cannot deny it to ring 0 alone";
    finding.meaning =
        "That ring 0 executes nothing but locked text is left to the guest: to NX and SMEP, and to "
        "its page tables, which are locked or verified.";
    return finding;
}

Finding msr_finding(const HostReport& report) {
    Finding finding{.id = "msr_filter", .title = "MSR filter"};
    finding.answer = answer_of(report.msr_filter);
    finding.meaning = "Keeps a sealed guest from moving its system-call entry and other pinned registers.";
    if (!report.msr_filter)
        finding.value = "not tried";
    else
        finding.value = *report.msr_filter
                            ? "a write to LSTAR was refused"
                            : or_note("a write to LSTAR was not refused", report.msr_filter_note);
    if (finding.answer == Answer::no)
        finding.remedy = "Use Linux 5.10 or later on the host.";
    return finding;
}

Finding memfd_finding(const HostReport& report) {
    Finding finding{.id = "guest_memfd", .title = "guest_memfd"};
    finding.answer = answer_of(report.guest_memfd);
    finding.meaning = "Guest memory that the host need not map. Not needed for locks.";
    if (!report.guest_memfd)
        finding.value = "not tried";
    else if (*report.guest_memfd)
        finding.value = fmt::format("offered, flags {:#x}", report.guest_memfd_flags);
    else
        finding.value = "KVM does not offer it to such VMs";
    return finding;
}

Finding mseal_finding(const HostReport& report) {
    Finding finding{.id = "mseal", .title = "sealed mappings"};
    finding.answer = report.mseal ? Answer::yes : Answer::no;
    finding.value = report.mseal ? "mseal(2) works" : "no mseal(2)";
    finding.meaning = "Sealing makes a lock by mapping final: not even the monitor can undo it.";
    if (!report.mseal)
        finding.remedy = "Use Linux 6.10 or later on the host. Locks work without it.";
    return finding;
}

Finding huge_pages_finding(const HostReport& report) {
    Finding finding{.id = "huge_pages", .title = "transparent huge pages"};
    finding.meaning = "They make guest memory quicker.";
    switch (report.huge_pages) {
    case HugePages::untested:
        finding.value = "not tried";
        break;
    case HugePages::got:
        finding.answer = Answer::yes;
        finding.value = "asked for one and got it";
        break;
    case HugePages::offered:
        finding.answer = Answer::partly;
        finding.value = "asked for one and got small pages";
        finding.remedy = "Free some memory: the host has no 2 MiB piece left, or a cgroup limit is near.";
        break;
    case HugePages::never:
        finding.answer = Answer::no;
        finding.value = "switched off, or not in this kernel";
        finding.remedy = "As root: echo madvise >/sys/kernel/mm/transparent_hugepage/enabled";
        break;
    }
    return finding;
}

Finding io_uring_finding(const HostReport& report) {
    Finding finding{.id = "io_uring", .title = "io_uring"};
    finding.answer = report.io_uring_error == 0 ? Answer::yes : Answer::no;
    finding.meaning = "Disks use it where it works, and a thread of their own where not.";
    finding.value = report.io_uring_error == 0
                        ? "a ring was set up"
                        : fmt::format("io_uring_setup: {}", describe_errno(report.io_uring_error));
    if (report.io_uring_policy)
        finding.value += fmt::format(", kernel.io_uring_disabled is {}", *report.io_uring_policy);
    if (report.io_uring_error != 0 && report.io_uring_policy.value_or(0) != 0)
        finding.remedy = "As root: sysctl kernel.io_uring_disabled=0, if your site's rules allow it.";
    return finding;
}

Finding tsc_deadline_finding(const HostReport& report) {
    Finding finding{.id = "tsc_deadline", .title = "TSC deadline timer"};
    finding.answer = answer_of(report.tsc_deadline);
    finding.value = !report.tsc_deadline ? "not tried" : *report.tsc_deadline ? "offered" : "not offered";
    finding.meaning = "The guest's timer costs fewer exits with it.";
    return finding;
}

} // namespace

bool is_usable(const HostReport& report) {
    return report.access == KvmAccess::open && report.speed.useful;
}

TableEnforcement table_enforcement(const ProtectionReport& report) {
    return report.walk.tolerated && report.walk.store_caught ? TableEnforcement::enforced
                                                             : TableEnforcement::verified;
}

TableEnforcement table_enforcement(const HostReport& report) {
    const auto best = best_protection(report);
    return best ? table_enforcement(protection_report(report, *best)) : TableEnforcement::verified;
}

RootMode root_mode(const HostReport& report) {
    return table_enforcement(report) == TableEnforcement::enforced ? RootMode::arena : RootMode::compare;
}

bool stops_stores(const ProtectionReport& report) {
    return report.store == StoreReport::told_at_store || report.store == StoreReport::efault_at_store ||
           report.store == StoreReport::mmio_past_store;
}

std::optional<ProtectionKind> best_protection(const HostReport& report) {
    // A locked store is worth nothing when the guest has no way to ask for the lock.
    if (report.hypercall != HypercallReport::exits)
        return std::nullopt;
    for (const ProtectionKind kind : protection_kinds)
        if (stops_stores(protection_report(report, kind)))
            return kind;
    return std::nullopt;
}

std::vector<Finding> findings(const HostReport& report) {
    return {kvm_finding(report),         hardware_finding(report),   speed_finding(report),
            hypercall_finding(report),   attributes_finding(report), mapping_finding(report),
            slots_finding(report),       tables_finding(report),     roots_finding(report),
            execution_finding(report),   msr_finding(report),        mseal_finding(report),
            memfd_finding(report),       huge_pages_finding(report), io_uring_finding(report),
            tsc_deadline_finding(report)};
}

} // namespace casemate
