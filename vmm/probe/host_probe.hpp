// SPDX-License-Identifier: Apache-2.0
// Probes what this host's KVM and kernel can do, by trying it in throwaway VMs. Never by CPU name.
#pragma once

#include "kvm/system.hpp"
#include "probe/host_report.hpp"

namespace casemate {

// Runs every probe, each for a bounded time: under 5 seconds in all, on most hosts a few milliseconds.
HostReport probe_host();

// Whether locked page tables are enforced here by this kind of protection: runs the one probe that tells, a
// few milliseconds, at most a second. `system` is an open KVM. Any thread.
TableEnforcement probe_table_enforcement(const System& system, ProtectionKind kind);

// The best protection that this host has: runs one probe for each kind that is better, and its own; a few
// milliseconds each, at most a second. Where no store is stopped, the mapping.
ProtectionKind probe_best_protection(const System& system);

// Whether guests run here at a useful speed. Where the CPU has VMX or SVM this costs a CPUID instruction;
// elsewhere a probe guest is timed, for up to a second. `system` is an open KVM.
SpeedReport probe_speed_at_start(const System& system);

} // namespace casemate
