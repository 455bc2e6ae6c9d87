/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * The hypercall interface between a guest kernel and the Casemate monitor, ABI version 1. This file is the
 * only definition: the monitor and the guest kernel patches hold the same bytes. It is plain C.
 *
 * Discovery. CPUID leaf 0x40000100 holds the largest leaf in eax and the signature "CASEMATEVMM\0" in
 * ebx:ecx:edx; as other hypervisors' leaves it may move in steps of 0x100, so scan 0x40000000..0x4000ff00.
 * The next leaf holds the ABI version in eax and the CASEMATE_FEATURE_* bits known at start in ebx; ecx and
 * edx are zero. A guest that finds no signature, or a version it does not know, must make no call.
 *
 * A call is KVM's hypercall 12 (KVM_HC_MAP_GPA_RANGE, linux Documentation/virt/kvm/x86/hypercalls.rst), with
 * the instruction that suits the CPU: VMCALL on Intel, VMMCALL on AMD (CPUID vendor; the wrong one is #UD).
 *
 *   rax  in: 12; out: 0 or more, or a negative CASEMATE_E*
 *   rbx  guest-physical address, a multiple of 4096
 *   rcx  number of 4096-byte pages, at least 1 (also for calls that take no range: pass address 0, 1 page)
 *   rdx  attributes: casemate_attributes()
 *
 * No other register changes, and no memory of the guest. KVM itself refuses, before the monitor sees the
 * call: CPL other than 0 (-CASEMATE_EPERM), a misaligned address, no page, or a range that wraps
 * (-CASEMATE_EINVAL). Without the mark in bits 63:48 the call is KVM's own (private and shared memory) and is
 * refused with -CASEMATE_EOPNOTSUPP. Any vCPU may call at any time; calls of several vCPUs take effect one
 * after the other. A call may take as long as a device's transfer that is under way.
 */
#ifndef CASEMATE_ABI_H
#define CASEMATE_ABI_H

#define CASEMATE_ABI_VERSION 1

#define CASEMATE_CPUID_SIGNATURE_LEAF 0x40000100
#define CASEMATE_CPUID_FEATURES_LEAF 0x40000101
/* Without its terminating zero: 11 characters, the twelfth byte of ebx:ecx:edx is 0. */
#define CASEMATE_CPUID_SIGNATURE "CASEMATEVMM"

#define CASEMATE_HYPERCALL 12
#define CASEMATE_PAGE_SHIFT 12

/*
 * Attributes (rdx): bits 63:48 the mark, 47:40 the call, 39:32 the policy, 31:5 the argument, 4:0 zero.
 * Fields that a call does not use must be zero, else -CASEMATE_EINVAL.
 */
#define CASEMATE_MARK 0xca5eULL
#define CASEMATE_MARK_SHIFT 48
#define CASEMATE_CALL_SHIFT 40
#define CASEMATE_POLICY_SHIFT 32
#define CASEMATE_ARGUMENT_SHIFT 5
#define CASEMATE_ARGUMENT_MAX 0x7ffffffULL

/* Calls. A number that is not here, or that this monitor does not have: -CASEMATE_ENOSYS. */

/*
 * FEATURES: no range, policy or argument. Returns CASEMATE_FEATURE_* bits as of now. May take some
 * milliseconds the first time: the monitor tries out what the host's page-table walker tolerates.
 */
#define CASEMATE_CALL_FEATURES 0ULL

/*
 * LOCK: makes the range's bytes unchangeable until the VM is gone, for every vCPU, every device and the
 * monitor itself; reading and executing go on as before. When it returns 0, no store that began earlier can
 * still land, on this or another vCPU or from a device. All pages are locked, or, with an error, none.
 *
 *   policy    what a later store does: CASEMATE_POLICY_*
 *   argument  what the range holds: CASEMATE_KIND_*; for reports, and see PAGE_TABLE there
 *
 * Locks are irrevocable. Locking a locked page again is allowed and leaves its kind; READ_ONLY is raised to
 * DIE_ON_WRITE, the reverse fails.
 *
 *   -CASEMATE_EFAULT      some page is not RAM
 *   -CASEMATE_EINVAL      unknown policy or kind, or a reserved bit is set
 *   -CASEMATE_EPERM       would lower the policy of some page; or after SEAL
 *   -CASEMATE_E2BIG       too many separate ranges; adjacent ranges of one policy and kind count as one
 *   -CASEMATE_EOPNOTSUPP  KIND_PAGE_TABLE where the host does not tolerate locked tables (FEATURES tells)
 */
#define CASEMATE_CALL_LOCK 1ULL

/* Numbers 2 to 6, 8 and 9 are kept for roots, text and table changes, and are refused for now. */
#define CASEMATE_CALL_ROOT_REFERENCE 2ULL
#define CASEMATE_CALL_ROOT_CHECK 3ULL
#define CASEMATE_CALL_ROOT_ARENA 4ULL
#define CASEMATE_CALL_ROOT_WRITE 5ULL
#define CASEMATE_CALL_ROOT_CLEAR 6ULL

/*
 * SEAL: no range, policy or argument. Says that the guest has locked all it wants: LOCK fails from now on.
 * Sealing again returns 0 and changes nothing.
 */
#define CASEMATE_CALL_SEAL 7ULL

#define CASEMATE_CALL_POKE_TEXT 8ULL
#define CASEMATE_CALL_TABLE_WRITE 9ULL

/*
 * Policies of a lock. Neither lets the store happen. READ_ONLY: the storing instruction raises #GP(0), the
 * monitor records it, and the guest goes on. Where the host can tell of the store only after the instruction,
 * it is dropped without an exception. A store that cannot be undone so (an exception frame that cannot be
 * pushed) ends the VM. DIE_ON_WRITE: the VM ends.
 */
#define CASEMATE_POLICY_READ_ONLY 0ULL
#define CASEMATE_POLICY_DIE_ON_WRITE 1ULL

/*
 * Kinds. PAGE_TABLE is for pages that the CPU's page walker reads: set the accessed bit in every present
 * entry, and the dirty bit in every entry that maps a page, before locking them, for the walker may no longer
 * do it.
 */
#define CASEMATE_KIND_TEXT 0ULL
#define CASEMATE_KIND_RODATA 1ULL
#define CASEMATE_KIND_PAGE_TABLE 2ULL
#define CASEMATE_KIND_DATA 3ULL

#define CASEMATE_FEATURE_LOCKS (1ULL << 0)		/* LOCK works */
#define CASEMATE_FEATURE_TABLES_ENFORCED (1ULL << 1)	/* LOCK takes KIND_PAGE_TABLE */
#define CASEMATE_FEATURE_TABLES_VERIFIED (1ULL << 2)	/* tables are compared with a copy instead */
#define CASEMATE_FEATURE_ROOT_CHECK (1ULL << 3)
#define CASEMATE_FEATURE_ROOT_ARENA (1ULL << 4)
#define CASEMATE_FEATURE_TEXT_POKE (1ULL << 5)
#define CASEMATE_FEATURE_SEALED (1ULL << 6)		/* SEAL has been called */

/* Errors, returned negated. The numbers are KVM's (linux include/uapi/linux/kvm_para.h). */
#define CASEMATE_EPERM 1
#define CASEMATE_E2BIG 7
#define CASEMATE_EFAULT 14
#define CASEMATE_EINVAL 22
#define CASEMATE_EOPNOTSUPP 95
#define CASEMATE_ENOSYS 1000

/* The value of rdx for a call. */
static inline unsigned long long casemate_attributes(unsigned long long call, unsigned long long policy,
						     unsigned long long argument)
{
	return CASEMATE_MARK << CASEMATE_MARK_SHIFT | call << CASEMATE_CALL_SHIFT |
	       policy << CASEMATE_POLICY_SHIFT | argument << CASEMATE_ARGUMENT_SHIFT;
}

#endif
