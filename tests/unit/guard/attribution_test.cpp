// SPDX-License-Identifier: Apache-2.0
#include "guard/attribution.hpp"

#include "assembled.hpp"

#include <algorithm>
#include <doctest/doctest.h>

namespace casemate {
namespace {

constexpr uint64_t ram_bytes = 16_MiB;
constexpr uint64_t root = 0x10000; // 6 pages of tables
constexpr uint64_t all = 7;
constexpr uint64_t code_page = 0x20000;
constexpr uint64_t second_code_page = 0x30000;
constexpr uint64_t base = 0xffff888000000000;

// Kernel linear addresses from `base` map as the test says; code is at test_rip.
struct Guest {
    GuestMemory memory = GuestMemory::create(ram_bytes).value();
    CpuState state = state_64();
    Decoder decoder;
    std::vector<Lock> locks;
    size_t lookups = 0;

    Guest() {
        state.system.cr3 = root;
        put(root, 273, root + 0x1000); // base: 512 small pages
        put(root + 0x1000, 0, root + 0x2000);
        put(root + 0x2000, 0, root + 0x3000);
        put(root, 511, root + 0x4000); // test_rip: two small pages
        put(root + 0x4000, 510, root + 0x5000);
        put(root + 0x5000, 8, root + 0x6000);
        put(root + 0x6000, 0, code_page);
    }
    void put(uint64_t table, uint64_t index, uint64_t address) const {
        REQUIRE(memory.store(GuestPhysical{table + 8 * index}, address == 0 ? 0 : address | all));
    }
    // The page of that number from `base`.
    void map(uint64_t page, uint64_t physical) const { put(root + 0x3000, page, physical); }
    void lock(uint64_t start, uint64_t pages, LockPolicy policy = LockPolicy::read_only) {
        locks.push_back({.range = GuestRange::of({start}, pages * page_bytes), .policy = policy});
    }
    Attribution run(std::span<const std::byte> code) {
        REQUIRE(memory.write(GuestPhysical{code_page}, code));
        return attribute();
    }
    Attribution attribute() {
        lookups = 0;
        return attribute_store(memory, state, decoder, [&](const GuestRange& range) {
            ++lookups;
            CHECK_FALSE(range.empty());
            std::optional<Lock> found;
            for (const Lock& lock : locks)
                if (lock.range.overlaps(range) &&
                    (!found || lock.policy > found->policy ||
                     (lock.policy == found->policy && lock.range.start() < found->range.start())))
                    found = lock;
            return found;
        });
    }
};

TEST_CASE("a store into a lock is found with its addresses, size, value and text") {
    Guest guest;
    guest.map(1, 0x50000);
    guest.lock(0x50000, 1, LockPolicy::die_on_write);
    guest.state.registers.rbx = base + 0x1ff0;
    const auto found = guest.run(CODE64("mov dword ptr [rbx], 0x12345678"));
    REQUIRE(found.hit);
    CHECK(found.hit->lock.policy == LockPolicy::die_on_write);
    CHECK(found.hit->lock.range.start().value == 0x50000);
    CHECK(found.hit->address.value == 0x50ff0);
    CHECK(found.hit->linear.value == base + 0x1ff0);
    CHECK(found.hit->bytes == 4);
    CHECK(found.hit->value == 0x12345678);
    CHECK(found.instruction == "mov dword ptr [rbx], 0x12345678");
    CHECK(found.code.size() == 6);
    CHECK(found.reason.empty());
}

TEST_CASE("a store across two pages names the first byte that is locked") {
    Guest guest;
    guest.map(1, 0x50000);
    guest.map(2, 0x70000);
    guest.state.registers.rbx = base + 0x1ffb;
    guest.lock(0x70000, 1);
    auto found = guest.run(CODE64("mov [rbx], rax"));
    REQUIRE(found.hit);
    CHECK(found.hit->address.value == 0x70000);
    CHECK(found.hit->linear.value == base + 0x2000);
    CHECK(found.hit->bytes == 8);
    guest.lock(0x50000, 1);
    found = guest.attribute();
    REQUIRE(found.hit);
    CHECK(found.hit->address.value == 0x50ffb); // first among equals, in the order of storing
    guest.lock(0x70000, 1, LockPolicy::die_on_write);
    found = guest.attribute();
    REQUIRE(found.hit);
    CHECK(found.hit->address.value == 0x70000); // the higher policy
    guest.locks.clear();
    guest.lock(0x51000, 1); // next in RAM, but not what the second page maps
    CHECK_FALSE(guest.attribute().hit);
    guest.locks.clear();
    guest.lock(0x50000, 1);
    guest.state.registers.rbx = base + 0x2000;
    CHECK_FALSE(guest.attribute().hit);
}

TEST_CASE("every store of an instruction counts") {
    Guest guest;
    guest.map(1, 0x50000);
    guest.map(3, 0x60000);
    guest.lock(0x60000, 1);
    guest.state.registers.rsp = base + 0x3008;
    CHECK(guest.run(CODE64("call [rbx]")).hit->address.value == 0x60000);
    CHECK(guest.run(CODE64("push rax")).hit->value == guest.state.registers.rax);
    guest.state.registers.rsp = base + 0x3000;
    CHECK_FALSE(guest.run(CODE64("push rax")).hit);
    guest.state.registers.rsp = base + 0x3108; // the final rSP of ENTER
    guest.locks.clear();
    guest.map(2, 0x80000);
    guest.lock(0x80000, 1);
    CHECK(guest.run(CODE64("enter 0x200, 0")).hit->linear.value == base + 0x2f00);
}

TEST_CASE("nothing explains the fault: each reason") {
    Guest guest;
    guest.map(1, 0x50000);
    guest.lock(0x90000, 1);
    guest.state.registers.rbx = base + 0x1000;
    const auto none = guest.run(CODE64("mov [rbx], rax"));
    CHECK_FALSE(none.hit);
    CHECK(none.reason == "none of its stores is to locked memory");
    CHECK(none.instruction == "mov qword ptr [rbx], rax");
    const auto load = guest.run(CODE64("mov rax, [rbx]"));
    CHECK(load.reason.starts_with("the instruction stores nothing"));
    CHECK(load.code.size() == 3);
    const auto strange = guest.run(CODE64("wrssq [rbx], rax"));
    CHECK(strange.reason == "the decoder does not know the instruction");
    CHECK(strange.code.size() == longest_instruction);
    CHECK(strange.instruction.empty());
    guest.state.registers.rbx = base + 0x5000;
    CHECK(guest.run(CODE64("mov [rbx], rax")).reason == "its store to gla:0xffff888000005000 is not mapped");
    guest.map(5, 0xfee00000); // not RAM
    CHECK(guest.run(CODE64("mov [rbx], rax")).reason == "none of its stores is to locked memory");
    guest.state.registers.rip = base + 0x7000;
    CHECK(guest.attribute().reason == "the instruction cannot be fetched: CS:RIP is not mapped to RAM");
    CHECK(guest.attribute().code.empty());
}

TEST_CASE("an instruction is fetched across two pages, and stands alone before an unmapped one") {
    Guest guest;
    guest.map(1, 0x50000);
    guest.lock(0x50000, 1);
    guest.state.registers.rbx = base + 0x1000;
    const auto code = CODE64("mov dword ptr [rbx], 0x12345678");
    guest.state.registers.rip = test_rip + 0x1000 - 3;
    REQUIRE(guest.memory.write(GuestPhysical{code_page + 0x1000 - 3}, code.first(3)));
    CHECK(guest.attribute().reason == "the decoder does not know the instruction");
    CHECK(guest.attribute().code.size() == 3);
    guest.put(root + 0x6000, 1, second_code_page);
    REQUIRE(guest.memory.write(GuestPhysical{second_code_page}, code.subspan(3)));
    REQUIRE(guest.attribute().hit);
    CHECK(guest.attribute().hit->value == 0x12345678);
    guest.put(root + 0x6000, 1, 0);
    const auto whole = CODE64("mov [rbx], eax");
    guest.state.registers.rip = test_rip + 0x1000 - whole.size();
    REQUIRE(guest.memory.write(GuestPhysical{code_page + 0x1000 - whole.size()}, whole));
    CHECK(guest.attribute().hit);
}

TEST_CASE("the rest of a run counts when the next element explains nothing") {
    Guest guest;
    for (uint64_t page = 0; page < 512; ++page)
        guest.map(page, 0x100000 + page * page_bytes);
    guest.lock(0x105000, 2);
    guest.state.registers.rdi = base + 0x2004;
    guest.state.registers.rcx = 0x1000;
    auto found = guest.run(CODE64("rep stosq"));
    REQUIRE(found.hit);
    CHECK(found.hit->linear.value == base + 0x5000);
    CHECK(found.hit->address.value == 0x105000);
    CHECK(found.hit->bytes == 0xfff * 8);
    guest.lock(0x102000, 1);
    guest.lock(0x10a000, 1, LockPolicy::die_on_write);
    found = guest.attribute();
    REQUIRE(found.hit); // the element hits, so the higher policy further on does not count
    CHECK(found.hit->linear.value == base + 0x2004);
    CHECK(found.hit->value == guest.state.registers.rax);
    guest.locks.clear();
    guest.lock(0x101000, 1);
    CHECK_FALSE(guest.attribute().hit);
    guest.state.registers.rflags |= 0x400; // downward: the element at 0x2004, then from 0x2003
    found = guest.attribute();
    REQUIRE(found.hit);
    CHECK(found.hit->linear.value == base + 0x1fff);
    CHECK(found.hit->address.value == 0x101fff);
    guest.state.registers.rcx = 0;
    CHECK(guest.attribute().reason.starts_with("the instruction stores nothing"));
}

TEST_CASE("an endless run costs a bounded number of page walks") {
    Guest guest;
    for (uint64_t page = 0; page < 512; ++page)
        guest.map(page, 0x100000 + page * page_bytes);
    guest.state.registers.rdi = base;
    guest.state.registers.rcx = ~0ULL;
    CHECK_FALSE(guest.run(CODE64("rep stosb")).hit);
    CHECK(guest.lookups == max_page_walks); // 1 for the element, 511 of the run
    guest.lock(0x100000 + 510 * page_bytes, 1);
    CHECK(guest.attribute().hit);
    guest.locks.clear();
    guest.lock(0x100000 + 511 * page_bytes, 1);
    CHECK(guest.attribute().reason == "the first 512 pages it stores to are not locked");
}

TEST_CASE("large pages are looked up whole") {
    Guest guest;
    REQUIRE(guest.memory.store(GuestPhysical{root + 0x2000}, uint64_t{0x600000 | 0x80 | all}));
    guest.lock(0x7ff000, 1);
    guest.state.registers.rdi = base + 0x10;
    guest.state.registers.rcx = 0x200000;
    const auto found = guest.run(CODE64("rep stosb"));
    REQUIRE(found.hit);
    CHECK(guest.lookups == 2);
    CHECK(found.hit->linear.value == base + 0x1ff000);
    CHECK(found.hit->address.value == 0x7ff000);
    guest.state.registers.rdi = base + 0x1ffff0;
    guest.state.registers.rflags |= 0x400;
    guest.locks.clear();
    guest.lock(0x610000, 2);
    REQUIRE(guest.attribute().hit);
    CHECK(guest.attribute().hit->linear.value == base + 0x11fff);
    CHECK(guest.attribute().hit->address.value == 0x611fff);
}

TEST_CASE("a store that wraps at the top of the address space goes on at its bottom") {
    Guest guest;
    guest.state = state_32(); // paging is off
    guest.state.system.cs.base = 0;
    guest.state.system.ds.base = 0;
    guest.state.registers.rip = code_page;
    guest.state.registers.rbx = 0xfffffffe;
    guest.lock(0, 1);
    const auto found = guest.run(CODE32("mov [ebx], eax"));
    REQUIRE(found.hit);
    CHECK(found.hit->linear.value == 0);
    CHECK(found.hit->address.value == 0);
}

} // namespace
} // namespace casemate
