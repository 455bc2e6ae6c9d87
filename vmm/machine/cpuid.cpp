// SPDX-License-Identifier: Apache-2.0
#include "machine/cpuid.hpp"

#include "guard/casemate_abi.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>

namespace casemate {
namespace {

constexpr uint32_t bit(unsigned n) {
    return 1U << n;
}

// Replaces the field [low, low + width) of a register.
constexpr uint32_t with_field(uint32_t value, unsigned low, unsigned width, uint32_t field) {
    const uint32_t mask = ((width == 32 ? 0 : bit(width)) - 1) << low;
    return (value & ~mask) | ((field << low) & mask);
}

// Leaves that describe what the machine does not have. SDM Vol. 2A, "CPUID"; APM Vol. 3, Appendix E.
constexpr bool is_absent(uint32_t leaf) {
    switch (leaf) {
    case 0x5:        // MONITOR/MWAIT
    case 0xa:        // performance counters
    case 0xf:        // resource monitoring
    case 0x10:       // resource allocation
    case 0x12:       // SGX
    case 0x14:       // processor trace
    case 0x1b:       // PCONFIG
    case 0x1f:       // V2 topology: leaf 0xb says it all
    case 0x8000000a: // SVM
    case 0x8000001b: // instruction-based sampling
    case 0x8000001c: // lightweight profiling
    case 0x8000001f: // memory encryption
    case 0x80000022: // performance counters
    case 0x80000026: // extended topology: leaf 0xb says it all
        return true;
    default:
        return false;
    }
}

// Bits needed to tell `count` APIC ids apart.
constexpr uint32_t id_bits(uint32_t count) {
    return static_cast<uint32_t>(std::bit_width(count - 1));
}

void set_topology(kvm_cpuid_entry2& entry, const CpuidOptions& options) {
    const uint32_t last = options.cpus - 1;
    // Cache sharing is counted in APIC ids, so in a power of two.
    const uint32_t package_ids = (bit(id_bits(options.cpus)))-1;
    const uint32_t cache_level = (entry.eax >> 5) & 7;
    switch (entry.function) {
    case 0x1:
        entry.ebx = with_field(entry.ebx, 24, 8, options.cpu);
        entry.ebx = with_field(entry.ebx, 16, 8, options.cpus);
        entry.edx = with_field(entry.edx, 28, 1, options.cpus > 1 ? 1 : 0); // HTT: more than one id a package
        break;
    case 0x4:
        entry.eax = with_field(entry.eax, 26, 6, package_ids);
        entry.eax = with_field(entry.eax, 14, 12, cache_level == 3 ? package_ids : 0);
        break;
    case 0x80000001:
        entry.ecx = with_field(entry.ecx, 1, 1, options.cpus > 1 ? 1 : 0); // CmpLegacy
        break;
    case 0x80000008:
        entry.ecx = with_field(entry.ecx, 0, 8, last);
        entry.ecx = with_field(entry.ecx, 12, 4, id_bits(options.cpus));
        break;
    case 0x8000001d:
        entry.eax = with_field(entry.eax, 14, 12, cache_level == 3 ? package_ids : 0);
        break;
    case 0x8000001e:
        entry.eax = options.cpu;
        entry.ebx = options.cpu; // one thread a core
        entry.ecx = 0;           // one node
        break;
    default:
        break;
    }
}

void remove_features(kvm_cpuid_entry2& entry, const CpuidOptions& options) {
    switch (entry.function) {
    case 0x1:
        // DTES64, MONITOR, VMX, SMX, EIST, thermal monitor, perf capabilities, debug store: not in this
        // machine. A nested guest's VMX would also let KVM write pages by host-physical address, past a lock.
        entry.ecx &= ~(bit(2) | bit(3) | bit(5) | bit(6) | bit(7) | bit(8) | bit(15) | bit(24));
        entry.edx &= ~bit(21);
        entry.ecx |= bit(21) | bit(31); // x2APIC comes with the in-kernel APIC; a hypervisor is present
        if (options.tsc_deadline_timer)
            entry.ecx |= bit(24);
        break;
    case 0x6:
        entry.eax &= bit(2); // ARAT alone: the APIC timer never stops
        entry.ebx = entry.ecx = entry.edx = 0;
        break;
    case 0x7:
        if (entry.index == 0)
            entry.ebx &= ~(bit(2) | bit(12) | bit(15) | bit(25)); // SGX, RDT monitoring and allocation, trace
        break;
    case 0x80000001:
        entry.ecx &= ~(bit(2) | bit(10) | bit(15) | bit(23) | bit(24) | bit(28)); // SVM, IBS, LWP, counters
        break;
    case KVM_CPUID_FEATURES:
        // Extended destination ids would need them in our MSI routes.
        entry.eax &= ~bit(KVM_FEATURE_MSI_EXT_DEST_ID);
        break;
    default:
        break;
    }
}

// SDM Vol. 3A, "Hierarchical Mapping of Shared Resources": leaf 0xb lists levels until one of type 0.
void append_topology_leaf(std::vector<kvm_cpuid_entry2>& entries, const CpuidOptions& options) {
    struct Level {
        uint32_t type;
        uint32_t shift;
        uint32_t count;
    };
    const std::array levels{Level{1, 0, 1}, Level{2, id_bits(options.cpus), options.cpus}, Level{0, 0, 0}};
    for (uint32_t i = 0; i < levels.size(); ++i) {
        kvm_cpuid_entry2 entry{};
        entry.function = 0xb;
        entry.index = i;
        entry.flags = KVM_CPUID_FLAG_SIGNIFCANT_INDEX;
        entry.eax = levels[i].shift;
        entry.ebx = levels[i].count;
        entry.ecx = (levels[i].type << 8) | i;
        entry.edx = options.cpu;
        entries.push_back(entry);
    }
}

// guard/casemate_abi.h, "Discovery".
void append_lock_leaves(std::vector<kvm_cpuid_entry2>& entries) {
    std::array<uint32_t, 3> signature{};
    static_assert(sizeof(CASEMATE_CPUID_SIGNATURE) == sizeof(signature));
    std::memcpy(signature.data(), CASEMATE_CPUID_SIGNATURE, sizeof(signature));
    entries.push_back({.function = CASEMATE_CPUID_SIGNATURE_LEAF,
                       .eax = CASEMATE_CPUID_FEATURES_LEAF,
                       .ebx = signature[0],
                       .ecx = signature[1],
                       .edx = signature[2]});
    entries.push_back({.function = CASEMATE_CPUID_FEATURES_LEAF,
                       .eax = CASEMATE_ABI_VERSION,
                       .ebx = CASEMATE_FEATURE_LOCKS});
}

} // namespace

std::vector<kvm_cpuid_entry2> make_cpuid(std::span<const kvm_cpuid_entry2> supported,
                                         const CpuidOptions& options) {
    std::vector<kvm_cpuid_entry2> entries;
    entries.reserve(supported.size() + 5);
    for (kvm_cpuid_entry2 entry : supported) {
        if (is_absent(entry.function) || entry.function == 0xb)
            continue;
        remove_features(entry, options);
        set_topology(entry, options);
        if (entry.function == 0 && entry.eax < 0xb)
            entry.eax = 0xb;
        entries.push_back(entry);
    }
    append_topology_leaf(entries, options);
    if (options.locks)
        append_lock_leaves(entries);
    return entries;
}

} // namespace casemate
