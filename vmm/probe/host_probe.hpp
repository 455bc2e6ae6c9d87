// SPDX-License-Identifier: Apache-2.0
// Probes what this host's KVM and kernel can do, by trying it in throwaway VMs. Never by CPU name.
#pragma once

#include "kvm/system.hpp"
#include "probe/host_report.hpp"

#include <memory>
#include <span>

namespace casemate {

// Runs every probe, each for a bounded time: a few milliseconds on most hosts, a second of CPU time for each
// that hangs.
[[gnu::cold]] HostReport probe_host();

// What came of a throwaway VM, and the VM: taking it apart costs as much CPU time as making it, and can wait.
struct ProtectionTrial {
    ProtectionReport report;
    std::shared_ptr<void> throwaway;
};
// What these kinds of protection, as layers, do here: a guest's store, and its walk of protected page tables,
// in one throwaway VM. A few milliseconds, a second of CPU time if it hangs. `system` is an open KVM. Fails
// where a limit kept it from being tried.
Result<ProtectionTrial> try_protection(const System& system, std::span<const ProtectionKind> kinds);

// Whether guests run here at a useful speed. Where the CPU has VMX or SVM this costs a CPUID instruction;
// elsewhere a probe guest is timed, for up to a second of CPU time. `system` is an open KVM.
SpeedReport probe_speed_at_start(const System& system);

} // namespace casemate
