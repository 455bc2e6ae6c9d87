#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Prints the assembly of every form in which an x86-64 CPU stores to memory,
with what each must leave there: a table for attack_forms.cpp. A form starts
with the registers below and the target at a page's middle."""

import struct

MASK = {8: 0xFF, 16: 0xFFFF, 32: 0xFFFFFFFF, 64: 0xFFFFFFFFFFFFFFFF}
SIZE = {8: "byte", 16: "word", 32: "dword", 64: "qword"}
A = {8: "al", 16: "ax", 32: "eax", 64: "rax"}
B = {8: "bl", 16: "bx", 32: "ebx", 64: "rbx"}
D = {8: "dl", 16: "dx", 32: "edx", 64: "rdx"}
R9 = {8: "r9b", 16: "r9w", 32: "r9d", 64: "r9"}

# The runner's run_form takes these from the table's symbols; rdi is the
# target, rsi the source, flags are clear.
RAX, RBX, RCX, RDX = 0x8192A3B4C5D6E7F1, 0x1F2E3D4C5B6A7988, 3, 0x7766554433221106
RBP, R9_VALUE, R15 = 0x0123456789ABCDE7, 0x6A5B4C3D2E1F0918, 0x13579BDF02468ACE
FLOAT = -1234567.0  # exact in every format that is stored


def pattern(i):
    """What attack_forms.cpp fills the target's pages with."""
    return (i * 0x5B + 0x9D) & 0xFF


def source(i):
    return pattern(i) ^ 0xFF


def initial(offset, count):
    return bytes(pattern(offset + i) for i in range(count))


def sourced(offset, count):
    return bytes(source(offset + i) for i in range(count))


def number(value, bits):
    return (value & MASK[bits]).to_bytes(bits // 8, "little")


forms = []
SETUPS = {
    "xmm": ["movdqu xmm1, [rsi]"],
    "mmx": ["movq mm1, [rsi]"],
    # Some emulated hosts lose XCR0 at each entry of the guest.
    "avx": ["xor ecx, ecx", "xor edx, edx", "mov eax, [rip + form_xcr0]", "xsetbv",
            "mov ecx, 3", "vmovdqu ymm1, [rsi]"],
    "avx512": ["xor ecx, ecx", "xor edx, edx", "mov eax, [rip + form_xcr0]", "xsetbv",
               "vmovdqu64 zmm1, [rsi]", "kxnorw k1, k1, k1"],
    "x87": ["fninit", "fld qword ptr [rip + form_float]"],
}


def form(name, insn, expected=b"", offset=0, span=None, feature="", setup=(), after=(),
         attack=10, same=False, retry=False, bits32=False):
    """expected: bytes (or lines of assembly, 8 bytes each) that must be at target +
    offset afterwards; span: (offset, count) where bytes may change to what
    nobody can tell. Bytes outside both must stay."""
    setup = [line for s in ([setup] if isinstance(setup, str) else setup) for line in SETUPS.get(s, [s])]
    retry = retry or any("xsetbv" in line for line in setup)
    if isinstance(expected, bytes) and expected:
        changes = initial(offset, len(expected)) != expected
        assert changes != same, f"{name} stores what is there"
    assert expected or span or same, name
    if bits32:  # in compatibility mode, by a far return and a far jump back
        setup = ["push 0x50", "lea r8, [rip + 7f]", "push r8", ".byte 0x48, 0xcb", ".code32", "7:", *setup]
        after = [*after, ".byte 0xea", ".long form_done", ".word 0x10", ".code64"]
    forms.append((name + ("_same" if same else ""), insn, expected, offset, span or (0, 0), feature, setup,
                  after, attack, same, retry))


def mem(bits, address="rdi"):
    return f"{SIZE[bits]} ptr [{address}]"


# --- mov ---------------------------------------------------------------------


def moves():
    for w in MASK:
        form(f"mov_m{w}_r", f"mov {mem(w)}, {A[w]}", number(RAX, w))
        form(f"mov_m{w}_r9", f"mov {mem(w)}, {R9[w]}", number(R9_VALUE, w))
        value = 0x5A5AA5A5 & MASK[min(w, 32)]
        form(f"mov_m{w}_imm", f"mov {mem(w)}, {value:#x}", number(value, w))
        opcode = {8: "0xa2", 16: "0x66, 0xa3", 32: "0xa3", 64: "0x48, 0xa3"}[w]
        form(f"mov_moffs{w}", f".byte {opcode}; .quad form_target", number(RAX, w))
    form("mov_m64_imm_negative", "mov qword ptr [rdi], -2", number(-2, 64))
    form("mov_m8_ah", "mov byte ptr [rdi], ah", bytes([RAX >> 8 & 0xFF]))
    form("mov_m8_sil", "mov byte ptr [rdi], bpl", bytes([RBP & 0xFF]))
    for register in ("cs", "ds", "es", "ss", "fs", "gs"):
        setup = [] if register == "cs" else ["mov eax, 0x18", f"mov {register}, eax"]
        form(f"mov_m16_{register}", f"mov word ptr [rdi], {register}",
             number(0x10 if register == "cs" else 0x18, 16), setup=setup)
    for w in (16, 32, 64):
        form(f"movbe_m{w}", f"movbe {mem(w)}, {A[w]}", number(RAX, w)[::-1], feature="movbe")
    for w in (32, 64):
        form(f"movnti_m{w}", f"movnti {mem(w)}, {A[w]}", number(RAX, w))


# --- read, change, write -----------------------------------------------------

ARITHMETIC = {
    "add": lambda m, r: m + r, "or": lambda m, r: m | r, "adc": lambda m, r: m + r + 1,
    "sbb": lambda m, r: m - r - 1, "and": lambda m, r: m & r, "sub": lambda m, r: m - r,
    "xor": lambda m, r: m ^ r,
}


def read(w, offset=0):
    return int.from_bytes(initial(offset, w // 8), "little")


def arithmetic():
    for lock in ("", "lock "):
        prefix = lock.replace(" ", "_")
        for op, function in ARITHMETIC.items():
            setup = ["stc"] if op in ("adc", "sbb") else []
            for w in MASK:
                m = read(w)
                form(f"{prefix}{op}_m{w}_r", f"{lock}{op} {mem(w)}, {A[w]}", number(function(m, RAX), w), setup=setup)
                value = {8: 0x5B, 16: 0x2B3C}.get(w, 0x2B3C4D5E)
                form(f"{prefix}{op}_m{w}_imm", f"{lock}{op} {mem(w)}, {value:#x}", number(function(m, value), w),
                     setup=setup)
                if w > 8:
                    form(f"{prefix}{op}_m{w}_imm8", f"{lock}{op} {mem(w)}, 0x5b", number(function(m, 0x5B), w),
                         setup=setup)
        for op, function in {"inc": lambda m: m + 1, "dec": lambda m: m - 1, "not": lambda m: ~m,
                             "neg": lambda m: -m}.items():
            for w in MASK:
                form(f"{prefix}{op}_m{w}", f"{lock}{op} {mem(w)}", number(function(read(w)), w))


def shift(op, m, w, count, carry=0):
    for _ in range(count):
        top, bottom = m >> (w - 1) & 1, m & 1
        if op in ("shl", "rol", "rcl"):
            fill = {"shl": 0, "rol": top, "rcl": carry}[op]
            m, carry = (m << 1 & MASK[w]) | fill, top
        else:
            fill = {"shr": 0, "ror": bottom, "rcr": carry, "sar": top}[op]
            m, carry = m >> 1 | fill << (w - 1), bottom
    return m


def shifts():
    for op in ("rol", "ror", "rcl", "rcr", "shl", "shr", "sar"):
        for w in MASK:
            for name, text, count in (("1", "1", 1), ("imm8", "5", 5), ("cl", "cl", 3)):
                form(f"{op}_m{w}_{name}", f"{op} {mem(w)}, {text}", number(shift(op, read(w), w, count), w))
    for w in (16, 32, 64):
        m, r = read(w), RAX & MASK[w]
        for name, text, count in (("imm8", "5", 5), ("cl", "cl", 3)):
            form(f"shld_m{w}_{name}", f"shld {mem(w)}, {A[w]}, {text}", number(m << count | r >> (w - count), w))
            form(f"shrd_m{w}_{name}", f"shrd {mem(w)}, {A[w]}, {text}", number(m >> count | r << (w - count), w))


def conditions():
    names = "o no b ae e ne be a s ns p np l ge le g".split()
    for i, name in enumerate(names):  # with clear flags the negated ones hold
        form(f"set{name}", f"set{name} byte ptr [rdi]", bytes([i & 1]))


def exchanges():
    for w in MASK:
        form(f"xchg_m{w}", f"xchg {mem(w)}, {B[w]}", number(RBX, w))
        for lock in ("", "lock "):
            p = lock.replace(" ", "_")
            form(f"{p}xadd_m{w}", f"{lock}xadd {mem(w)}, {B[w]}", number(read(w) + RBX, w))
            form(f"{p}cmpxchg_m{w}", f"{lock}cmpxchg {mem(w)}, {B[w]}", number(RBX, w), setup=[f"mov {A[w]}, [rdi]"])
            form(f"{p}cmpxchg_m{w}", f"{lock}cmpxchg {mem(w)}, {B[w]}", initial(0, w // 8), same=True)
    form("lock_xchg_m64", "lock xchg qword ptr [rdi], rbx", number(RBX, 64))
    for lock in ("", "lock "):
        p = lock.replace(" ", "_")
        for name, w, feature in (("cmpxchg8b", 32, ""), ("cmpxchg16b", 64, "cx16")):
            insn = f"{lock}{name} [rdi]"
            loads = [f"mov {A[w]}, [rdi]", f"mov {D[w]}, [rdi + {w // 8}]"]
            form(p + name, insn, number(RBX, w) + number(RCX, w), setup=loads, feature=feature)
            form(p + name, insn, initial(0, w // 4), same=True, feature=feature)


def bits():
    for op in ("bts", "btr", "btc"):
        wanted = {"bts": (0,), "btr": (1,), "btc": (0, 1)}[op]
        for w in (16, 32, 64):
            for kind, low, high in (("imm8", 0, w), ("r", 0, w), ("r_beyond", 5 * w, 6 * w),
                                    ("r_below", -4 * w, -3 * w)):
                # Not in the first byte, so that an offset in the operand counts too.
                bit = next(b for b in range(low + 9, high) if pattern(b // 8) >> b % 8 & 1 in wanted)
                byte = bit // 8
                value = bytes([pattern(byte) ^ 1 << bit % 8])
                setup = [] if kind == "imm8" else [f"mov rax, {bit}"]
                text = str(bit) if kind == "imm8" else A[w]
                for lock in ("", "lock "):
                    form(f"{lock.replace(' ', '_')}{op}_m{w}_{kind}", f"{lock}{op} {mem(w)}, {text}", value, byte,
                         setup=setup)


# --- stack and strings -------------------------------------------------------


def stack():
    at8, at2 = "lea rsp, [rdi + 8]", "lea rsp, [rdi + 2]"
    form("push_r64", "push rax", number(RAX, 64), setup=[at8])
    form("push_r9", "push r9", number(R9_VALUE, 64), setup=[at8])
    form("push_r16", "push ax", number(RAX, 16), setup=[at2])
    form("push_imm8", "push 0x5b", number(0x5B, 64), setup=[at8])
    form("push_imm8_negative", "push -3", number(-3, 64), setup=[at8])
    form("push_imm32", "push 0x2b3c4d5e", number(0x2B3C4D5E, 64), setup=[at8])
    form("push_imm16", ".byte 0x66, 0x68, 0x3c, 0x2b", number(0x2B3C, 16),
         setup=[at2])
    form("push_m64", "push qword ptr [rsi]", sourced(0, 8), setup=[at8])
    form("push_m16", "push word ptr [rsi]", sourced(0, 2), setup=[at2])
    for register in ("fs", "gs"):
        # Some CPUs write the selector's two bytes only.
        form(f"push_{register}", f"push {register}", number(0x18, 16), span=(0, 8),
             setup=["mov eax, 0x18", f"mov {register}, eax", at8])
    flags = ["push 0x8d7", "popfq"]
    form("pushfq", "pushfq", number(0x8D7, 64), setup=[*flags, at8])
    form("pushfw", ".byte 0x66, 0x9c", number(0x8D7, 16), setup=[*flags, at2])
    form("call_rel32", "call 8f", (".quad 8f",), setup=[at8], after=["8:"])
    form("call_r", "call rax", (".quad 8f",), setup=[at8, "lea rax, [rip + 8f]"], after=["8:"])
    form("call_m", "call qword ptr [rbx]", (".quad 8f",), after=["8:"],
         setup=["lea rbx, [rip + form_pointer]", "lea rax, [rip + 8f]", "mov [rbx], rax", at8])
    form("call_far_m16_32", ".byte 0xff, 0x1b", (".long 8f, 0x10",), after=["8:"],
         setup=["lea rbx, [rip + form_pointer]", "lea rax, [rip + 8f]", "mov [rbx], eax",
                "mov word ptr [rbx + 4], 0x10", at8])
    form("enter_0", "enter 16, 0", number(RBP, 64), setup=[at8])
    form("enter_1", "enter 16, 1", (".quad form_target + 8", f".quad {RBP:#x}"), setup=["lea rsp, [rdi + 16]"])
    form("enter_0_leave", "enter 32, 0", number(RBP, 64), setup=[at8], after=["leave"])
    form("pop_m64", "pop qword ptr [rdi]", number(RAX, 64), setup=["push rax"])
    form("pop_m16", "pop word ptr [rdi]", number(RAX, 16), setup=["push rax"])


SUFFIX = {8: "b", 16: "w", 32: "d", 64: "q"}


def strings():
    for w in MASK:
        n, s = w // 8, SUFFIX[w]
        for down in (False, True):
            setup, d = (["std"], "_down") if down else ([], "")
            first = -2 * n if down else 0  # of three elements
            form(f"movs{s}{d}", f"movs{s}" if w != 32 else "movsd", sourced(0, n), setup=setup)
            form(f"rep_movs{s}{d}", f"rep movs{s}" if w != 32 else "rep movsd", sourced(first, 3 * n), first,
                 setup=setup)
            form(f"stos{s}{d}", f"stos{s}", number(RAX, w), setup=setup)
            form(f"rep_stos{s}{d}", f"rep stos{s}", 3 * number(RAX, w), first, setup=setup)
    form("rep_movsb_long", "rep movsb", sourced(0, 128), setup=["mov ecx, 128"])
    form("rep_stosq_long", "rep stosq", 64 * number(RAX, 64), setup=["mov ecx, 64"])
    form("repne_stosb", ".byte 0xf2, 0xaa", 3 * number(RAX, 8))
    # Downwards: Bochs 3.0 ends with a failed assertion where 32-bit addresses go up in 64-bit code.
    form("addr32_rep_stosb_down", ".byte 0x67, 0xf3, 0xaa", 3 * number(RAX, 8), -2, setup=["std"])
    # Both ends in the target's page: the source may be read, the destination not written.
    form("movsq_within_page", "movsq", initial(8, 8), setup=["lea rsi, [rdi + 8]"])
    form("rep_movsb_within_page", "rep movsb", initial(0x109, 3), setup=["lea rsi, [rdi + 0x109]"])
    for w in (8, 16, 32):
        n, s = w // 8, SUFFIX[w]
        # A clock register, or all ones where no device answers.
        form(f"ins{s}", f"ins{s}", span=(0, n), setup=["mov edx, 0x71"])
        form(f"rep_ins{s}", f"rep ins{s}", span=(0, 3 * n), setup=["mov edx, 0x71"])


# --- SSE, AVX, x87 -----------------------------------------------------------


def sse():
    for op in ("movaps", "movups", "movapd", "movupd", "movdqa", "movdqu", "movntps", "movntpd", "movntdq"):
        form(op, f"{op} [rdi], xmm1", sourced(0, 16), setup="xmm")
    form("movups_xmm9", "movups [rdi], xmm9", sourced(0, 16), setup=["movdqu xmm9, [rsi]"])
    form("movups_unaligned", "movups [rdi + 3], xmm1", sourced(0, 16), 3, setup="xmm")
    for op, bits_, first in (("movss", 32, 0), ("movsd", 64, 0), ("movlps", 64, 0), ("movlpd", 64, 0),
                             ("movhps", 64, 8), ("movhpd", 64, 8), ("movd", 32, 0), ("movq", 64, 0)):
        form(f"{op}_m{bits_}_xmm", f"{op} {mem(bits_)}, xmm1", sourced(first, bits_ // 8), setup="xmm")
    form("movq_m64_xmm_7e", ".byte 0x66, 0x48, 0x0f, 0x7e, 0x0f", sourced(0, 8), setup="xmm")
    form("movd_m32_mm", "movd dword ptr [rdi], mm1", sourced(0, 4), setup="mmx")
    form("movq_m64_mm", "movq qword ptr [rdi], mm1", sourced(0, 8), setup="mmx")
    form("movq_m64_mm_7e", ".byte 0x48, 0x0f, 0x7e, 0x0f", sourced(0, 8), setup="mmx")
    form("movntq", "movntq [rdi], mm1", sourced(0, 8), setup="mmx")
    masked = b"".join(sourced(i, 1) if i % 3 == 0 else initial(i, 1) for i in range(16))
    form("maskmovdqu", "maskmovdqu xmm1, xmm2", masked, setup=["xmm", "movdqu xmm2, [rip + form_byte_mask]"])
    form("maskmovq", "maskmovq mm1, mm2", masked[:8], setup=["mmx", "movq mm2, [rip + form_byte_mask]"])
    for op, w, index in (("pextrb", 8, 5), ("pextrw", 16, 3), ("pextrd", 32, 2), ("pextrq", 64, 1),
                         ("extractps", 32, 3)):
        form(op, f"{op} {mem(w)}, xmm1, {index}", sourced(index * w // 8, w // 8), setup="xmm", feature="sse4_1")
    form("movntss", "movntss dword ptr [rdi], xmm1", sourced(0, 4), setup="xmm", feature="sse4a")
    form("movntsd", "movntsd qword ptr [rdi], xmm1", sourced(0, 8), setup="xmm", feature="sse4a")
    form("stmxcsr", "stmxcsr [rdi]", number(0x1F80, 32), setup=["ldmxcsr [rip + form_mxcsr]"])
    form("fxsave", "fxsave [rdi]", number(0x37F, 16), span=(0, 512))
    form("fxsave64", "fxsave64 [rdi]", number(0x37F, 16), span=(0, 512))
    everything = ["xor ecx, ecx", "xor edx, edx", "mov eax, [rip + form_xcr0]", "xsetbv",
                  "fld1", "movdqu xmm1, [rsi]"]
    # The header's first word says which components are there.
    for op, feature in (("xsave", "xsave"), ("xsave64", "xsave"), ("xsaveopt", "xsaveopt"),
                        ("xsaveopt64", "xsaveopt"), ("xsavec", "xsavec"), ("xsavec64", "xsavec"),
                        ("xsaves", "xsaves"), ("xsaves64", "xsaves")):
        form(op, f"{op} [rdi]", span=(0, 1024), feature=feature,
             setup=[*everything, "mov eax, 3", "xor edx, edx"])
    form("clzero", "clzero", bytes(64), feature="clzero", setup=["mov rax, rdi"])


def avx():
    for size, register in ((16, "xmm1"), (32, "ymm1")):
        ptr = {16: "xmmword", 32: "ymmword"}[size]
        for op in ("vmovaps", "vmovups", "vmovapd", "vmovupd", "vmovdqa", "vmovdqu", "vmovntps", "vmovntpd",
                   "vmovntdq"):
            form(f"{op}_{register[:3]}", f"{op} {ptr} ptr [rdi], {register}", sourced(0, size), setup="avx",
                 feature="avx")
        for op, element, feature in (("vmaskmovps", 4, "avx"), ("vmaskmovpd", 8, "avx"),
                                     ("vpmaskmovd", 4, "avx2"), ("vpmaskmovq", 8, "avx2")):
            mask = register.replace("1", "2")
            expected = b"".join(sourced(i, element) if i // element % 2 == 0 else initial(i, element)
                                for i in range(0, size, element))
            form(f"{op}_{register[:3]}", f"{op} {ptr} ptr [rdi], {mask}, {register}", expected,
                 setup=["avx", f"vmovdqu {mask}, [rip + form_mask{element}]"], feature=feature)
    for op, w, first in (("vmovss", 32, 0), ("vmovsd", 64, 0), ("vmovlps", 64, 0), ("vmovlpd", 64, 0),
                         ("vmovhps", 64, 8), ("vmovhpd", 64, 8), ("vmovd", 32, 0), ("vmovq", 64, 0)):
        form(op, f"{op} {mem(w)}, xmm1", sourced(first, w // 8), setup="avx", feature="avx")
    for op, w, index in (("vpextrb", 8, 5), ("vpextrw", 16, 3), ("vpextrd", 32, 2), ("vpextrq", 64, 1),
                         ("vextractps", 32, 3)):
        form(op, f"{op} {mem(w)}, xmm1, {index}", sourced(index * w // 8, w // 8), setup="avx", feature="avx")
    form("vextractf128", "vextractf128 xmmword ptr [rdi], ymm1, 1", sourced(16, 16), setup="avx", feature="avx")
    form("vextracti128", "vextracti128 xmmword ptr [rdi], ymm1, 1", sourced(16, 16), setup="avx", feature="avx2")
    masked = b"".join(sourced(i, 1) if i % 3 == 0 else initial(i, 1) for i in range(16))
    form("vmaskmovdqu", "vmaskmovdqu xmm1, xmm2", masked, setup=["avx", "vmovdqu xmm2, [rip + form_byte_mask]"],
         feature="avx")
    form("vstmxcsr", "vstmxcsr [rdi]", number(0x1F80, 32), setup=["avx", "vldmxcsr [rip + form_mxcsr]"],
         feature="avx")
    half = struct.pack("<4e", 1.0, -2.0, 0.5, 1024.0)
    for register, n in (("xmm3", 1), ("ymm3", 2)):
        form(f"vcvtps2ph_{register[:3]}", f"vcvtps2ph {SIZE[64] if n == 1 else 'xmmword'} ptr [rdi], {register}, 0",
             half * n, setup=["avx", f"vmovups {register}, [rip + form_floats]"], feature="f16c")
    for op in ("vmovups", "vmovapd", "vmovdqu64", "vmovdqa32", "vmovntdq"):
        form(f"{op}_zmm", f"{op} zmmword ptr [rdi], zmm1", sourced(0, 64), setup="avx512", feature="avx512f")
    form("vcompressps_zmm", "vcompressps zmmword ptr [rdi]{k1}, zmm1", sourced(0, 64), setup="avx512",
         feature="avx512f")
    form("vextracti64x4", "vextracti64x4 ymmword ptr [rdi], zmm1, 1", sourced(32, 32), setup="avx512",
         feature="avx512f")
    form("vpmovqb_zmm", "vpmovqb qword ptr [rdi], zmm1", sourced(0, 64)[::8], setup="avx512", feature="avx512f")
    form("vpscatterdd_zmm", "vpscatterdd dword ptr [rdi + zmm2 * 4]{k1}, zmm1", sourced(0, 64),
         setup=["avx512", "vmovdqu64 zmm2, [rip + form_indices]"], feature="avx512f")
    form("kmovw_m16", "kmovw word ptr [rdi], k1", b"\xff\xff", setup="avx512", feature="avx512f")


def x87():
    extended = struct.pack("<QH", (1234567 << (63 - 20)), 0x8000 | (16383 + 20))
    form("fst_m32", "fst dword ptr [rdi]", struct.pack("<f", FLOAT), setup="x87")
    form("fst_m64", "fst qword ptr [rdi]", struct.pack("<d", FLOAT), setup="x87")
    form("fstp_m32", "fstp dword ptr [rdi]", struct.pack("<f", FLOAT), setup="x87")
    form("fstp_m64", "fstp qword ptr [rdi]", struct.pack("<d", FLOAT), setup="x87")
    form("fstp_m80", "fstp tbyte ptr [rdi]", extended, setup="x87")
    small = ["fninit", "fild word ptr [rip + form_small]"]
    value = -12345
    for op, widths in (("fist", (16, 32)), ("fistp", (16, 32, 64)), ("fisttp", (16, 32, 64))):
        for w in widths:
            form(f"{op}_m{w}", f"{op} {mem(w)}", number(value, w), setup=small)
    form("fbstp", "fbstp tbyte ptr [rdi]", bytes([0x45, 0x23, 0x01, 0, 0, 0, 0, 0, 0, 0x80]), setup=small)
    form("fnstcw", "fnstcw word ptr [rdi]", number(0x37F, 16), setup=["fninit"])
    form("fstcw", "fnstcw word ptr [rdi]", number(0x37F, 16), setup=["fninit", "fwait"])
    form("fnstsw", "fnstsw word ptr [rdi]", number(0x3800, 16), setup="x87")
    form("fnstenv", "fnstenv [rdi]", number(0x37F, 16), span=(0, 28), setup="x87")
    form("fnstenv_16", ".byte 0x66, 0xd9, 0x37", number(0x37F, 16), span=(0, 14), setup="x87")
    form("fnsave", "fnsave [rdi]", number(0x37F, 16), span=(0, 108), setup="x87")
    form("fnsave_16", ".byte 0x66, 0xdd, 0x37", number(0x37F, 16), span=(0, 94), setup="x87")


def system():
    form("sgdt", "sgdt [rdi]", span=(0, 10))
    form("sidt", "sidt [rdi]", b"\xff\x0f", span=(0, 10))
    form("sldt", "sldt word ptr [rdi]", b"\x00\x00")
    form("str", "str word ptr [rdi]", b"\x30\x00")
    form("smsw", "smsw word ptr [rdi]", span=(0, 2))


# --- addressing --------------------------------------------------------------


def addressing():
    value = number(RAX, 64)
    base = ["mov eax, edi", "sub eax, 0x40", "xor edx, edx", "wrmsr", f"mov rax, {RAX:#x}"]
    for op, expected in (("mov", value), ("add", number(read(64) + RAX, 64)), ("xchg", value),
                         ("lock xor", number(read(64) ^ RAX, 64))):
        name = op.replace(" ", "_")
        for how, address, setup in (
                ("rip", "rip + form_target", []),
                ("disp32", "form_target", []),
                ("disp8", "rdi - 0x40", ["add rdi, 0x40"]),
                ("base_disp32", "rdi + 0x1000", ["sub rdi, 0x1000"]),
                ("index_8", "rdi + rcx * 8", ["mov ecx, 5", "sub rdi, 40"]),
                ("index_negative", "rdi + rcx * 8 - 8", ["mov rcx, -3", "add rdi, 32"]),
                ("index_only", "rcx * 4 + 0x10", ["lea rcx, [rdi - 0x10]", "shr rcx, 2"]),
                ("r12", "r12", ["mov r12, rdi"]),
                ("r13", "r13", ["mov r13, rdi"]),
                ("r14_r15", "r14 + r15 * 2", ["mov r14, rdi", "mov r15, -8", "add r14, 16"]),
                ("rbp", "rbp", ["mov rbp, rdi"]),
                ("rsp", "rsp", ["mov rsp, rdi"]),
                ("rsp_disp8", "rsp + 0x20", ["lea rsp, [rdi - 0x20]"]),
                ("fs", "fs:[0x40]", ["mov ecx, 0xc0000100", *base]),
                ("gs", "gs:[rcx]", ["mov ecx, 0xc0000101", *base, "mov ecx, 0x40"]),
                ("addr32", "edi", ["mov r8, 0x100000000", "or rdi, r8"]),
                ("addr32_wrap", "edi + 0x10", ["mov r8, 0xffffffff00000000", "sub rdi, 0x10", "or rdi, r8"]),
        ):
            operand = f"qword ptr {address}" if ":" in address else f"qword ptr [{address}]"
            form(f"{name}_at_{how}", f"{op} {operand}, rax", expected, setup=setup)


# --- 32-bit code -------------------------------------------------------------


def compatibility():
    def form32(name, insn, *arguments, **named):
        form(f"compat_{name}", insn, *arguments, bits32=True, **named)

    at4, at32 = "lea esp, [edi + 4]", "lea esp, [edi + 32]"
    eax = number(RAX, 32)
    form32("mov_m32_r", "mov dword ptr [edi], eax", eax)
    form32("mov_m8_imm", "mov byte ptr [edi], 0x5a", b"\x5a")
    form32("mov_moffs32", ".byte 0xa3; .long form_target", eax)
    form32("mov_disp32", ".byte 0x89, 0x1d; .long form_target", number(RBX, 32))
    form32("mov_ebp", "mov dword ptr [ebp + 8], eax", eax, setup=["lea ebp, [edi - 8]"])
    form32("add_m32_r", "add dword ptr [edi], eax", number(read(32) + RAX, 32))
    form32("lock_inc_m32", "lock inc dword ptr [edi]", number(read(32) + 1, 32))
    form32("push_r32", "push eax", eax, setup=[at4])
    form32("push_imm8", "push 0x5b", number(0x5B, 32), setup=[at4])
    form32("push_m32", "push dword ptr [esi]", sourced(0, 4), setup=[at4])
    form32("push_es", ".byte 0x06", number(0x18, 16), span=(0, 4), setup=["mov eax, 0x18", "mov es, eax", at4])
    form32("pushfd", ".byte 0x9c", span=(0, 4), setup=[at4])
    form32("pushad", ".byte 0x60", span=(0, 32), setup=[at32])
    form32("pushaw", ".byte 0x66, 0x60", span=(16, 16), setup=[at32])
    rest = int.from_bytes(initial(4, 4), "little")
    form32("call_rel32", "call 8f", (f".long 8f, {rest:#x}",), setup=[at4], after=["8:"])
    form32("call_far", ".byte 0x9a; .long 8f; .word 0x50", (".long 8f, 0x50",), setup=["lea esp, [edi + 8]"],
           after=["8:"])
    form32("enter", ".byte 0xc8, 0x10, 0, 0", number(RBP, 32), setup=[at4])
    form32("pop_m32", "pop dword ptr [edi]", eax, setup=["push eax"])
    form32("movsd", "movsd", sourced(0, 4))
    form32("rep_stosd", "rep stosd", 3 * eax)
    form32("cmpxchg8b", "cmpxchg8b [edi]", number(RBX, 32) + number(RCX, 32),
           setup=["mov eax, [edi]", "mov edx, [edi + 4]"])
    form32("sgdt", "sgdt [edi]", span=(0, 6))
    form32("fnsave", ".byte 0xdd, 0x37", number(0x37F, 16), span=(0, 108), setup=["fninit"])
    form32("movups", "movups [edi], xmm1", sourced(0, 16), setup=["movups xmm1, [esi]"])
    # Raises the requested privilege level of the selector that is there.
    form32("arpl", ".byte 0x63, 0x07", bytes([pattern(0) | 3]), setup=["mov eax, 3"])


# --- 34: what a decoder may not know -----------------------------------------


def unknown():
    form("movdiri_m32", ".byte 0x0f, 0x38, 0xf9, 0x07", number(RAX, 32), feature="movdiri", attack=34)
    form("movdiri_m64", ".byte 0x48, 0x0f, 0x38, 0xf9, 0x07", number(RAX, 64), feature="movdiri", attack=34)
    # movdir64b rdi, [rsi]
    form("movdir64b", ".byte 0x66, 0x0f, 0x38, 0xf8, 0x3e", sourced(0, 64), feature="movdir64b", attack=34)
    form("wrssd", ".byte 0x0f, 0x38, 0xf6, 0x07", number(RAX, 32), feature="cet_ss", attack=34)
    form("wrssq", ".byte 0x48, 0x0f, 0x38, 0xf6, 0x07", number(RAX, 64), feature="cet_ss", attack=34)
    # enqcmd rdi, [rsi]
    form("enqcmd", ".byte 0xf2, 0x0f, 0x38, 0xf8, 0x3e", span=(0, 64), feature="enqcmd", attack=34)
    # tilestored [rdi + rcx], tmm0
    form("tilestored", ".byte 0xc4, 0xe2, 0x7a, 0x4b, 0x04, 0x0f", span=(0, 1024), feature="amx_tile", attack=34)


def data_line(values):
    return ".byte " + ", ".join(str(v) for v in values)


def write():
    out = [".intel_syntax noprefix", ".text"]
    table = []
    for i, (name, insn, expected, offset, span, feature, setup, after, attack, same, retry) in enumerate(forms):
        out += [f"form_{i}:", *setup, f"form_{i}_insn:", insn, *after, "jmp form_done"]
        if isinstance(expected, bytes):
            data, size = ([data_line(expected)] if expected else []), len(expected)
        else:
            size = 8 * len(expected)
            data = [line.replace("8f", f"form_{i}_return") for line in expected]
            out = [line.replace(" 8f", f" form_{i}_return") for line in out]
            out = [f"form_{i}_return:" if line == "8:" else line for line in out]
        table.append((i, name, feature, data, size, offset, span, attack, same, retry))
    out += [".section .rodata", ".balign 8", ".globl store_forms, store_forms_end", "store_forms:"]
    for i, name, feature, data, size, offset, span, attack, same, retry in table:
        out += [f".quad form_{i}_name, form_{i}_feature, form_{i}, form_{i}_insn, form_{i}_expected",
                f".long {attack}, {offset}, {size}, {span[0]}, {span[1]}, {int(same) | int(retry) << 1}"]
    out.append("store_forms_end:")
    for i, name, feature, data, *_ in table:
        out += [f'form_{i}_name: .asciz "{name}"', f'form_{i}_feature: .asciz "{feature}"',
                f"form_{i}_expected:", *data]
    out += [".balign 64", data_line(source(i) for i in range(-64, 0)), ".globl form_source", "form_source:",
            data_line(source(i) for i in range(256))]
    out += ["form_float:", f".quad {struct.unpack('<Q', struct.pack('<d', FLOAT))[0]:#x}",
            "form_small: .word -12345", ".balign 4", "form_mxcsr: .long 0x1f80",
            "form_byte_mask:", data_line(0x80 if i % 3 == 0 else 0x7F for i in range(16)),
            "form_mask4:", *[".long 0x80000000, 0x7fffffff"] * 4,
            "form_mask8:", *[".quad 0x8000000000000000, 0x7fffffffffffffff"] * 2,
            "form_indices:", ".long " + ", ".join(map(str, range(16))),
            "form_floats:", *[".long 0x3f800000, 0xc0000000, 0x3f000000, 0x44800000"] * 2]
    out += [".globl form_registers", ".balign 8", "form_registers:",
            ".quad " + ", ".join(f"{v:#x}" for v in (RAX, RBX, RCX, RDX, RBP, R9_VALUE, R15))]
    out += [".bss", ".balign 8", "form_pointer: .quad 0", '.section .note.GNU-stack, "", @progbits']
    print("/* Generated by store_forms.py. */")
    print("\n".join(out))


for part in (moves, arithmetic, shifts, conditions, exchanges, bits, stack, strings, sse, avx, x87, system, addressing,
             compatibility, unknown):
    part()
names = [f[0] for f in forms]
assert len(set(names)) == len(names), [n for n in names if names.count(n) > 1]
write()
