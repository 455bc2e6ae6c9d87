// SPDX-License-Identifier: Apache-2.0
// CPUID as the guest sees it: what KVM supports, less what this machine does not have, plus what KVM leaves
// to its user: the processor's name, its topology (one package of `cpus` cores with one thread each, APIC ids
// 0 to cpus - 1; each core has the caches of the first two levels to itself, and shares the others with all),
// and its frequencies.
#pragma once

#include "kvm/uapi.hpp"
#include "machine/host_brand.hpp"

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

namespace casemate {

struct CpuidOptions {
    uint32_t cpu = 0;  // index and APIC id of the vCPU
    uint32_t cpus = 1; // 1 to layout::max_cpus
    bool tsc_deadline_timer = false;
    bool locks = false; // the hypercall interface of guard/casemate_abi.h is there
    CpuBrand brand{};
    std::optional<uint32_t> tsc_khz; // as Vcpu::tsc_khz()
};

// `supported` as from System::supported_cpuid().
std::vector<kvm_cpuid_entry2> make_cpuid(std::span<const kvm_cpuid_entry2> supported,
                                         const CpuidOptions& options);

} // namespace casemate
