// SPDX-License-Identifier: Apache-2.0
#include "guard/emulated_store.hpp"

#include "guard/page_walk.hpp"

#include <array>
#include <cstring>
#include <doctest/doctest.h>
#include <initializer_list>
#include <random>

namespace casemate {
namespace {

constexpr uint64_t code_end = 0x10000 + 64; // RIP behind the store
constexpr uint64_t target = 0x20000;

// 64-bit code in 4 MiB of identically mapped RAM.
struct Fixture {
    GuestMemory memory = *GuestMemory::create(4_MiB);
    CpuState state;
    Decoder decoder;

    Fixture() {
        CHECK(memory.store({0x1000}, uint64_t{0x2003}));
        CHECK(memory.store({0x2000}, uint64_t{0x3003}));
        CHECK(memory.store({0x3000}, uint64_t{0x83}));
        CHECK(memory.store({0x3008}, uint64_t{0x200083}));
        state.system.cr0 = 1U << 31U | 1U;
        state.system.cr3 = 0x1000;
        state.system.cr4 = 1U << 5U;
        state.system.efer = 1U << 10U | 1U << 8U;
        state.system.cs.l = 1;
        state.registers.rip = code_end;
        state.registers.rsp = 0x30000;
        state.registers.rdi = target;
        state.registers.rax = 0x1122334455667788;
        state.registers.rcx = 3;
    }
    // The rest of the page means nothing.
    void put(std::span<const uint8_t> code) {
        for (uint64_t at = 0x10000; at < 0x10100; at += 8)
            CHECK(memory.store({at}, ~uint64_t{0}));
        CHECK(memory.write({code_end - code.size()}, std::as_bytes(code)));
    }
    std::optional<StoreOrigin> find(std::initializer_list<uint8_t> code, uint64_t value, size_t bytes,
                                    uint64_t address = target) {
        put({code.begin(), code.size()});
        return find(value, bytes, address);
    }
    std::optional<StoreOrigin> find(uint64_t value, size_t bytes, uint64_t address = target) {
        return find_store_origin(memory, state, decoder, {address},
                                 std::as_bytes(std::span(&value, 1)).first(bytes));
    }
};

TEST_CASE_FIXTURE(Fixture, "a plain store is found, with its own RIP, text and bytes") {
    const auto found = find({0x48, 0x89, 0x07}, state.registers.rax, 8);
    REQUIRE(found);
    CHECK(found->rip == code_end - 3);
    CHECK(found->linear == GuestLinear{target});
    CHECK(found->instruction == "mov qword ptr [rdi], rax");
    CHECK(found->code.size() == 3);
}

TEST_CASE_FIXTURE(Fixture, "stores that leave what they use as it was are found") {
    CHECK(find({0x89, 0x07}, 0x55667788, 4));                      // mov
    CHECK(find({0xff, 0x88, 0x07}, 0x88, 1));                      // mov, one byte
    CHECK(find({0xc7, 0x07, 1, 0, 0, 0}, 1, 4));                   // mov, immediate: 00 00 is ADD [rax]
    CHECK(find({0x48, 0x0f, 0xc3, 0x07}, state.registers.rax, 8)); // movnti
    CHECK(find({0x0f, 0x94, 0x07}, 0, 1));                         // sete
    CHECK(find({0x48, 0x01, 0x07}, 42, 8));                        // add: a value that was not computed
    CHECK(find({0x48, 0x0f, 0xba, 0x2f, 3}, 8, 8));                // bts
    CHECK(find({0x66, 0x89, 0x07}, 0x7788, 2));                    // mov; without its prefix of 4 bytes
    state.registers.rip = code_end;
    CHECK(find({0x48, 0x89, 0x05, 0xc0, 0xff, 0, 0}, state.registers.rax, 8, code_end + 0xffc0)); // by RIP
}

TEST_CASE_FIXTURE(Fixture, "another address, length or value is another store's") {
    CHECK_FALSE(find({0x48, 0x89, 0x07}, state.registers.rax, 8, target + 8));
    CHECK_FALSE(find({0x48, 0x89, 0x07}, state.registers.rax, 2));
    const auto shorter = find({0x48, 0x89, 0x07}, state.registers.rax, 4); // entered behind its first byte
    REQUIRE(shorter);
    CHECK(shorter->rip == code_end - 2);
    CHECK_FALSE(find({0x48, 0x89, 0x07}, state.registers.rax + 1, 8));
    CHECK_FALSE(find({0xff, 0xff, 0xff}, state.registers.rax, 8));
}

TEST_CASE_FIXTURE(Fixture, "instructions that change a register are never named") {
    state.registers.rsp = target;
    CHECK_FALSE(find({0x50}, state.registers.rax, 8));                            // push rax
    CHECK_FALSE(find({0xff, 0x37}, 1, 8));                                        // push [rdi]
    CHECK_FALSE(find({0x48, 0x89, 0x07}, state.registers.rax, 8));                // as CALL may have stored
    CHECK_FALSE(find({0x48, 0x89, 0x47, 8}, state.registers.rax, 8, target + 8)); // as a far CALL may have
    state.registers.rsp = 0x30000;
    CHECK(find({0x48, 0x89, 0x07}, state.registers.rax, 8));
    CHECK_FALSE(find({0x48, 0x87, 0x07}, 1, 8));       // xchg
    CHECK_FALSE(find({0x48, 0x0f, 0xc1, 0x07}, 1, 8)); // xadd
    CHECK_FALSE(find({0x48, 0x0f, 0xb1, 0x0f}, 1, 8)); // cmpxchg
    CHECK_FALSE(find({0x48, 0x11, 0x07}, 1, 8));       // adc: its carry is gone
    CHECK_FALSE(find({0x8f, 0x07}, 1, 8));             // pop
    state.registers.rdi = target + 8;
    CHECK_FALSE(find({0x48, 0xab}, state.registers.rax, 8)); // stosq
    state.registers.rcx = 0;
    CHECK_FALSE(find({0xf3, 0x48, 0xab}, state.registers.rax, 8)); // its last element
}

TEST_CASE_FIXTURE(Fixture, "where a second instruction fits, none is named") {
    // A prefix that changes nothing: which of the two began here nobody knows.
    CHECK_FALSE(find({0x2e, 0x48, 0x89, 0x07}, state.registers.rax, 8));
    CHECK_FALSE(find({0xf0, 0x48, 0x0f, 0xba, 0x2f, 3}, 8, 8)); // lock bts
    // One whose immediate ends as the other.
    state.registers.rax = 0x0789480000000000; // as what c7 stores, sign-extended, is not
    CHECK(find({0x48, 0xc7, 0x07, 0, 0x48, 0x89, 0x07}, 0x07894800, 8));
    state.registers.rax = 0x07890000;
    CHECK_FALSE(find({0xc7, 0x07, 0, 0, 0x89, 0x07}, state.registers.rax, 4));
    // A REP string instruction at RIP, which has stored its first element and is not done.
    const std::array<uint8_t, 3> stos{0xf3, 0x48, 0xab};
    state.registers.rax = 1;
    CHECK(find({0x48, 0x89, 0x47, 0xf8}, 1, 8, target - 8));
    CHECK(memory.write({code_end}, std::as_bytes(std::span(stos))));
    CHECK_FALSE(find(1, 8, target - 8));
}

TEST_CASE_FIXTURE(Fixture, "a string instruction that would have stored elsewhere is no obstacle") {
    state.registers.rbp = target + 0x56;
    CHECK(find({0x48, 0x89, 0x45, 0xaa}, state.registers.rax, 8));                // aa: stosb
    CHECK(find({0x48, 0x89, 0x45, 0x50}, state.registers.rax, 8, target + 0xa6)); // 50: push rax
}

TEST_CASE_FIXTURE(Fixture, "parts of a longer store are not taken for a store") {
    CHECK_FALSE(find({0x0f, 0x11, 0x07}, 0, 8)); // movups
    CHECK_FALSE(find({0x0f, 0x11, 0x07}, 0, 8, target + 8));
    // One across a page's end, and all that its second part may be taken for.
    state.registers.rdi = target - 4;
    CHECK_FALSE(find({0x48, 0x89, 0x07}, state.registers.rax >> 32U, 4));
    CHECK_FALSE(find({0x48, 0x89, 0x07}, state.registers.rax, 8, target - 4));
}

TEST_CASE_FIXTURE(Fixture, "code of which a part or nothing can be read") {
    state.registers.rip = 0x200002;
    const std::array<uint8_t, 2> mov{0x89, 0x07};
    CHECK(memory.write({0x200000}, std::as_bytes(std::span(mov))));
    CHECK(find(0x55667788, 4));
    CHECK(memory.store({0x3000}, uint64_t{0})); // the page before
    state.registers.rdi = 0x210000;
    CHECK(find(0x55667788, 4, 0x210000));
    CHECK(memory.store({0x3008}, uint64_t{0}));
    CHECK_FALSE(find(0x55667788, 4, 0x210000));
    state.registers.rip = 1;
    CHECK_FALSE(find(0x55667788, 4, 0x210000));
}

TEST_CASE_FIXTURE(Fixture, "other than 64-bit code is left alone") {
    CHECK(find({0x89, 0x07}, 0x55667788, 4));
    state.system.cs.l = 0;
    state.system.cs.db = 1;
    CHECK_FALSE(find({0x89, 0x07}, 0x55667788, 4));
}

// What the instruction at `before` leaves behind, as KVM's emulator does it: by the SDM, one register each.
void execute(const DecodedInstruction& decoded, CpuState& state) {
    kvm_regs& registers = state.registers;
    registers.rip += decoded.length;
    if (decoded.effect == StoreEffect::push)
        registers.rsp = decoded.stores.front().address.value;
    if (decoded.effect == StoreEffect::string)
        registers.rdi += (registers.rflags & 1U << 10U) != 0 ? 0 - decoded.stores.front().bytes
                                                             : decoded.stores.front().bytes;
    if (decoded.effect == StoreEffect::string && decoded.stores.size() == 2) {
        registers.rip -= decoded.length; // not done
        --registers.rcx;
    }
}

TEST_CASE_FIXTURE(Fixture, "of random code that stores, another instruction is never named" *
                               doctest::test_suite("exhaustive")) {
    std::mt19937_64 random(1);
    unsigned named = 0;
    unsigned stores = 0;
    const std::array<uint8_t, 16> likely{0x48, 0x89, 0x07, 0x88, 0xc7, 0xaa, 0xf3, 0x50,
                                         0x01, 0x00, 0x0f, 0x47, 0x66, 0xa4, 0x87, 0x2e};
    for (unsigned round = 0; round < 300'000; ++round) {
        std::array<uint8_t, 48> code{};
        for (uint8_t& byte : code)
            byte = random() % 2 == 0 ? likely[random() % likely.size()] : static_cast<uint8_t>(random());
        put(code);
        CpuState before = state;
        kvm_regs& r = before.registers;
        for (auto* field : {&r.rax, &r.rbx, &r.rcx, &r.rdx, &r.rsi, &r.rdi, &r.rsp, &r.rbp, &r.r8})
            *field = target + random() % 4 * 8;
        if (random() % 2 == 0)
            r.rcx = random() % 3;
        r.rflags = random() % 4 == 0 ? 1U << 10U : 0;
        r.rip = code_end - longest_instruction - random() % 16;
        const auto decoded = decoder.decode(fetch_instruction(memory, before), before);
        if (!decoded || decoded->stores.empty() || decoded->effect == StoreEffect::unknown)
            continue;
        const StoreOperand& store = decoded->stores.front();
        const auto translation = translate(memory, before.system, store.address);
        const uint64_t bytes = std::min<uint64_t>(store.bytes, 8);
        if (!translation || translation->address.value % page_bytes + bytes > page_bytes)
            continue;
        ++stores;
        CpuState after = before;
        execute(*decoded, after);
        const uint64_t value = store.value.value_or(random());
        const auto found =
            find_store_origin(memory, after, decoder, translation->address,
                              std::as_bytes(std::span(&value, 1)).first(static_cast<size_t>(bytes)));
        if (!found)
            continue;
        ++named;
        CHECK(found->rip == r.rip);
        CHECK(decoded->effect == StoreEffect::repeatable);
        CHECK(found->instruction == decoded->text);
    }
    CHECK(stores > 10'000);
    CHECK(named > stores / 20);
}

} // namespace
} // namespace casemate
