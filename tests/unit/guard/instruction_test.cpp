// SPDX-License-Identifier: Apache-2.0
#include "guard/instruction.hpp"

#include "assembled.hpp"

#include <array>
#include <capstone/capstone.h>
#include <doctest/doctest.h>
#include <initializer_list>
#include <limits>
#include <string>

namespace casemate {
namespace {

struct Store {
    uint64_t address;
    uint64_t bytes;
    std::optional<uint64_t> value;
};

std::string describe(std::span<const std::byte> code) {
    static constexpr char digits[] = "0123456789abcdef";
    std::string text;
    for (const std::byte byte : code)
        text.append(
            {digits[static_cast<unsigned>(byte) >> 4U], digits[static_cast<unsigned>(byte) & 15U], ' '});
    return text;
}

std::vector<StoreOperand> stores_of(std::span<const std::byte> code, const CpuState& state) {
    static const Decoder decoder;
    const auto decoded = decoder.decode(code, state);
    INFO(describe(code));
    REQUIRE(decoded);
    CHECK(decoded->length == code.size());
    CHECK_FALSE(decoded->text.empty());
    INFO(decoded->text);
    return decoded->stores;
}

void check(std::span<const std::byte> code, const CpuState& state, std::initializer_list<Store> expected) {
    INFO(describe(code));
    static const Decoder decoder;
    const auto decoded = decoder.decode(code, state);
    REQUIRE(decoded);
    INFO(decoded->text);
    CHECK(decoded->length == code.size());
    REQUIRE(decoded->stores.size() == expected.size());
    size_t i = 0;
    for (const Store& store : expected) {
        CHECK(decoded->stores[i].address.value == store.address);
        CHECK(decoded->stores[i].bytes == store.bytes);
        CHECK(decoded->stores[i].value == store.value);
        ++i;
    }
}

// At [rbx].
void stores(std::span<const std::byte> code, uint64_t bytes, std::optional<uint64_t> value = {}) {
    check(code, state_64(), {{test_rbx, bytes, value}});
}
void pushes(std::span<const std::byte> code, uint64_t bytes, std::optional<uint64_t> value = {}) {
    check(code, state_64(), {{test_rsp - bytes, bytes, value}});
}
void stores_nothing(std::span<const std::byte> code) {
    check(code, state_64(), {});
}
template <size_t N>
void unknown(const std::array<unsigned char, N>& code) {
    const Decoder decoder;
    INFO(describe(std::as_bytes(std::span(code))));
    CHECK_FALSE(decoder.decode(std::as_bytes(std::span(code)), state_64()));
}

TEST_CASE("mov stores its register or immediate in all widths") {
    stores(CODE64("mov [rbx], al"), 1, 0xa0);
    stores(CODE64("mov [rbx], ah"), 1, 0xa1);
    stores(CODE64("mov [rbx], ch"), 1, 0xc1);
    stores(CODE64("mov [rbx], dh"), 1, 0xd1);
    stores(CODE64("mov [rbx], bh"), 1, 0x10);
    stores(CODE64("mov [rbx], sil"), 1, 0x40);
    stores(CODE64("mov [rbx], spl"), 1, 0x00);
    stores(CODE64("mov [rbx], r15b"), 1, 0xf0);
    stores(CODE64("mov [rbx], ax"), 2, 0xa1a0);
    stores(CODE64("mov [rbx], eax"), 4, 0xa3a2a1a0);
    stores(CODE64("mov [rbx], rax"), 8, 0xa7a6a5a4a3a2a1a0);
    stores(CODE64("mov [rbx], r9d"), 4, 0xbbbbcccc);
    stores(CODE64("mov byte ptr [rbx], 0x5a"), 1, 0x5a);
    stores(CODE64("mov word ptr [rbx], 0x8001"), 2, 0x8001);
    stores(CODE64("mov dword ptr [rbx], 0x80000001"), 4, 0x80000001);
    stores(CODE64("mov qword ptr [rbx], -2"), 8, ~1ULL);
    stores(CODE64("mov word ptr [rbx], gs"), 2, 0x3b);
    stores(CODE64(".byte 0x48, 0x8c, 0x1b"), 2, 0x2b); // REX.W: still two bytes
    stores(CODE64("movnti [rbx], eax"), 4, 0xa3a2a1a0);
    stores(CODE64("movnti [rbx], r8"), 8, 0x8888777766665555);
    stores(CODE64("movbe [rbx], ax"), 2, 0xa0a1);
    stores(CODE64("movbe [rbx], eax"), 4, 0xa0a1a2a3);
    stores(CODE64("movbe [rbx], rax"), 8, 0xa0a1a2a3a4a5a6a7);
    stores_nothing(CODE64("mov al, [rbx]"));
    stores_nothing(CODE64("mov rax, [rbx]"));
    stores_nothing(CODE64("mov rax, rbx"));
    stores_nothing(CODE64("mov gs, word ptr [rbx]"));
    stores_nothing(CODE64("movbe rax, [rbx]"));
    stores_nothing(CODE64("crc32 eax, dword ptr [rbx]"));
    stores_nothing(CODE64("movzx eax, byte ptr [rbx]"));
}

TEST_CASE("arithmetic that reads, changes and writes back is a store, comparing is not") {
    stores(CODE64("add byte ptr [rbx], al"), 1);
    stores(CODE64("or word ptr [rbx], ax"), 2);
    stores(CODE64("adc dword ptr [rbx], eax"), 4);
    stores(CODE64("sbb qword ptr [rbx], rax"), 8);
    stores(CODE64("and byte ptr [rbx], 1"), 1);
    stores(CODE64("sub word ptr [rbx], 0x1234"), 2);
    stores(CODE64("xor dword ptr [rbx], 0x12345678"), 4);
    stores(CODE64("add qword ptr [rbx], 1"), 8);
    stores(CODE64("lock or qword ptr [rbx], 0x12345678"), 8);
    stores(CODE64("xor word ptr [rbx], 1"), 2);
    stores(CODE64("inc byte ptr [rbx]"), 1);
    stores(CODE64("inc word ptr [rbx]"), 2);
    stores(CODE64("dec dword ptr [rbx]"), 4);
    stores(CODE64("lock dec qword ptr [rbx]"), 8);
    stores(CODE64("not byte ptr [rbx]"), 1);
    stores(CODE64("not qword ptr [rbx]"), 8);
    stores(CODE64("neg word ptr [rbx]"), 2);
    stores(CODE64("neg dword ptr [rbx]"), 4);
    stores(CODE64("shl byte ptr [rbx], 1"), 1);
    stores(CODE64("sar word ptr [rbx], 3"), 2);
    stores(CODE64("ror dword ptr [rbx], cl"), 4);
    stores(CODE64("rcl qword ptr [rbx], 7"), 8);
    stores(CODE64("rol byte ptr [rbx], cl"), 1);
    stores(CODE64("shr byte ptr [rbx], 2"), 1);
    stores(CODE64("shld word ptr [rbx], ax, 4"), 2);
    stores(CODE64("shld qword ptr [rbx], rax, cl"), 8);
    stores(CODE64("shrd dword ptr [rbx], eax, 4"), 4);
    stores(CODE64("shrd dword ptr [rbx], eax, cl"), 4);
    stores_nothing(CODE64("cmp byte ptr [rbx], al"));
    stores_nothing(CODE64("cmp qword ptr [rbx], 1"));
    stores_nothing(CODE64("cmp byte ptr [rbx], 1"));
    stores_nothing(CODE64("test qword ptr [rbx], rax"));
    stores_nothing(CODE64("test dword ptr [rbx], 1"));
    stores_nothing(CODE64("add rax, [rbx]"));
    stores_nothing(CODE64("mul qword ptr [rbx]"));
    stores_nothing(CODE64("idiv byte ptr [rbx]"));
    stores_nothing(CODE64("imul rax, [rbx], 5"));
    stores_nothing(CODE64("shl rbx, 5"));
}

TEST_CASE("setcc stores what the flags say") {
    CpuState state = state_64();
    state.registers.rflags = 0x42; // ZF
    check(CODE64("sete [rbx]"), state, {{test_rbx, 1, 1}});
    check(CODE64("setne [rbx]"), state, {{test_rbx, 1, 0}});
    check(CODE64("setle [rbx]"), state, {{test_rbx, 1, 1}});
    check(CODE64("seta [rbx]"), state, {{test_rbx, 1, 0}});
    check(CODE64("setl [rbx]"), state, {{test_rbx, 1, 0}});
    state.registers.rflags = 0x882; // SF and OF
    check(CODE64("setl [rbx]"), state, {{test_rbx, 1, 0}});
    check(CODE64("sets [rbx]"), state, {{test_rbx, 1, 1}});
    check(CODE64("seto [rbx]"), state, {{test_rbx, 1, 1}});
    state.registers.rflags = 0x7; // CF and PF
    check(CODE64("setb [rbx]"), state, {{test_rbx, 1, 1}});
    check(CODE64("setp [rbx]"), state, {{test_rbx, 1, 1}});
    check(CODE64("setg [rbx]"), state, {{test_rbx, 1, 1}});
    stores_nothing(CODE64("sete al"));
}

TEST_CASE("exchanges store, cmpxchg whether it succeeds or not") {
    stores(CODE64("xchg [rbx], al"), 1, 0xa0);
    stores(CODE64("xchg [rbx], rax"), 8, 0xa7a6a5a4a3a2a1a0);
    stores(CODE64("xadd [rbx], al"), 1);
    stores(CODE64("lock xadd [rbx], ecx"), 4);
    stores(CODE64("cmpxchg [rbx], al"), 1);
    stores(CODE64("lock cmpxchg [rbx], rcx"), 8);
    stores(CODE64("cmpxchg [rbx], cx"), 2);
    stores(CODE64("lock cmpxchg8b [rbx]"), 8);
    stores(CODE64("lock cmpxchg16b [rbx]"), 16);
    stores_nothing(CODE64("xchg rax, rcx"));
}

TEST_CASE("bit instructions store at the operand, or at the bit that a register counts up or down to") {
    stores(CODE64("bts word ptr [rbx], 15"), 2);
    stores(CODE64("btr dword ptr [rbx], 31"), 4);
    stores(CODE64("lock btc qword ptr [rbx], 63"), 8);
    stores_nothing(CODE64("bt qword ptr [rbx], 63"));
    stores_nothing(CODE64("bt [rbx], rax"));
    CpuState state = state_64();
    const auto at = [&](std::span<const std::byte> code, int64_t bit, int64_t offset, uint64_t bytes) {
        state.registers.rax = static_cast<uint64_t>(bit);
        check(code, state, {{test_rbx + static_cast<uint64_t>(offset), bytes, {}}});
    };
    at(CODE64("bts [rbx], rax"), 63, 0, 8);
    at(CODE64("bts [rbx], rax"), 64, 8, 8);
    at(CODE64("btr [rbx], rax"), 0x8000, 0x1000, 8);
    at(CODE64("btc [rbx], rax"), -1, -8, 8);
    at(CODE64("lock bts [rbx], rax"), -65, -16, 8);
    at(CODE64("bts [rbx], eax"), 33, 4, 4);
    at(CODE64("bts [rbx], eax"), 0x1ffffffff, -4, 4); // 32-bit operand: the offset is -1
    at(CODE64("bts [rbx], ax"), -1, -2, 2);
    at(CODE64("bts [rbx], rax"), std::numeric_limits<int64_t>::min(), -(1LL << 60), 8);
}

TEST_CASE("addresses: base, index, scale, displacement, RIP, FS and GS, 32-bit truncation") {
    const CpuState state = state_64();
    const auto at = [&](std::span<const std::byte> code, uint64_t address) {
        check(code, state, {{address, 1, 0xa0}});
    };
    at(CODE64("mov [rbx + 0x7f], al"), test_rbx + 0x7f);
    at(CODE64("mov [rbx - 0x80], al"), test_rbx - 0x80);
    at(CODE64("mov [rbx - 0x12345678], al"), test_rbx - 0x12345678);
    at(CODE64("mov [rbx + 4*rsi + 8], al"), test_rbx + 0x108);
    at(CODE64("mov [rsp], al"), test_rsp);
    at(CODE64("mov [rbp], al"), 0xffffc90000005000);
    at(CODE64("mov [rbp + 2*r10], al"), 0xffffc90000005020);
    at(CODE64("mov [r12], al"), 0xffff888000012000);
    at(CODE64("mov [r13], al"), 0xffff888000013000);
    at(CODE64("mov [r12 + r12], al"), 2 * 0xffff888000012000ULL);
    at(CODE64("mov [8*rsi], al"), 0x200);
    at(CODE64("mov byte ptr ds:[0xffffffffff5ff000], al"), 0xffffffffff5ff000);
    at(CODE64("mov [rip + 0x100], al"), test_rip + 6 + 0x100);
    at(CODE64("mov [eip + 0x100], al"), 0x81000000 + 7 + 0x100);
    at(CODE64("mov [ebx], al"), 0x1000);
    at(CODE64("mov [ebx - 0x2000], al"), 0xfffff000);
    at(CODE64("mov gs:[rsi], al"), test_gs_base + 0x40);
    at(CODE64("mov fs:[rsi], al"), 0x00007f0000000040);
    at(CODE64("mov gs:[esi], al"), test_gs_base + 0x40);
    at(CODE64(".byte 0x2e, 0x88, 0x03"), test_rbx);                  // cs: ignored
    at(CODE64(".byte 0x65, 0x3e, 0x88, 0x06"), test_gs_base + 0x40); // ds: behind gs: ignored
    at(CODE64("movabs ds:[0x1122334455667788], al"), 0x1122334455667788);
    at(CODE64(".byte 0x67, 0xa2, 0x88, 0x77, 0x66, 0x55"), 0x55667788);
    at(CODE64(".byte 0x65, 0xa2, 0x10, 0, 0, 0, 0, 0, 0, 0"), test_gs_base + 0x10);
    check(CODE64("movabs ds:[0x1122334455667788], rax"), state,
          {{0x1122334455667788, 8, 0xa7a6a5a4a3a2a1a0}});
    check(CODE64("mov dword ptr [rip + 0x100], 0x11223344"), state, {{test_rip + 10 + 0x100, 4, 0x11223344}});
    // A REX that another prefix follows does not count.
    check(CODE64(".byte 0x48, 0x66, 0x89, 0x03"), state, {{test_rbx, 2, 0xa1a0}});
}

TEST_CASE("pushes and calls store below the stack pointer") {
    pushes(CODE64("push rax"), 8, 0xa7a6a5a4a3a2a1a0);
    pushes(CODE64("push r15"), 8, 0xf7f6f5f4f3f2f1f0);
    pushes(CODE64("push rsp"), 8, test_rsp);
    pushes(CODE64("push ax"), 2, 0xa1a0);
    pushes(CODE64(".byte 0xff, 0xf0"), 8, 0xa7a6a5a4a3a2a1a0);
    pushes(CODE64("push qword ptr [rbx]"), 8);
    pushes(CODE64("push -2"), 8, ~1ULL);
    pushes(CODE64("push 0x12345678"), 8, 0x12345678);
    pushes(CODE64("push -0x12345678"), 8, static_cast<uint64_t>(-0x12345678));
    pushes(CODE64(".byte 0x66, 0x68, 0x34, 0x12"), 2, 0x1234);
    pushes(CODE64("pushfq"), 8, 2); // RF is pushed as 0
    pushes(CODE64(".byte 0x66, 0x9c"), 2, 2);
    pushes(CODE64(".byte 0x0f, 0xa0"), 8, 0x33);
    pushes(CODE64(".byte 0x0f, 0xa8"), 8, 0x3b);
    pushes(CODE64(".byte 0xe8, 11, 0, 0, 0"), 8, test_rip + 5);
    pushes(CODE64("call rax"), 8, test_rip + 2);
    pushes(CODE64("call [rbx + 0x10]"), 8, test_rip + 3);
    pushes(CODE64("call fword ptr [rbx]"), 8, (test_rip + 2) % 4_GiB | 0x10ULL << 32U);
    pushes(CODE64(".byte 0x48, 0xff, 0x1b"), 16, test_rip + 3);
    pushes(CODE64("enter 0, 0"), 8, 0xffffc90000005000);
    check(CODE64("enter 0x100, 0"), state_64(),
          {{test_rsp - 8, 8, 0xffffc90000005000}, {test_rsp - 8 - 0x100, 8, {}}});
    check(CODE64("enter 0x10, 3"), state_64(), {{test_rsp - 32, 32, {}}, {test_rsp - 32 - 0x10, 8, {}}});
    stores_nothing(CODE64("pop rax"));
    stores_nothing(CODE64("ret"));
    stores_nothing(CODE64("leave"));
    stores_nothing(CODE64("iretq"));
    stores_nothing(CODE64("jmp [rbx]"));
}

TEST_CASE("pop computes its address after it has moved the stack pointer") {
    stores(CODE64("pop qword ptr [rbx]"), 8);
    stores(CODE64("pop word ptr [rbx]"), 2);
    check(CODE64("pop qword ptr [rsp]"), state_64(), {{test_rsp + 8, 8, {}}});
    check(CODE64("pop qword ptr [rsp + 0x10]"), state_64(), {{test_rsp + 0x18, 8, {}}});
}

TEST_CASE("string instructions store the next element, then the rest of the run") {
    CpuState state = state_64();
    state.registers.rcx = 3;
    check(CODE64("movsb"), state, {{test_rdi, 1, {}}});
    check(CODE64("movsq"), state, {{test_rdi, 8, {}}});
    check(CODE64("stosw"), state, {{test_rdi, 2, 0xa1a0}});
    check(CODE64("insd"), state, {{test_rdi, 4, {}}});
    check(CODE64(".byte 0x48, 0x6d"), state, {{test_rdi, 4, {}}});
    check(CODE64("insb"), state, {{test_rdi, 1, {}}});
    check(CODE64("rep insw"), state, {{test_rdi, 2, {}}, {test_rdi + 2, 4, {}}});
    check(CODE64("rep stosq"), state, {{test_rdi, 8, 0xa7a6a5a4a3a2a1a0}, {test_rdi + 8, 16, {}}});
    check(CODE64("repne stosb"), state, {{test_rdi, 1, 0xa0}, {test_rdi + 1, 2, {}}});
    check(CODE64("rep movsd"), state, {{test_rdi, 4, {}}, {test_rdi + 4, 8, {}}});
    CHECK(stores_of(CODE64("rep movsd"), state)[1].is_run);
    CHECK_FALSE(stores_of(CODE64("rep movsd"), state)[1].downward);
    state.registers.rflags |= 0x400;
    check(CODE64("rep movsd"), state, {{test_rdi, 4, {}}, {test_rdi - 8, 8, {}}});
    CHECK(stores_of(CODE64("rep movsd"), state)[1].downward);
    state.registers.rcx = 1;
    check(CODE64("rep movsd"), state, {{test_rdi, 4, {}}});
    state.registers.rcx = 0;
    check(CODE64("rep movsd"), state, {});
    stores_nothing(CODE64("lodsb"));
    stores_nothing(CODE64("cmpsb"));
    stores_nothing(CODE64("scasb"));
    stores_nothing(CODE64("outsb"));
    stores_nothing(CODE64("xlatb"));
}

TEST_CASE("a run is cut where the address would wrap") {
    CpuState state = state_64();
    state.registers.rcx = ~0ULL;
    check(CODE64("rep stosb"), state, {{test_rdi, 1, 0xa0}, {test_rdi + 1, ~0ULL - test_rdi, {}}});
    check(CODE64("rep movsq"), state, {{test_rdi, 8, {}}, {test_rdi + 8, 0 - (test_rdi + 8), {}}});
    state.registers.rdi = ~0ULL - 7;
    check(CODE64("rep movsq"), state, {{~0ULL - 7, 8, {}}});
    state.registers.rdi = ~0ULL - 3;
    check(CODE64("rep movsq"), state, {{~0ULL - 3, 8, {}}});
    state.registers.rdi = 0;
    check(CODE64("rep stosb"), state, {{0, 1, 0xa0}, {1, ~0ULL - 1, {}}});
    check(CODE64("addr32 rep stosb"), state, {{0, 1, 0xa0}, {1, 0xfffffffe, {}}});
    state.registers.rflags |= 0x400;
    check(CODE64("rep stosb"), state, {{0, 1, 0xa0}});
    state.registers.rdi = 0x11;
    check(CODE64("rep stosq"), state, {{0x11, 8, 0xa7a6a5a4a3a2a1a0}, {1, 16, {}}});

    CpuState legacy = state_32();
    legacy.registers.rcx = 0xffffffff;
    legacy.system.es.base = 0xfffff000;
    legacy.registers.rdi = 0x800;
    check(CODE32("rep stosb"), legacy, {{0xfffff800, 1, 0xa0}, {0xfffff801, 0x7ff, {}}});
    legacy.registers.rdi = 0x1800;
    check(CODE32("rep stosb"), legacy, {{0x800, 1, 0xa0}, {0x801, 0xffffe7ff, {}}});
    legacy.registers.rflags |= 0x400;
    check(CODE32("rep stosb"), legacy, {{0x800, 1, 0xa0}, {0, 0x800, {}}});
}

TEST_CASE("SSE stores") {
    constexpr uint64_t xmm3 = 0x3736353433323130;
    stores(CODE64("movups [rbx], xmm3"), 16, xmm3);
    stores(CODE64("movupd [rbx], xmm3"), 16, xmm3);
    stores(CODE64("movss [rbx], xmm3"), 4, 0x33323130);
    stores(CODE64("movsd [rbx], xmm3"), 8, xmm3);
    stores(CODE64("movaps [rbx], xmm12"), 16, 0xc7c6c5c4c3c2c1c0);
    stores(CODE64("movapd [rbx], xmm3"), 16, xmm3);
    stores(CODE64("movdqa [rbx], xmm3"), 16, xmm3);
    stores(CODE64("movdqu [rbx], xmm3"), 16, xmm3);
    stores(CODE64("movlps [rbx], xmm3"), 8, xmm3);
    stores(CODE64("movlpd [rbx], xmm3"), 8, xmm3);
    stores(CODE64("movhps [rbx], xmm3"), 8, 0x3f3e3d3c3b3a3938);
    stores(CODE64("movhpd [rbx], xmm3"), 8, 0x3f3e3d3c3b3a3938);
    stores(CODE64("movd dword ptr [rbx], xmm3"), 4, 0x33323130);
    stores(CODE64(".byte 0x66, 0x48, 0x0f, 0x7e, 0x1b"), 8, xmm3); // movq, W form
    stores(CODE64("movq qword ptr [rbx], xmm3"), 8, xmm3);
    stores(CODE64("movd dword ptr [rbx], mm3"), 4);
    stores(CODE64("movq qword ptr [rbx], mm3"), 8);
    stores(CODE64("movntq [rbx], mm3"), 8);
    stores(CODE64("movntdq [rbx], xmm3"), 16, xmm3);
    stores(CODE64("movntps [rbx], xmm3"), 16, xmm3);
    stores(CODE64("movntpd [rbx], xmm3"), 16, xmm3);
    stores(CODE64(".byte 0xf3, 0x0f, 0x2b, 0x1b"), 4, 0x33323130); // movntss
    stores(CODE64(".byte 0xf2, 0x0f, 0x2b, 0x1b"), 8, xmm3);       // movntsd
    stores(CODE64("pextrb [rbx], xmm3, 5"), 1, 0x35);
    stores(CODE64("pextrb [rbx], xmm3, 31"), 1, 0x3f);
    stores(CODE64("pextrw [rbx], xmm3, 7"), 2, 0x3f3e);
    stores(CODE64("pextrd [rbx], xmm3, 2"), 4, 0x3b3a3938);
    stores(CODE64("pextrq [rbx], xmm3, 1"), 8, 0x3f3e3d3c3b3a3938);
    stores(CODE64("extractps [rbx], xmm3, 3"), 4, 0x3f3e3d3c);
    check(CODE64("maskmovdqu xmm3, xmm4"), state_64(), {{test_rdi, 16, {}}});
    check(CODE64("maskmovq mm3, mm4"), state_64(), {{test_rdi, 8, {}}});
    check(CODE64(".byte 0x65, 0x66, 0x0f, 0xf7, 0xdc"), state_64(), {{test_gs_base + test_rdi, 16, {}}});
    stores_nothing(CODE64("movups xmm3, [rbx]"));
    stores_nothing(CODE64("movq xmm3, qword ptr [rbx]"));
    stores_nothing(CODE64("movdqu xmm3, [rbx]"));
    stores_nothing(CODE64("movlps xmm3, [rbx]"));
    stores_nothing(CODE64("movntdqa xmm3, [rbx]"));
    stores_nothing(CODE64("pextrw eax, xmm3, 1"));
    stores_nothing(CODE64("paddd xmm3, [rbx]"));
    stores_nothing(CODE64("pinsrq xmm3, [rbx], 1"));
}

TEST_CASE("AVX stores") {
    constexpr uint64_t xmm3 = 0x3736353433323130;
    stores(CODE64("vmovups [rbx], xmm3"), 16, xmm3);
    stores(CODE64("vmovups [rbx], ymm3"), 32, xmm3);
    stores(CODE64("vmovupd [rbx], ymm3"), 32, xmm3);
    stores(CODE64("vmovss [rbx], xmm3"), 4, 0x33323130);
    stores(CODE64("vmovsd [rbx], xmm3"), 8, xmm3);
    stores(CODE64("vmovaps [rbx], ymm12"), 32, 0xc7c6c5c4c3c2c1c0);
    stores(CODE64("vmovapd [rbx], xmm3"), 16, xmm3);
    stores(CODE64("vmovdqa [rbx], ymm3"), 32, xmm3);
    stores(CODE64("vmovdqu [rbx], xmm3"), 16, xmm3);
    stores(CODE64("vmovntps [rbx], ymm3"), 32, xmm3);
    stores(CODE64("vmovntpd [rbx], xmm3"), 16, xmm3);
    stores(CODE64("vmovntdq [rbx], ymm3"), 32, xmm3);
    stores(CODE64("vmovlps [rbx], xmm3"), 8, xmm3);
    stores(CODE64("vmovhpd [rbx], xmm3"), 8, 0x3f3e3d3c3b3a3938);
    stores(CODE64("vmovd dword ptr [rbx], xmm3"), 4, 0x33323130);
    stores(CODE64("vmovq qword ptr [rbx], xmm3"), 8, xmm3);
    stores(CODE64(".byte 0xc4, 0xe1, 0xf9, 0x7e, 0x1b"), 8, xmm3); // vmovq, W form
    stores(CODE64("vpextrb [rbx], xmm3, 5"), 1, 0x35);
    stores(CODE64("vpextrw [rbx], xmm3, 7"), 2, 0x3f3e);
    stores(CODE64("vpextrd [rbx], xmm3, 2"), 4, 0x3b3a3938);
    stores(CODE64("vpextrq [rbx], xmm3, 1"), 8, 0x3f3e3d3c3b3a3938);
    stores(CODE64("vextractps [rbx], xmm3, 3"), 4, 0x3f3e3d3c);
    stores(CODE64("vextractf128 [rbx], ymm3, 0"), 16, xmm3);
    stores(CODE64("vextractf128 [rbx], ymm3, 1"), 16);
    stores(CODE64("vextracti128 [rbx], ymm3, 1"), 16);
    stores(CODE64("vcvtps2ph [rbx], xmm3, 0"), 8);
    stores(CODE64("vcvtps2ph [rbx], ymm3, 0"), 16);
    stores(CODE64("vmaskmovps [rbx], xmm4, xmm3"), 16);
    stores(CODE64("vmaskmovpd [rbx], ymm4, ymm3"), 32);
    stores(CODE64("vpmaskmovd [rbx], ymm4, ymm3"), 32);
    stores(CODE64("vpmaskmovq [rbx], xmm4, xmm3"), 16);
    stores(CODE64("vstmxcsr [rbx]"), 4);
    stores(CODE64("kmovb [rbx], k1"), 1);
    stores(CODE64("kmovw [rbx], k1"), 2);
    check(CODE64("vmaskmovdqu xmm3, xmm4"), state_64(), {{test_rdi, 16, {}}});
    check(CODE64("vmovdqu [r12 + 8*rsi + 0x1000], ymm3"), state_64(), {{0xffff888000013200, 32, xmm3}});
    stores_nothing(CODE64("vmovups ymm3, [rbx]"));
    stores_nothing(CODE64("vmaskmovps xmm3, xmm4, [rbx]"));
    stores_nothing(CODE64("vpmaskmovd xmm3, xmm4, [rbx]"));
    stores_nothing(CODE64("vmovq xmm3, qword ptr [rbx]"));
    stores_nothing(CODE64("kmovw k1, [rbx]"));
    stores_nothing(CODE64("vpgatherdd xmm3, [rbx + xmm5], xmm4"));
}

TEST_CASE("x87 stores") {
    stores(CODE64("fst dword ptr [rbx]"), 4);
    stores(CODE64("fst qword ptr [rbx]"), 8);
    stores(CODE64("fstp dword ptr [rbx]"), 4);
    stores(CODE64("fstp qword ptr [rbx]"), 8);
    stores(CODE64("fstp tbyte ptr [rbx]"), 10);
    stores(CODE64("fist word ptr [rbx]"), 2);
    stores(CODE64("fist dword ptr [rbx]"), 4);
    stores(CODE64("fistp word ptr [rbx]"), 2);
    stores(CODE64("fistp dword ptr [rbx]"), 4);
    stores(CODE64("fistp qword ptr [rbx]"), 8);
    stores(CODE64("fisttp word ptr [rbx]"), 2);
    stores(CODE64("fisttp dword ptr [rbx]"), 4);
    stores(CODE64("fisttp qword ptr [rbx]"), 8);
    stores(CODE64("fbstp tbyte ptr [rbx]"), 10);
    stores(CODE64("fnstcw [rbx]"), 2, 0x37f);
    stores(CODE64("fnstsw [rbx]"), 2, 0x3800);
    stores(CODE64("fnstenv [rbx]"), 28);
    stores(CODE64(".byte 0x66, 0xd9, 0x33"), 14);
    stores(CODE64("fnsave [rbx]"), 108);
    stores(CODE64(".byte 0x66, 0xdd, 0x33"), 94);
    stores_nothing(CODE64("fld tbyte ptr [rbx]"));
    stores_nothing(CODE64("fld qword ptr [rbx]"));
    stores_nothing(CODE64("fild word ptr [rbx]"));
    stores_nothing(CODE64("fldcw [rbx]"));
    stores_nothing(CODE64("fldenv [rbx]"));
    stores_nothing(CODE64("frstor [rbx]"));
    stores_nothing(CODE64("fbld [rbx]"));
    stores_nothing(CODE64("fadd dword ptr [rbx]"));
    stores_nothing(CODE64("fst st(3)"));
    stores_nothing(CODE64("fnstsw ax"));
}

TEST_CASE("state saving stores: exact where the size is fixed, an upper bound where XCR0 tells") {
    stores(CODE64("fxsave [rbx]"), 512);
    stores(CODE64("fxsave64 [rbx]"), 512);
    stores(CODE64("stmxcsr [rbx]"), 4);
    CpuState state = state_64();
    state.registers.rdx = 0;
    state.registers.rax = 3;
    check(CODE64("xsave [rbx]"), state, {{test_rbx, 576, {}}});
    state.registers.rax = 7;
    check(CODE64("xsave [rbx]"), state, {{test_rbx, 576, {}}, {test_rbx + 576, 16384 - 576, {}}});
    check(CODE64("xsave64 [rbx]"), state, {{test_rbx, 576, {}}, {test_rbx + 576, 16384 - 576, {}}});
    check(CODE64("xsaveopt [rbx]"), state, {{test_rbx, 576, {}}, {test_rbx + 576, 16384 - 576, {}}});
    check(CODE64("xsavec [rbx]"), state, {{test_rbx, 576, {}}, {test_rbx + 576, 16384 - 576, {}}});
    check(CODE64("xsaves64 [rbx]"), state, {{test_rbx, 576, {}}, {test_rbx + 576, 16384 - 576, {}}});
    stores_nothing(CODE64("fxrstor [rbx]"));
    stores_nothing(CODE64("xrstor [rbx]"));
    stores_nothing(CODE64("xrstors [rbx]"));
    stores_nothing(CODE64("ldmxcsr [rbx]"));
}

TEST_CASE("system stores") {
    stores(CODE64("sgdt [rbx]"), 10, 0x7fULL | 0xfe0000001000ULL << 16U);
    stores(CODE64("sidt [rbx]"), 10, 0xfffULL | 0xfe0000000000ULL << 16U);
    stores(CODE64("sldt word ptr [rbx]"), 2, 0x1d7);
    stores(CODE64("str word ptr [rbx]"), 2, 0x40);
    stores(CODE64("smsw word ptr [rbx]"), 2, 0x33);
    stores(CODE64("vmread [rbx], rax"), 8);
    stores(CODE64("vmptrst [rbx]"), 8);
    stores_nothing(CODE64("smsw eax"));
    stores_nothing(CODE64("str eax"));
    stores_nothing(CODE64("lgdt [rbx]"));
    stores_nothing(CODE64("lidt [rbx]"));
    stores_nothing(CODE64("lmsw word ptr [rbx]"));
    stores_nothing(CODE64("vmptrld [rbx]"));
    stores_nothing(CODE64("int 0x80"));
    stores_nothing(CODE64("int3"));
    stores_nothing(CODE64("wrmsr"));
    stores_nothing(CODE64("mov cr3, rax"));
    stores_nothing(CODE64("monitor"));
    stores_nothing(CODE64("vmcall"));
}

TEST_CASE("what names memory without storing") {
    stores_nothing(CODE64("lea rax, [rbx]"));
    stores_nothing(CODE64("nop dword ptr [rbx]"));
    stores_nothing(CODE64("clflush [rbx]"));
    stores_nothing(CODE64("clflushopt [rbx]"));
    stores_nothing(CODE64("clwb [rbx]"));
    stores_nothing(CODE64("prefetcht0 [rbx]"));
    stores_nothing(CODE64("prefetchw [rbx]"));
    stores_nothing(CODE64("invlpg [rbx]"));
    stores_nothing(CODE64("lfence"));
    stores_nothing(CODE64("sfence"));
    stores_nothing(CODE64("rdrand rax"));
    stores_nothing(CODE64("endbr64"));
}

// Capstone 5 knows `code`, Capstone 4 does not.
template <size_t N>
void stores_since_capstone_5(const std::array<unsigned char, N>& code, const CpuState& state,
                             const Store& store) {
    const auto bytes = std::as_bytes(std::span(code));
    if (CS_API_MAJOR >= 5)
        check(bytes, state, {store});
    else
        CHECK_FALSE(Decoder().decode(bytes, state));
}

TEST_CASE("what Capstone knows since version 5 is unknown before it, and then stores where it should") {
    const CpuState long_state = state_64();
    const auto stores_64 = [&](const auto& code, uint64_t bytes, std::optional<uint64_t> value = {}) {
        stores_since_capstone_5(code, long_state, {test_rbx, bytes, value});
    };
    stores_64(std::to_array<unsigned char>({0x0f, 0x38, 0xf9, 0x03}), 4, 0xa3a2a1a0); // movdiri [rbx], eax
    stores_64(std::to_array<unsigned char>({0x48, 0x0f, 0x38, 0xf9, 0x03}), 8, 0xa7a6a5a4a3a2a1a0);
    stores_64(std::to_array<unsigned char>({0xc4, 0xe1, 0xf9, 0x91, 0x0b}), 4); // kmovd [rbx], k1
    stores_64(std::to_array<unsigned char>({0xc4, 0xe1, 0xf8, 0x91, 0x0b}), 8); // kmovq [rbx], k1

    // movdir64b rdi, [rbx]; edi, [ebx]; and in 32-bit code to ES
    const auto movdir64b = std::to_array<unsigned char>({0x66, 0x0f, 0x38, 0xf8, 0x3b});
    stores_since_capstone_5(movdir64b, long_state, {test_rdi, 64, {}});
    stores_since_capstone_5(std::to_array<unsigned char>({0x67, 0x66, 0x0f, 0x38, 0xf8, 0x3b}), long_state,
                            {test_rdi & 0xffffffff, 64, {}});
    stores_since_capstone_5(movdir64b, state_32(), {0x8000 + 0x7000, 64, {}});
}

TEST_CASE("clzero stores a whole cache line, the one that rAX points into") {
    constexpr auto clzero = std::to_array<unsigned char>({0x0f, 0x01, 0xfc});
    CpuState state = state_64();
    const auto at = [&](const auto& code, uint64_t rax, uint64_t line) {
        state.registers.rax = rax;
        stores_since_capstone_5(code, state, {line, 64, 0});
    };
    at(clzero, test_rbx, test_rbx);
    at(clzero, test_rbx + 0x3f, test_rbx);
    at(clzero, test_rbx + 0x40, test_rbx + 0x40);
    at(clzero, ~0ULL, ~0ULL - 0x3f);
    at(clzero, 0, 0);
    at(std::to_array<unsigned char>({0x67, 0x0f, 0x01, 0xfc}), 0xffff888012345678, 0x12345640);
    at(std::to_array<unsigned char>({0x65, 0x0f, 0x01, 0xfc}), 0x141, test_gs_base + 0x140);
    state = state_32();
    at(clzero, 0xdead000000000fff, 0x7000 + 0xfc0);
    at(clzero, 0xfffff000, 0x6000); // wraps
    state = state_16();
    at(clzero, 0xdead0041, 0x30000 + 0x40);
    stores_nothing(CODE64(".byte 0x0f, 0x01, 0xf8")); // swapgs, its neighbour
}

TEST_CASE("of MPX, bndmov stores; bndstx does at an address that is not to be had") {
    constexpr auto bndmov = std::to_array<unsigned char>({0x66, 0x0f, 0x1b, 0x03});
    check(std::as_bytes(std::span(bndmov)), state_64(), {{test_rbx, 16, {}}});
    check(std::as_bytes(std::span(bndmov)), state_32(), {{0x7000 + 0x5000, 8, {}}});
    stores_nothing(CODE64(".byte 0x66, 0x0f, 0x1a, 0x03")); // bndmov bnd0, [rbx]
    stores_nothing(CODE64(".byte 0xf3, 0x0f, 0x1b, 0x03")); // bndmk
    stores_nothing(CODE64(".byte 0xf2, 0x0f, 0x1b, 0x03")); // bndcn
    stores_nothing(CODE64(".byte 0x0f, 0x1a, 0x03"));       // bndldx
    unknown<3>({0x0f, 0x1b, 0x03});                         // bndstx [rbx], bnd0
}

TEST_CASE("what Capstone calls a store and is none") {
    stores_nothing(CODE64("frstor [rbx]"));
    stores_nothing(CODE64(".byte 0xc4, 0xe3, 0x85, 0x48, 0x03, 0x00")); // vpermil2ps ..., [rbx], 0
    stores_nothing(CODE64(".byte 0xc4, 0xe3, 0x85, 0x49, 0x03, 0x00")); // vpermil2pd ..., [rbx], 0
}

TEST_CASE("a call pushes a return address only where Capstone has its length right") {
    // REX.W behind 67: seven bytes, of which Capstone 4 sees five.
    constexpr auto call = std::to_array<unsigned char>({0x67, 0x48, 0xe8, 11, 0, 0, 0});
    const auto decoded = Decoder().decode(std::as_bytes(std::span(call)), state_64());
    REQUIRE(decoded);
    REQUIRE(decoded->stores.size() == 1);
    CHECK(decoded->stores[0].address.value == test_rsp - 8);
    CHECK(decoded->stores[0].value.value_or(test_rip + call.size()) == test_rip + call.size());
}

TEST_CASE("what neither Capstone knows, or what it takes for another instruction, is unknown") {
    unknown<5>({0xf3, 0x0f, 0x38, 0xf9, 0x03});       // no movdiri
    unknown<5>({0xf3, 0x0f, 0x38, 0xf8, 0x03});       // enqcmds rax, [rbx]
    unknown<5>({0xf2, 0x0f, 0x38, 0xf8, 0x03});       // enqcmd rax, [rbx]
    unknown<5>({0x48, 0x0f, 0x38, 0xf6, 0x03});       // wrssq [rbx], rax
    unknown<6>({0x66, 0x48, 0x0f, 0x38, 0xf5, 0x03}); // wrussq [rbx], rax
    unknown<4>({0x0f, 0x38, 0xfc, 0x03});             // aadd [rbx], eax
    unknown<6>({0xc4, 0xe2, 0x7a, 0x4b, 0x04, 0x33}); // tilestored [rbx + rsi], tmm0
    unknown<5>({0xc4, 0xe2, 0x71, 0xe6, 0x03});       // cmpbexadd [rbx], eax, ecx
    unknown<4>({0xf3, 0x0f, 0xae, 0x33});             // clrssbsy [rbx]
    unknown<4>({0xf3, 0x0f, 0x01, 0x2b});             // rstorssp [rbx]
    unknown<4>({0xf3, 0x0f, 0x01, 0xe8});             // setssbsy
    unknown<4>({0xf3, 0x0f, 0xc7, 0xf0});             // senduipi rax
    unknown<3>({0x0f, 0xa7, 0xc0});                   // xstore
    unknown<5>({0xf2, 0x0f, 0x38, 0xf6, 0x03});       // no wrssd: with F2 no instruction
    unknown<6>({0x62, 0xf1, 0x7c, 0x48, 0x11, 0x1b}); // vmovups [rbx], zmm3
    unknown<5>({0x8f, 0xe9, 0x78, 0x81, 0x03});       // vfrczpd xmm0, [rbx] (XOP)
    unknown<1>({0x06});                               // push es: not in 64-bit code
    unknown<2>({0x48, 0x89});                         // cut short
    unknown<16>(
        {0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x89, 3});
    const Decoder decoder;
    CHECK_FALSE(decoder.decode({}, state_64()));
}

TEST_CASE("32-bit code adds segment bases and truncates to 32 bits") {
    const CpuState state = state_32();
    check(CODE32("mov [ebx], eax"), state, {{0x7000 + 0x5000, 4, 0xa3a2a1a0}});
    check(CODE32("arpl [ebx], ax"), state, {{0x7000 + 0x5000, 2, {}}});
    check(CODE32("mov [ebp], eax"), state, {{0x9000 + 0x6000, 4, 0xa3a2a1a0}});
    check(CODE32("mov ds:[ebp], eax"), state, {{0x7000 + 0x6000, 4, 0xa3a2a1a0}});
    check(CODE32("mov es:[ebx], eax"), state, {{0x8000 + 0x5000, 4, 0xa3a2a1a0}});
    check(CODE32("mov cs:[ebx], eax"), state, {{0x100 + 0x5000, 4, 0xa3a2a1a0}});
    check(CODE32("mov [ebx - 0xd000], eax"), state, {{0xfffff000, 4, 0xa3a2a1a0}});
    check(CODE32("mov ds:[0x1000], eax"), state, {{0x8000, 4, 0xa3a2a1a0}});
    check(CODE32("mov [bx + si], ax"), state, {{0x7000 + 0x5040, 2, 0xa1a0}});
    check(CODE32("mov [ebx], ch"), state, {{0xc000, 1, 0xc1}});
    check(CODE32("push eax"), state, {{0x9000 + 0x7ffc, 4, 0xa3a2a1a0}});
    check(CODE32("push ax"), state, {{0x9000 + 0x7ffe, 2, 0xa1a0}});
    check(CODE32(".byte 0x06"), state, {{0x9000 + 0x7ffc, 4, 0x2c}});
    check(CODE32(".byte 0x0e"), state, {{0x9000 + 0x7ffc, 4, 0x08}});
    check(CODE32("pusha"), state, {{0x9000 + 0x7fe0, 32, {}}});
    check(CODE32("push -1"), state, {{0x9000 + 0x7ffc, 4, 0xffffffff}});
    check(CODE32(".byte 0xe8, 11, 0, 0, 0"), state, {{0x9000 + 0x7ffc, 4, 0x400005}});
    check(CODE32(".byte 0x9a, 0, 0, 0, 0, 8, 0"), state, {{0x9000 + 0x7ff8, 8, 0x400007 | 0x8ULL << 32U}});
    check(CODE32("movsd"), state, {{0x8000 + 0x7000, 4, {}}});
    check(CODE32("sgdt [ebx]"), state, {{0xc000, 6, 0x7f | 0x1000ULL << 16U}});
    check(CODE32("movd dword ptr [ebx], xmm3"), state, {{0xc000, 4, 0x33323130}});
    check(CODE32("vmovups [ebx], ymm3"), state, {{0xc000, 32, 0x3736353433323130}});
    check(CODE32("les eax, [ebx]"), state, {});
    check(CODE32("bound eax, [ebx]"), state, {});
    check(CODE32("inc eax"), state, {});
    check(CODE32(".byte 0x82, 0x03, 0x01"), state, {{0xc000, 1, {}}}); // add, the old alias of 80
    CpuState small_stack = state;
    small_stack.system.ss.db = 0;
    small_stack.registers.rsp = 0x12340002;
    check(CODE32("push eax"), small_stack, {{0x9000 + 0xfffe, 4, 0xa3a2a1a0}});
}

TEST_CASE("16-bit code: real mode, virtual-8086 mode and 16-bit segments") {
    CpuState state = state_16();
    check(CODE16("mov [bx], ax"), state, {{0x30000 + 0x5000, 2, 0xa1a0}});
    check(CODE16("mov [bp + 2], ax"), state, {{0x20000 + 0x6002, 2, 0xa1a0}});
    check(CODE16("mov [bp + di], ax"), state, {{0x20000 + 0xd000, 2, 0xa1a0}});
    check(CODE16("mov [bx + di - 0x7fff], ax"), state, {{0x30000 + 0x4001, 2, 0xa1a0}});
    check(CODE16("mov [di], ax"), state, {{0x30000 + 0x7000, 2, 0xa1a0}});
    check(CODE16("mov byte ptr es:[0x1234], 1"), state, {{0x40000 + 0x1234, 1, 1}});
    check(CODE16("mov [ebx], eax"), state, {{0x30000 + 0x5000, 4, 0xa3a2a1a0}});
    check(CODE16("push ax"), state, {{0x20000 + 0x7ffe, 2, 0xa1a0}});
    check(CODE16(".byte 0xe8, 13, 0"), state, {{0x20000 + 0x7ffe, 2, 0x1237}});
    check(CODE16("rep stosb"), state, {{0x40000 + 0x7000, 1, 0xa0}, {0x40000 + 0x7001, 0x8fff, {}}});
    check(CODE16("fnsave [bx]"), state, {{0x30000 + 0x5000, 94, {}}});
    state.system.cr0 = 0x11;
    check(CODE16("mov [bx], ax"), state, {{0x30000 + 0x5000, 2, 0xa1a0}});
    state.system.cs.db = 1;
    state.registers.rflags |= 1U << 17U;
    check(CODE16("mov [bx], ax"), state, {{0x30000 + 0x5000, 2, 0xa1a0}});
}

TEST_CASE("one decoder may change modes between instructions") {
    const Decoder decoder;
    const std::array bytes{std::byte{0x48}, std::byte{0x89}, std::byte{0x03}};
    CHECK(decoder.decode(bytes, state_64())->text == "mov qword ptr [rbx], rax");
    CHECK(decoder.decode(bytes, state_32())->text == "dec eax");
    CHECK(decoder.decode(bytes, state_16())->text == "dec ax");
    CHECK(decoder.decode(bytes, state_64())->length == 3);
}

TEST_CASE("instruction bytes end where RAM does") {
    const auto memory = GuestMemory::create(1_MiB).value();
    CpuState state = state_16(); // paging is off: CS base and RIP give the physical address
    for (uint64_t i = 0; i < 16; ++i)
        CHECK(memory.store(GuestPhysical{0xffff0 + i}, static_cast<uint8_t>(i)));
    state.system.cs.base = 0xf0000;
    state.registers.rip = 0xfff0;
    CHECK(fetch_instruction(memory, state).size() == longest_instruction);
    CHECK(fetch_instruction(memory, state)[14] == std::byte{14});
    state.registers.rip = 0xfff8;
    REQUIRE(fetch_instruction(memory, state).size() == 8);
    CHECK(fetch_instruction(memory, state)[7] == std::byte{15});
    state.registers.rip = 0x10000;
    CHECK(fetch_instruction(memory, state).empty());
    state.registers.rip = 0xfffffffc; // with the base it wraps in 32 bits, to 0xefffc
    CHECK(fetch_instruction(memory, state).size() == longest_instruction);
}

} // namespace
} // namespace casemate
