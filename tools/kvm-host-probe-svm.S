/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A firmware that finds out whether an emulated SVM intercepts a guest's
 * mov %cr3, %reg, as shadow paging needs: tools/python/svm_probe.py says why.
 * It runs two instructions as a guest, with an intercept of CR3 reads and none
 * of CR0's, and ends the machine with QEMU's isa-debug-exit: the low byte of
 * the guest's exit code, which AMD's manual (volume 2, appendix C, "SVM
 * intercept exit codes") calls VMEXIT_CR3_READ or VMEXIT_HLT.
 */
#define DEBUG_EXIT 0x501

/* The VMCB: AMD's manual, volume 2, appendix B, "Layout of VMCB". */
#define VMCB 0x10000
#define CR_READ_INTERCEPTS (VMCB + 0x000)
#define MORE_INTERCEPTS (VMCB + 0x00c)
#define SVM_INTERCEPTS (VMCB + 0x010)
#define ASID (VMCB + 0x058)
#define EXIT_CODE (VMCB + 0x070)
#define SEGMENT(n) (VMCB + 0x400 + 16 * (n)) /* ES, CS, SS, DS: selector, attributes, limit, base */
#define EFER (VMCB + 0x4d0)
#define CR0 (VMCB + 0x558)
#define DR7 (VMCB + 0x560)
#define RFLAGS (VMCB + 0x570)
#define RIP (VMCB + 0x578)
#define HOST_SAVE 0x11000

    .text
    .org 0 /* 0xffff0000 */
    .code32
protected:
    mov $16, %eax
    mov %eax, %ds
    mov %eax, %es
    mov %eax, %ss

    mov $0xc0000080, %ecx /* EFER */
    rdmsr
    or $0x1000, %eax /* SVME */
    wrmsr
    mov $0xc0010117, %ecx /* VM_HSAVE_PA */
    mov $HOST_SAVE, %eax
    xor %edx, %edx
    wrmsr

    /* The machine's memory is zero. */
    movl $1 << 3, CR_READ_INTERCEPTS
    movl $1 << 24, MORE_INTERCEPTS /* HLT */
    movl $1, SVM_INTERCEPTS        /* VMRUN, without which nothing runs */
    movl $1, ASID
    movl $0x0c9b0008, SEGMENT(1)
    movl $0xffffffff, SEGMENT(1) + 4
    .irp segment, 0, 2, 3
    movl $0x0c930010, SEGMENT(\segment)
    movl $0xffffffff, SEGMENT(\segment) + 4
    .endr
    movl $0x1000, EFER
    movl $0x11, CR0 /* PE, ET */
    movl $0x400, DR7
    movl $2, RFLAGS
    movl $guest, RIP
    mov $VMCB, %eax
    vmrun %eax

    mov $DEBUG_EXIT, %dx
    mov EXIT_CODE, %al
    out %al, %dx
    hlt

guest:
    mov %cr3, %eax
    hlt

    .balign 8
gdt:
    .quad 0, 0x00cf9a000000ffff, 0x00cf92000000ffff
gdt_pointer:
    .word 23
    .long gdt

    .org 0xff00
    .code16
real:
    cli
    lgdtl %cs:gdt_pointer - protected
    mov %cr0, %eax
    or $1, %al
    mov %eax, %cr0
    ljmpl $8, $protected

    .org 0xfff0 /* where the processor starts */
    jmp real
    .org 0x10000, 0
