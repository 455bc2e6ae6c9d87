// SPDX-License-Identifier: Apache-2.0
// MachineEnd: why a machine stopped; and the process status each reason maps to. Scripts rely on the numbers.
#pragma once

#include <array>
#include <string>

namespace casemate {

enum class EndReason {
    power_off,      // ACPI S5, or the user asked twice
    reboot,         // reset register, keyboard controller
    host_failure,   // KVM or the host refused something
    guest_panic,    // reported through pvpanic
    triple_fault,   // the guest's last exception could not be delivered
    unattributable, // a protection fault that nothing explains
    die_on_write,   // a write to memory under such a lock, or one too many under any
    locks_missing,  // required, and not taken before the deadline
};

struct MachineEnd {
    EndReason reason = EndReason::power_off;
    std::string detail; // for the user, may be empty
};

struct ExitStatus {
    EndReason reason;
    int status;
    const char* meaning;
};

constexpr int usage_status = 2;

constexpr std::array exit_statuses{
    ExitStatus{EndReason::power_off, 0, "the guest powered off"},
    ExitStatus{EndReason::reboot, 0, "the guest asked for a reboot"},
    ExitStatus{EndReason::host_failure, 1, "the host or the monitor failed"},
    ExitStatus{EndReason::guest_panic, 10, "the guest kernel panicked"},
    ExitStatus{EndReason::triple_fault, 10, "the guest triple-faulted"},
    ExitStatus{EndReason::die_on_write, 20, "a write to locked memory ended the guest"},
    ExitStatus{EndReason::unattributable, 22, "a memory fault that nothing explains"},
    ExitStatus{EndReason::locks_missing, 24, "locks were required and not taken in time"},
};

constexpr const ExitStatus& exit_status(EndReason reason) {
    for (const ExitStatus& entry : exit_statuses)
        if (entry.reason == reason)
            return entry;
    return exit_statuses[2];
}

} // namespace casemate
