// SPDX-License-Identifier: Apache-2.0
// The one door to <linux/kvm.h>, with the constants that Debian 12's headers (6.1) do not have yet.
#pragma once

#include <linux/kvm.h>
#include <linux/kvm_para.h>

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
