// SPDX-License-Identifier: Apache-2.0
// The one door to <linux/kvm.h>, with the constants that Debian 12's headers (6.1) do not have yet.
#pragma once

#include <cstddef>

// Headers before linux v6.6 put an empty structure before each list's entries: no bytes in C, but one in C++,
// and with it another entry offset and another ioctl number (KVM then answers EINVAL).
#include <linux/stddef.h>
#undef __DECLARE_FLEX_ARRAY
// NOLINTNEXTLINE(bugprone-reserved-identifier): the name is the kernel's.
#define __DECLARE_FLEX_ARRAY(type, name) type name[0]

#include <linux/kvm.h>
#include <linux/kvm_para.h>

static_assert(sizeof(kvm_cpuid2) == 8 && offsetof(kvm_cpuid2, entries) == 8);
static_assert(sizeof(kvm_msrs) == 8 && offsetof(kvm_msrs, entries) == 8);
static_assert(sizeof(kvm_irq_routing) == 8 && offsetof(kvm_irq_routing, entries) == 8);
static_assert(sizeof(kvm_signal_mask) == 4 && offsetof(kvm_signal_mask, sigset) == 4);

// linux v6.12 include/uapi/linux/kvm.h and later ones.
#ifndef KVM_CAP_MEMORY_ATTRIBUTES
#define KVM_CAP_MEMORY_ATTRIBUTES 233
#endif
#ifndef KVM_CAP_GUEST_MEMFD
#define KVM_CAP_GUEST_MEMFD 234
#endif
#ifndef KVM_CAP_GUEST_MEMFD_FLAGS
#define KVM_CAP_GUEST_MEMFD_FLAGS 244
#endif
#ifndef KVM_EXIT_MEMORY_FAULT
#define KVM_EXIT_MEMORY_FAULT 39
#endif
// tools/host-kernel-patches.
#define KVM_CAP_X86_DISABLE_EPT_AD 1000

namespace casemate {

// struct kvm_memory_attributes of linux v6.8.
struct KvmMemoryAttributes {
    __u64 address;
    __u64 size;
    __u64 attributes;
    __u64 flags;
};
inline constexpr unsigned long kvm_set_memory_attributes = _IOW(KVMIO, 0xd2, KvmMemoryAttributes);
// Bit 3 is in linux v6.8; 0 to 2 are in "KVM: x86: memory protections", an RFC of June 2024, and, as 16 is,
// in tools/host-kernel-patches.
inline constexpr __u64 kvm_attribute_no_write = 1ULL << 1U;
inline constexpr __u64 kvm_attribute_private = 1ULL << 3U;
inline constexpr __u64 kvm_attribute_immutable = 1ULL << 16U;

// kvm_run's memory_fault of linux v6.8; the flags, but for PRIVATE, are of tools/host-kernel-patches.
struct KvmMemoryFault {
    __u64 flags;
    __u64 gpa; // of the first byte
    __u64 size;
};
inline constexpr __u64 kvm_memory_fault_write = 1ULL << 1U;
inline constexpr __u64 kvm_memory_fault_page_walk = 1ULL << 4U;
static_assert(sizeof(KvmMemoryFault) <= sizeof(kvm_run::padding));

// After KVM_EXIT_MEMORY_FAULT.
inline KvmMemoryFault memory_fault(const kvm_run& run) {
    KvmMemoryFault fault;
    __builtin_memcpy(&fault, run.padding, sizeof(fault));
    return fault;
}

} // namespace casemate
