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
    case 0x3:        // serial number
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

// Leaves that KVM leaves to its user, filled with zeros or with the host's values: those of here are
// appended.
constexpr bool is_own(uint32_t leaf) {
    switch (leaf) {
    case 0xb:
    case 0x15:
    case 0x16: // frequencies that were for show: Linux takes the time stamp counter's without it
    case 0x80000002:
    case 0x80000003:
    case 0x80000004:
        return true;
    case KVM_CPUID_SIGNATURE:
    case KVM_CPUID_FEATURES:
        return false;
    default: // of hypervisors
        return leaf >> 28 == 4;
    }
}

// What KVM does for its guests beyond the processor's architecture, as far as the guard knows where it
// writes.
constexpr uint32_t paravirtual_features =
    bit(KVM_FEATURE_CLOCKSOURCE) | bit(KVM_FEATURE_NOP_IO_DELAY) | bit(KVM_FEATURE_CLOCKSOURCE2) |
    bit(KVM_FEATURE_ASYNC_PF) | bit(KVM_FEATURE_STEAL_TIME) | bit(KVM_FEATURE_PV_EOI) |
    bit(KVM_FEATURE_PV_UNHALT) | bit(KVM_FEATURE_PV_TLB_FLUSH) | bit(KVM_FEATURE_ASYNC_PF_VMEXIT) |
    bit(KVM_FEATURE_PV_SEND_IPI) | bit(KVM_FEATURE_POLL_CONTROL) | bit(KVM_FEATURE_PV_SCHED_YIELD) |
    bit(KVM_FEATURE_ASYNC_PF_INT) | bit(KVM_FEATURE_CLOCKSOURCE_STABLE_BIT);

// What VMware gave its meaning and others have taken over: kHz of the counter in eax, of the APIC timer in
// ebx.
constexpr uint32_t frequency_leaf = 0x40000010;
// Of KVM's APIC timer, unless KVM_CAP_X86_APIC_BUS_CYCLES_NS changes it.
constexpr uint32_t apic_bus_khz = 1000000;

// What the leaves of this processor depend on.
struct Processor {
    uint32_t largest_leaf = 0;
    bool amd = false;                // or Hygon
    std::optional<uint32_t> tsc_khz; // of a time stamp counter that never changes its pace
};

Processor processor_of(std::span<const kvm_cpuid_entry2> supported, const CpuidOptions& options) {
    Processor processor;
    for (const kvm_cpuid_entry2& entry : supported) {
        if (entry.function == 0) {
            processor.largest_leaf = entry.eax;
            // Bytes 0 to 3 of "AuthenticAMD" and "HygonGenuine".
            processor.amd = entry.ebx == 0x68747541 || entry.ebx == 0x6f677948;
        }
        if (entry.function == 0x80000007 && (entry.edx & bit(8)) != 0)
            processor.tsc_khz = options.tsc_khz;
    }
    return processor;
}

// Bits needed to tell `count` APIC ids apart.
constexpr uint32_t id_bits(uint32_t count) {
    return static_cast<uint32_t>(std::bit_width(count - 1));
}

void set_topology(kvm_cpuid_entry2& entry, const CpuidOptions& options, bool amd) {
    const uint32_t last = options.cpus - 1;
    // Cache sharing is counted in APIC ids, so in a power of two.
    const uint32_t package_ids = (bit(id_bits(options.cpus)))-1;
    const bool is_cache = (entry.eax & 0x1f) != 0; // of leaves 0x4 and 0x8000001d
    const uint32_t sharing_ids = ((entry.eax >> 5) & 7) >= 3 ? package_ids : 0;
    switch (entry.function) {
    case 0x1:
        entry.ebx = with_field(entry.ebx, 24, 8, options.cpu);
        entry.ebx = with_field(entry.ebx, 16, 8, options.cpus);
        entry.edx = with_field(entry.edx, 28, 1, options.cpus > 1 ? 1 : 0); // HTT: more than one id a package
        break;
    case 0x4:
        if (is_cache) {
            entry.eax = with_field(entry.eax, 26, 6, package_ids);
            entry.eax = with_field(entry.eax, 14, 12, sharing_ids);
        }
        break;
    case 0x80000001:
        entry.ecx = with_field(entry.ecx, 1, 1, amd && options.cpus > 1 ? 1 : 0); // CmpLegacy
        break;
    case 0x80000008:
        if (!amd)
            break;
        entry.ecx = with_field(entry.ecx, 0, 8, last);
        entry.ecx = with_field(entry.ecx, 12, 4, id_bits(options.cpus));
        break;
    case 0x8000001d:
        if (is_cache)
            entry.eax = with_field(entry.eax, 14, 12, sharing_ids);
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

void remove_features(kvm_cpuid_entry2& entry, const CpuidOptions& options, const Processor& processor) {
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
        if (entry.index == 0) {
            entry.ebx &= ~(bit(2) | bit(12) | bit(15) | bit(25)); // SGX, RDT monitoring and allocation, trace
            entry.ecx &= ~bit(30);                                // SGX launch control
            entry.edx &= ~(bit(18) | bit(19));                    // PCONFIG, branch records
        }
        break;
    case 0x80000001:
        // SVM, extended APIC space, IBS, SKINIT, watchdog, LWP, counters, MONITORX.
        entry.ecx &= ~(bit(2) | bit(3) | bit(10) | bit(12) | bit(13) | bit(15) | bit(23) | bit(24) | bit(27) |
                       bit(28) | bit(29));
        break;
    case 0x80000007:
        // The counter's constant pace alone. KVM says so of the host's; where it does not know the frequency,
        // it is not the host's clock either.
        entry.eax = entry.ebx = entry.ecx = 0;
        entry.edx = processor.tsc_khz ? bit(8) : 0;
        break;
    case KVM_CPUID_FEATURES:
        entry.eax &= paravirtual_features;
        entry.ebx = entry.ecx = 0;
        entry.edx = 0; // hints: this machine's CPUs are not reserved for it
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

void append_brand_leaves(std::vector<kvm_cpuid_entry2>& entries, const CpuBrand& brand) {
    uint32_t leaf = 0x80000002;
    for (auto part = brand.begin(); part != brand.end(); part += 4)
        entries.push_back(
            {.function = leaf++, .eax = part[0], .ebx = part[1], .ecx = part[2], .edx = part[3]});
}

// Of the time stamp counter and of the APIC timer, for guests that do not ask KVM's clock.
void append_frequency_leaves(std::vector<kvm_cpuid_entry2>& entries, const Processor& processor) {
    if (!processor.tsc_khz)
        return;
    entries.push_back({.function = frequency_leaf, .eax = *processor.tsc_khz, .ebx = apic_bus_khz});
    // SDM Vol. 2A, "CPUID", leaf 0x15: the counter's ratio to the crystal, which drives the APIC timer, and
    // the crystal's frequency in Hz.
    if (!processor.amd && processor.largest_leaf >= 0x15)
        entries.push_back(
            {.function = 0x15, .eax = apic_bus_khz, .ebx = *processor.tsc_khz, .ecx = apic_bus_khz * 1000});
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
    const Processor processor = processor_of(supported, options);
    std::vector<kvm_cpuid_entry2> entries;
    entries.reserve(supported.size() + 10);
    for (kvm_cpuid_entry2 entry : supported) {
        if (is_absent(entry.function) || is_own(entry.function))
            continue;
        remove_features(entry, options, processor);
        set_topology(entry, options, processor.amd);
        if (entry.function == 0)
            entry.eax = std::max(entry.eax, 0xbU);
        if (entry.function == 0x80000000)
            entry.eax = std::max(entry.eax, 0x80000004);
        if (entry.function == KVM_CPUID_SIGNATURE)
            entry.eax = processor.tsc_khz ? frequency_leaf : KVM_CPUID_FEATURES;
        entries.push_back(entry);
    }
    append_topology_leaf(entries, options);
    append_brand_leaves(entries, options.brand);
    append_frequency_leaves(entries, processor);
    if (options.locks)
        append_lock_leaves(entries);
    return entries;
}

} // namespace casemate
