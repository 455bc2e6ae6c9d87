/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The probe guests of `casemate check`: 64-bit supervisor code that one vCPU runs in a throwaway VM.
 *
 * The monitor copies everything between casemate_probe_code and casemate_probe_code_end into guest memory as
 * it is, so the code is position-independent and keeps no data: what a probe works on comes in registers. A
 * probe stops with `out %al` to casemate_probe_stop_port; AL is the probe's own code, the other registers are
 * its results. There is no interrupt descriptor table: an exception becomes a triple fault, KVM_EXIT_SHUTDOWN.
 */

#define STOP_PORT 0xf4

.macro export name
	.globl	\name
	.hidden	\name
\name:
.endm

.macro stop
	out	%al, $STOP_PORT
.endm

/*
 * The instruction mix of the speed probe: loads, stores, arithmetic, a branch that depends on the data, a call
 * and a return. All of it is legal in user mode as well, so the monitor times the very same bytes there.
 * rdi = 4 KiB of memory, rsi = rounds; returns rax = a checksum that both sides must agree on.
 */
.macro instruction_mix
	mov	$0x9e3779b97f4a7c15, %rax
	mov	%rsi, %rcx
1:	mov	%rax, %rdx			/* xorshift64, Marsaglia: "Xorshift RNGs", 2003 */
	shl	$13, %rdx
	xor	%rdx, %rax
	mov	%rax, %rdx
	shr	$7, %rdx
	xor	%rdx, %rax
	mov	%rax, %rdx
	shl	$17, %rdx
	xor	%rdx, %rax
	mov	%eax, %edx
	and	$0xff8, %edx			/* an aligned quadword of the page */
	add	(%rdi,%rdx), %rax
	mov	%rax, (%rdi,%rdx)
	test	$1, %al
	jz	2f
	call	3f
2:	dec	%rcx
	jnz	1b
	jmp	4f
3:	addq	$1, (%rdi)
	ret
4:
.endm

	/* Read-only data for the monitor: it never executes this copy. */
	.section .rodata.casemate_probe_code, "a", @progbits
export casemate_probe_code

/* rdi = address, rsi = value. The store is the first instruction. */
export casemate_probe_store
	mov	%rsi, (%rdi)
export casemate_probe_store_done
	mov	$1, %al
	stop
	hlt

/* rdi = address to read, after a reload of CR3 so that the tables are walked. rbx = what was read. */
export casemate_probe_walk
	mov	%cr3, %rax
	mov	%rax, %cr3
	mov	(%rdi), %rbx
	mov	$1, %al
	stop
	hlt

/* KVM hypercall: rax = number, rbx, rcx, rdx, rsi = arguments; rax = result (linux v6.12
   Documentation/virt/kvm/x86/hypercalls.rst). Intel's instruction and AMD's. */
export casemate_probe_vmcall
	vmcall
	mov	%rax, %rbx
	mov	$1, %al
	stop
	hlt
export casemate_probe_vmmcall
	vmmcall
	mov	%rax, %rbx
	mov	$1, %al
	stop
	hlt

/* ecx = MSR, edx:eax = value. */
export casemate_probe_wrmsr
	wrmsr
	mov	$1, %al
	stop
	hlt

/* Never stops: what the watchdog is for. */
export casemate_probe_spin
	jmp	casemate_probe_spin

/* Stops with 1 so that the clock starts when the guest is warm, runs the mix, stops with 2. rbx = checksum. */
export casemate_probe_speed
	mov	%rsi, %r8
	mov	$16, %esi
	instruction_mix
	mov	%r8, %rsi
	mov	$1, %al
	stop
	instruction_mix
	mov	%rax, %rbx
	mov	$2, %al
	stop
	hlt

export casemate_probe_code_end

	.section .rodata.casemate_probe_stop_port, "a", @progbits
	.globl	casemate_probe_stop_port
	.hidden	casemate_probe_stop_port
	.balign	2
casemate_probe_stop_port:
	.short	STOP_PORT

/* uint64_t casemate_instruction_mix(void* page, uint64_t rounds): the mix as a host function. */
	.section .text.casemate_instruction_mix, "ax", @progbits
	.globl	casemate_instruction_mix
	.hidden	casemate_instruction_mix
	.type	casemate_instruction_mix, @function
	.balign	16
casemate_instruction_mix:
	instruction_mix
	ret
	.size	casemate_instruction_mix, . - casemate_instruction_mix

	.section .note.GNU-stack, "", @progbits
