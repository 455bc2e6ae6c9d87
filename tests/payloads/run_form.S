/* SPDX-License-Identifier: Apache-2.0 */
/* run_form(routine): gives a store form its registers; every form ends at form_done, wherever its stack is. */
    .text
    .globl run_form
run_form:
    pushq %rbp
    pushq %rbx
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, form_stack(%rip)
    movq %rdi, %r11
    leaq form_registers(%rip), %r10
    movq 0(%r10), %rax
    movq 8(%r10), %rbx
    movq 16(%r10), %rcx
    movq 24(%r10), %rdx
    movq 32(%r10), %rbp
    movq 40(%r10), %r9
    movq 48(%r10), %r15
    leaq form_target(%rip), %rdi
    leaq form_source(%rip), %rsi
    pushq $2
    popfq
    jmp *%r11

    .globl form_done
form_done:
    movq form_stack(%rip), %rsp
    pushq $2
    popfq
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbx
    popq %rbp
    ret

    .bss
    .balign 8
form_stack:
    .quad 0

/* The page under attack, between two that must not change either. */
    .balign 4096
    .globl form_pages, form_target
form_pages:
    .skip 4096
    .skip 2048
form_target:
    .skip 2048
    .skip 4096

    .section .note.GNU-stack, "", @progbits
