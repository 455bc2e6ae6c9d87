// SPDX-License-Identifier: Apache-2.0
// CPUID as the guest sees it: what KVM supports, less what this machine does not have, plus its topology: one
// package of `cpus` cores with one thread each, APIC ids 0 to cpus - 1.
#pragma once

#include "kvm/uapi.hpp"

#include <cstdint>
#include <span>
#include <vector>

namespace casemate {

struct CpuidOptions {
    uint32_t cpu = 0;  // index and APIC id of the vCPU
    uint32_t cpus = 1; // 1 to layout::max_cpus
    bool tsc_deadline_timer = false;
    bool locks = false; // the hypercall interface of guard/casemate_abi.h is there
};

// `supported` as from System::supported_cpuid().
std::vector<kvm_cpuid_entry2> make_cpuid(std::span<const kvm_cpuid_entry2> supported,
                                         const CpuidOptions& options);

} // namespace casemate
