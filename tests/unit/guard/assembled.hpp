// SPDX-License-Identifier: Apache-2.0
// Assembled: instruction bytes made by the compiler's assembler, in Intel syntax, and a vCPU to decode them
// for.
#pragma once

#include "guard/instruction.hpp"

#include <cstddef>
#include <span>

// The bytes of `text` as 64-, 32- or 16-bit code.
#define CASEMATE_ASSEMBLED(bits, text)                                                                       \
    ([]() -> std::span<const std::byte> {                                                                    \
        const std::byte* first = nullptr;                                                                    \
        const std::byte* last = nullptr;                                                                     \
        asm(".pushsection .rodata\n.code" #bits "\n.intel_syntax noprefix\n771: " text                       \
            "\n772:\n.att_syntax prefix\n.code64\n.popsection\n"                                             \
            "lea 771b(%%rip), %0\nlea 772b(%%rip), %1"                                                       \
            : "=r"(first), "=r"(last));                                                                      \
        return {first, last};                                                                                \
    }())
#define CODE64(text) CASEMATE_ASSEMBLED(64, text)
#define CODE32(text) CASEMATE_ASSEMBLED(32, text)
#define CODE16(text) CASEMATE_ASSEMBLED(16, text)

namespace casemate {

inline constexpr uint64_t test_rip = 0xffffffff81000000;
inline constexpr uint64_t test_rbx = 0xffff888000001000; // where most stores go
inline constexpr uint64_t test_rsp = 0xffffc90000004000;
inline constexpr uint64_t test_rdi = 0xffff888000002000;
inline constexpr uint64_t test_gs_base = 0xffff88803f000000;

// 64-bit code with paging, every register different.
inline CpuState state_64() {
    CpuState state;
    kvm_regs& r = state.registers;
    r.rax = 0xa7a6a5a4a3a2a1a0;
    r.rcx = 0xc7c6c5c4c3c2c1c0;
    r.rdx = 0xd7d6d5d4d3d2d1d0;
    r.rbx = test_rbx;
    r.rsp = test_rsp;
    r.rbp = 0xffffc90000005000;
    r.rsi = 0x40;
    r.rdi = test_rdi;
    r.r8 = 0x8888777766665555;
    r.r9 = 0x9999aaaabbbbcccc;
    r.r10 = 0x10;
    r.r11 = 0x11;
    r.r12 = 0xffff888000012000;
    r.r13 = 0xffff888000013000;
    r.r14 = 0xffff888000014000;
    r.r15 = 0xf7f6f5f4f3f2f1f0;
    r.rip = test_rip;
    r.rflags = 0x10002;
    kvm_sregs& s = state.system;
    s.cr0 = 0x80050033;
    s.cr4 = 0x20;
    s.efer = 0xd01;
    s.cs = {.selector = 0x10, .l = 1};
    s.ss = {.selector = 0x18, .db = 1};
    s.ds = {.base = 0x7000, .selector = 0x2b}; // ignored in 64-bit code
    s.es = {.base = 0x8000, .selector = 0x2c};
    s.fs = {.base = 0x00007f0000000000, .selector = 0x33};
    s.gs = {.base = test_gs_base, .selector = 0x3b};
    s.ldt.selector = 0x1d7;
    s.tr.selector = 0x40;
    s.gdt = {.base = 0xfffffe0000001000, .limit = 0x7f};
    s.idt = {.base = 0xfffffe0000000000, .limit = 0xfff};
    for (unsigned i = 0; i < 16; ++i)
        for (unsigned j = 0; j < 16; ++j)
            state.fpu.xmm[i][j] = static_cast<uint8_t>(i << 4U | j);
    state.fpu.fcw = 0x37f;
    state.fpu.fsw = 0x3800;
    return state;
}

inline CpuState state_32() {
    CpuState state = state_64();
    state.system.efer = 0;
    state.system.cr0 = 0x11;
    state.system.cr4 = 0;
    state.system.cs = {.base = 0x100, .selector = 0x08, .db = 1};
    state.system.ss = {.base = 0x9000, .selector = 0x10, .db = 1};
    state.registers.rip = 0x400000;
    state.registers.rbx = 0xdead000000005000; // the upper half is left over
    state.registers.rsp = 0xdead000000008000;
    state.registers.rbp = 0xdead000000006000;
    state.registers.rdi = 0xdead000000007000;
    return state;
}

inline CpuState state_16() {
    CpuState state = state_32();
    state.system.cr0 = 0x10;
    state.system.cs = {.base = 0x10000, .selector = 0x1000};
    state.system.ss = {.base = 0x20000, .selector = 0x2000};
    state.system.ds = {.base = 0x30000, .selector = 0x3000};
    state.system.es = {.base = 0x40000, .selector = 0x4000};
    state.registers.rip = 0x1234;
    return state;
}

} // namespace casemate
