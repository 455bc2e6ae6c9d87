// SPDX-License-Identifier: Apache-2.0
// The one door to <linux/kvm.h>, with the constants that Debian 12's headers (6.1) do not have yet.
#pragma once

// The kernel's macro puts an empty struct before the array, which takes a byte in C++ and so moves the entries
// and changes the ioctl numbers.
#include <linux/stddef.h>
#undef __DECLARE_FLEX_ARRAY
#define __DECLARE_FLEX_ARRAY(TYPE, NAME) TYPE NAME[]

#include <linux/kvm.h>
#include <linux/kvm_para.h>

static_assert(sizeof(kvm_irq_routing) == 8 && sizeof(kvm_cpuid2) == 8 && sizeof(kvm_msrs) == 8);
static_assert(sizeof(kvm_signal_mask) == 4 && sizeof(kvm_msr_list) == 4);

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
