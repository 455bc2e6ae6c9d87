// SPDX-License-Identifier: Apache-2.0
// Speed: how long a guest's supervisor code takes against the same instructions in host user mode.
#pragma once

#include "kvm/system.hpp"
#include "probe/host_report.hpp"

namespace casemate {

// Above this ratio Linux is not worth booting. With VMX or SVM the ratio is 1 to 2, also where the host is
// itself emulated, for then both sides are; a preempted measurement or costly nested exits may triple it. A
// KVM that interprets supervisor code needs about 1000. A kernel's boot is some 10^9 instructions, half a
// second at ratio 1: at 25 it takes as long as one might still wait.
constexpr double highest_useful_ratio = 25;

// Whether the CPU that this runs on has VMX or SVM: one CPUID instruction.
KvmKind hardware_kind();

// Times a probe guest; fails with the reason when it does not run.
Result<double> measure_speed_ratio(const System& system);

} // namespace casemate
