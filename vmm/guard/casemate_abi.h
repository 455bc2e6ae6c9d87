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
 * after the other, but for ROOT_CHECK, which goes on beside them. LOCK may take as long as a device's
 * transfer that is under way.
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
 * What KVM itself writes for the guest (wall clock, system time, async page faults, steal time, PV EOI) does
 * not happen in locked pages either, and KVM does not tell. So LOCK looks where the caller's MSRs for these
 * point, SEAL and the looks after it at those of all vCPUs: one that points into a locked page is a violation,
 * judged by policy and recorded once while it stays. After SEAL WRMSR to them raises #GP(0) instead.
 *
 *   -CASEMATE_EFAULT      some page is not RAM
 *   -CASEMATE_EINVAL      unknown policy or kind, or a reserved bit is set
 *   -CASEMATE_EPERM       would lower the policy of some page; or another kind for a page that is verified,
 *                         see KIND_PAGE_TABLE; or after SEAL
 *   -CASEMATE_E2BIG       too many separate ranges; adjacent ranges of one policy and kind count as one. Or
 *                         the pages of this call that are not locked yet are in more than
 *                         CASEMATE_LOCK_MAX_PIECES pieces, with locked ones between them: lock fewer at once.
 *                         Or more verified pages than 1024 and one for each MiB of RAM
 */
#define CASEMATE_CALL_LOCK 1ULL
#define CASEMATE_LOCK_MAX_PIECES 256ULL

/*
 * ROOT_REFERENCE: the page-table roots that the guest runs on from now on have the same kernel half as this
 * one, from the first kernel slot to 511. The monitor keeps a copy: the page itself may change. In long mode
 * only; 4 or 5 levels as the calling vCPU has them.
 *
 *   address, pages  the root; 2 pages with page table isolation, where every root is the first of a pair, a
 *                   multiple of 8192, and user space runs on the page behind it
 *   policy          what ROOT_CHECK does with another root: READ_ONLY refuses and records it, DIE_ON_WRITE
 *                   ends the VM
 *   argument        the first kernel slot, 256 to 511: that of the direct map
 *
 * Every table through which this root, or the one for user space, maps pages locked as TEXT or RODATA, or the
 * direct map, must be locked as PAGE_TABLE before. The direct map is all that lies at the same distance from
 * its guest-physical address as the first page that is mapped from the first kernel slot on. Asking again
 * with the same kernel half is allowed, and may raise the policy.
 *
 *   -CASEMATE_EFAULT      a page of the root is not RAM
 *   -CASEMATE_EINVAL      a bad slot or policy, not 1 or 2 pages, an odd pair, or the vCPU is not in long mode
 *   -CASEMATE_EPERM       there is a reference with another kernel half, first slot, paging mode or number of
 *                         pages, or with a higher policy; or after SEAL
 *   -CASEMATE_EOPNOTSUPP  one of those tables is not locked
 *   -CASEMATE_E2BIG       there is more below than the monitor walks: 262144 and 64 for each MiB of RAM, where
 *                         a present entry counts 1 and a table 16
 */
#define CASEMATE_CALL_ROOT_REFERENCE 2ULL

/*
 * ROOT_CHECK: no policy or argument. Compares the root in the caller's CR3, and the one that `address` names
 * if it is not 0: the root that the guest is about to load. Ask before loading CR3: code that asks afterwards
 * is already what the new root maps. A wrong root in CR3 is recorded, or ends the VM, but is no reason against
 * going on to a right one. Of a pair, both pages are compared, whichever is named or loaded. Some of the
 * verified tables are compared too: 64 a call, by turns; and up to 1024 when a root is wrong.
 *
 * Compared are address, rights (P, R/W, U/S, NX), caching and PS of the kernel slots; not A, D, nor what the
 * CPU ignores (bits 11:9 and 62:52). Of a pair's first page the present slots 0 to 255 must have NX, if
 * EFER.NXE was set at ROOT_REFERENCE. The paging mode (CR0.PG, CR4.PAE, CR4.LA57, EFER.LMA, EFER.NXE) must be
 * that of ROOT_REFERENCE.
 *
 * Once there is an arena, a root is right when it is one of the arena's (of a pair, either page) or the
 * reference itself. A guest that compares the roots it loads with the arena's bounds need not ask.
 *
 *   -CASEMATE_EPERM   the root named is not right, or, if none is, the one in CR3: do not load it
 *   -CASEMATE_EINVAL  no ROOT_REFERENCE yet; or not 1 page
 */
#define CASEMATE_CALL_ROOT_CHECK 3ULL

/*
 * ROOT_ARENA: gives the range to the monitor as a pool of roots, numbered from 0: a page each, or two with
 * page table isolation. The monitor overwrites it: every root gets the kernel half of ROOT_REFERENCE and an
 * empty user half. The range is locked as PAGE_TABLE from then on, and only the next two calls change it: so
 * every root in it is right at all times, and going from one to another needs no ROOT_CHECK. Once only.
 *
 *   address, pages  the pool, at most CASEMATE_ARENA_MAX_PAGES; with page table isolation both are even
 *   policy          what a store to it does: CASEMATE_POLICY_*
 *   argument        0
 *
 *   -CASEMATE_EFAULT      some page is not RAM
 *   -CASEMATE_EINVAL      no ROOT_REFERENCE yet; odd with page table isolation; unknown policy
 *   -CASEMATE_EPERM       some page is locked, or a page of the reference; there is an arena; or after SEAL
 *   -CASEMATE_E2BIG       too many pages, or the host has no memory for them
 *   -CASEMATE_EOPNOTSUPP  the host does not tolerate locked tables; or the reference is not locked as
 *                         PAGE_TABLE
 */
#define CASEMATE_CALL_ROOT_ARENA 4ULL
#define CASEMATE_ARENA_MAX_PAGES (1ULL << 18)

/*
 * ROOT_WRITE: links one table into the user half of a root in the arena, or takes it out. Also after SEAL.
 *
 *   address   the table (1 page); 0 takes the entry out
 *   policy    0
 *   argument  CASEMATE_ROOT_ENTRY(root, slot): the root's number, and a slot below 256
 *
 * The monitor writes the entry: P, R/W, U/S, A and D; with page table isolation the same in both pages of the
 * pair, and NX in the first. To link what is linked already changes nothing. The guest flushes its TLBs as
 * after any change of a table.
 *
 *   -CASEMATE_EFAULT  the table is not RAM
 *   -CASEMATE_EINVAL  no arena, no such root, or not 1 page
 *   -CASEMATE_EPERM   a slot of the kernel half; the table is locked or in the arena; another table is linked
 *                     there, which must be taken out first
 */
#define CASEMATE_CALL_ROOT_WRITE 5ULL

/*
 * ROOT_CLEAR: takes every entry out of the user half of a root, for one that is freed. No CPU runs on it. No
 * range; argument CASEMATE_ROOT_ENTRY(root, 0). Also after SEAL.
 *
 *   -CASEMATE_EINVAL  no arena, no such root, a slot, or not 1 page
 */
#define CASEMATE_CALL_ROOT_CLEAR 6ULL

/* The argument of ROOT_WRITE and ROOT_CLEAR: the slot in its low 9 bits. */
#define CASEMATE_ROOT_ENTRY(root, slot) (((root) << 9) | (slot))

/*
 * ROOT_CLOCK: gives a page to the monitor that tells each vCPU when to ask ROOT_CHECK again, for a guest that
 * compares roots by itself in locked text meanwhile. The page is locked as DATA from then on, and the monitor
 * alone writes to it: at byte 8 * n the value of vCPU n's TSC from which on vCPU n has to ask, 0 (at once) at
 * first; each ROOT_CHECK of vCPU n sets it to the TSC of that moment and the interval. Numbers are those of
 * the local APICs. Once only.
 *
 *   address   the page
 *   policy    what a store to it does: CASEMATE_POLICY_*
 *   argument  the interval, in units of 1024 cycles of the TSC, at least 1
 *
 *   -CASEMATE_EFAULT  the page is not RAM
 *   -CASEMATE_EINVAL  no ROOT_REFERENCE yet; no interval; unknown policy; not 1 page
 *   -CASEMATE_EPERM   the page is locked; there is a clock; or after SEAL
 *   -CASEMATE_E2BIG   as LOCK
 */
#define CASEMATE_CALL_ROOT_CLOCK 10ULL
#define CASEMATE_ROOT_CLOCK_UNIT_SHIFT 10

/* Numbers 8 and 9 are kept for text and table changes, and are refused for now. */
#define CASEMATE_CALL_POKE_TEXT 8ULL
#define CASEMATE_CALL_TABLE_WRITE 9ULL

/*
 * SEAL: no range, policy or argument. Says that the guest has locked all it wants: LOCK, ROOT_REFERENCE,
 * ROOT_ARENA and ROOT_CLOCK fail from now on. Sealing again returns 0 and changes nothing.
 *
 * It pins, for each vCPU, IDTR; LSTAR, STAR, CSTAR, SFMASK and the SYSENTER MSRs; CR0.PE and PG, CR4.PAE and
 * LA57, EFER.SCE, LME, LMA and NXE; and, if they are set, CR0.WP, CR4.SMEP, SMAP and UMIP. From then on WRMSR
 * of another value to one of these MSRs raises #GP(0), and the monitor looks at every vCPU now and then: when
 * it finds another value, or a root that ROOT_CHECK would not take, the VM ends. A vCPU that waits for its
 * start-up IPI at that time must never get one.
 *
 * Pinned, too, is where these lead: guest-physical page and rights (R/W, U/S, NX) of every page of the IDT up
 * to vector 255, in long mode of what the present gates in locked pages lead to, of LSTAR and CSTAR if
 * EFER.SCE is set, and of SYSENTER_EIP if SYSENTER_CS is valid; in both roots of a pair. What leads nowhere
 * has to go on doing so, but in the lower half. If a table under verification leads elsewhere, its own policy
 * counts; else the VM ends.
 */
#define CASEMATE_CALL_SEAL 7ULL

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
 *
 * With CASEMATE_FEATURE_TABLES_VERIFIED a table is not unchangeable but verified: the monitor keeps a copy,
 * refuses it to devices, and compares it at each ROOT_CHECK and violation, and whenever it looks at the vCPUs
 * (SEAL), in what ROOT_CHECK compares. A store of a vCPU takes effect until then. If the policy is READ_ONLY
 * the entries are then written back and the change is recorded; what CPUs have in their TLBs meanwhile stays
 * there until they flush it. If it is DIE_ON_WRITE the VM ends. The guest must leave such a table alone as a
 * locked one, accessed and dirty bits aside, which the walker goes on setting.
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
#define CASEMATE_FEATURE_ROOT_CLOCK (1ULL << 7)

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
