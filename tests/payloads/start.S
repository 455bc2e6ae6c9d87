/* SPDX-License-Identifier: Apache-2.0 */
/* Entry of every payload (the 64-bit boot protocol's state, boot_params in rsi), exceptions, ring 3, CPU 1. */
    .section .text.start, "ax"
    .globl _start
_start:
    cld
    leaq stack_top(%rip), %rsp
    movq %rsi, %rdi
    call start_runtime
    call payload_main
0:  hlt
    jmp 0b

    .text
/* One stub a vector, 16 bytes apart; vectors with an error code leave it where ours would be. */
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

    .globl leave_ring3_stub
leave_ring3_stub:
    pushq $0
    pushq $0x80
    jmp common_exception

/* Interrupts of the local APIC are counted and not acknowledged: the payload decides when. */
    .globl interrupt_stub
interrupt_stub:
    lock incq interrupts_seen(%rip)
    iretq

common_exception:
    cld
    pushq %rax
    pushq %rbx
    pushq %rcx
    pushq %rdx
    pushq %rsi
    pushq %rdi
    pushq %rbp
    pushq %r8
    pushq %r9
    pushq %r10
    pushq %r11
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, %rdi
    movq %rsp, %rbp
    andq $-16, %rsp
    call handle_exception
    movq %rbp, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %r11
    popq %r10
    popq %r9
    popq %r8
    popq %rbp
    popq %rdi
    popq %rsi
    popq %rdx
    popq %rcx
    popq %rbx
    popq %rax
    addq $16, %rsp
    iretq

/* call_catching(function, argument, saved_rsp): handle_exception() goes on at catch_return with *saved_rsp. */
    .globl call_catching
call_catching:
    pushq %rbp
    pushq %rbx
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    subq $8, %rsp
    movq %rsp, (%rdx)
    movq %rdi, %rax
    movq %rsi, %rdi
    call *%rax
    .globl catch_return
catch_return:
    addq $8, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbx
    popq %rbp
    ret

/* enter_ring3(rip, rsp, rdi, rsi): only an exception or int $0x80 comes back, to the catch point. */
    .globl enter_ring3
enter_ring3:
    pushq $0x23
    pushq %rsi
    pushq $2
    pushq $0x2b
    pushq %rdi
    movq %rdx, %rdi
    movq %rcx, %rsi
    iretq

/* call_on_stack(function, argument, top): returns on the caller's stack. */
    .globl call_on_stack
call_on_stack:
    pushq %rbp
    movq %rsp, %rbp
    movq %rdx, %rsp
    movq %rdi, %rax
    movq %rsi, %rdi
    call *%rax
    movq %rbp, %rsp
    popq %rbp
    ret

/* CPU 1 from its start-up interrupt (SDM Vol. 3A, "Multiple-Processor Initialization") to 64 bits. Copied to
   second_cpu_page below 1 MiB; start_second_cpu() puts CR3 in. */
    .set second_cpu_page, 0x8000
    .code16
    .globl second_cpu_code, second_cpu_cr3, second_cpu_code_end
second_cpu_code:
    cli
    cld
    xorw %ax, %ax
    movw %ax, %ds
    lgdtl second_cpu_page + (second_cpu_gdt_pointer - second_cpu_code)
    movl $0x20, %eax /* PAE */
    movl %eax, %cr4
    movl second_cpu_page + (second_cpu_cr3 - second_cpu_code), %eax
    movl %eax, %cr3
    movl $0xc0000080, %ecx /* EFER.LME */
    rdmsr
    orl $0x100, %eax
    wrmsr
    movl $0x80000011, %eax /* PG, ET, PE */
    movl %eax, %cr0
    ljmpl $0x10, $second_cpu_long
    .balign 8
second_cpu_gdt:
    .quad 0, 0, 0x00af9b000000ffff, 0x00cf93000000ffff
second_cpu_gdt_pointer:
    .word 31
    .long second_cpu_page + (second_cpu_gdt - second_cpu_code)
    .balign 4
second_cpu_cr3:
    .long 0
second_cpu_code_end:
    .code64
second_cpu_long:
    movw $0x18, %ax
    movw %ax, %ds
    movw %ax, %es
    movw %ax, %ss
    leaq second_stack_top(%rip), %rsp
    call run_second_cpu
0:  cli
    hlt
    jmp 0b

    .bss
    .balign 16
    .skip 65536
stack_top:
    .skip 65536
second_stack_top:

    .section .note.GNU-stack, "", @progbits
