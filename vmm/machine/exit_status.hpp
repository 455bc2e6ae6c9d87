// SPDX-License-Identifier: Apache-2.0
// MachineEnd: why a machine stopped; and the process status each reason maps to. Scripts rely on the numbers.
#pragma once

#include "base/event_log.hpp"

#include <array>
#include <cstddef>
#include <string>

namespace casemate {

enum class EndReason {
    power_off,           // ACPI S5
    reboot,              // reset register, keyboard controller
    host_request,        // the user did not wait for the guest
    host_failure,        // KVM or the host refused something
    guest_fault,         // the guest did what its CPU or machine cannot do
    guest_panic,         // reported through pvpanic
    triple_fault,        // the guest's last exception could not be delivered
    unattributable,      // a protection fault that nothing explains
    die_on_write,        // a write to memory locked so
    too_many_violations, // Config::max_violations
    audit_mismatch,      // a register, or where it leads, is not as it was at SEAL
    root_mismatch,       // a page-table root that is not the guest kernel's
    locks_missing,       // required, and not taken before the deadline
};

struct MachineEnd {
    EndReason reason = EndReason::power_off;
    std::string detail;         // one line for the user, may be empty
    std::string report;         // several lines, may be empty
    EventLog::Loss events_lost; // did not get to where Config::events_path says
};

struct ExitStatus {
    EndReason reason;
    int status;
    const char* name; // in events
    const char* meaning;
};

constexpr int usage_status = 2;

constexpr std::array exit_statuses{
    ExitStatus{EndReason::power_off, 0, "power_off", "the guest powered off"},
    ExitStatus{EndReason::reboot, 0, "reboot", "the guest asked for a reboot"},
    ExitStatus{EndReason::host_failure, 1, "host_failure", "the host or the monitor failed"},
    ExitStatus{EndReason::guest_panic, 10, "guest_panic", "the guest kernel panicked"},
    ExitStatus{EndReason::triple_fault, 10, "triple_fault", "the guest triple-faulted"},
    ExitStatus{EndReason::guest_fault, 11, "guest_fault", "the guest did what its CPU or machine cannot do"},
    ExitStatus{EndReason::die_on_write, 20, "die_on_write", "a write to memory locked die-on-write"},
    ExitStatus{EndReason::too_many_violations, 20, "too_many_violations",
               "as many writes to locked memory as allowed"},
    ExitStatus{EndReason::root_mismatch, 21, "root_mismatch", "a page-table root that is not the kernel's"},
    ExitStatus{EndReason::unattributable, 22, "unattributable", "a memory fault that nothing explains"},
    ExitStatus{EndReason::audit_mismatch, 23, "audit_mismatch",
               "a register changed that was pinned at SEAL, or where it leads"},
    ExitStatus{EndReason::locks_missing, 24, "locks_missing", "locks were required and not taken in time"},
    ExitStatus{EndReason::host_request, 25, "host_request", "the user ended the guest without its doing"},
};

constexpr const ExitStatus& exit_status(EndReason reason) {
    size_t host_failure = 0;
    for (size_t i = 0; i < exit_statuses.size(); ++i) {
        if (exit_statuses[i].reason == reason)
            return exit_statuses[i];
        if (exit_statuses[i].reason == EndReason::host_failure)
            host_failure = i;
    }
    return exit_statuses[host_failure];
}

// What the process ends with. A record that was asked for and is not complete is the host's failure, but it
// never hides what the guest did.
constexpr int process_status(EndReason reason, bool record_complete) {
    const int status = exit_status(reason).status;
    return status == 0 && !record_complete ? exit_status(EndReason::host_failure).status : status;
}

} // namespace casemate
