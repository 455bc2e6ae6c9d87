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
