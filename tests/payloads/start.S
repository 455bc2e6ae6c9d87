/* SPDX-License-Identifier: Apache-2.0 */
/* Entry of every payload: the 64-bit boot protocol's state, boot_params in rsi. */
    .section .text.start, "ax"
    .globl _start
_start:
    cld
    leaq stack_top(%rip), %rsp
    movq %rsi, %rdi
    call install_exception_handlers
    call payload_main
0:  hlt
    jmp 0b

/* One stub an exception vector, 16 bytes apart; vectors with an error code leave it where ours would be. */
    .balign 16
    .globl exception_stubs
exception_stubs:
    .set vector, 0
    .rept 32
    .balign 16
    .if (vector != 8) && ((vector < 10) || (vector > 14)) && (vector != 17) && (vector != 21)
    pushq $0
    .endif
    pushq $vector
    jmp common_exception
    .set vector, vector + 1
    .endr

common_exception:
    cld
    movq (%rsp), %rdi
    movq 8(%rsp), %rsi
    movq 16(%rsp), %rdx
    movq %cr2, %rcx
    andq $-16, %rsp
    call report_exception
0:  hlt
    jmp 0b

    .bss
    .balign 16
    .skip 65536
stack_top:

    .section .note.GNU-stack, "", @progbits
