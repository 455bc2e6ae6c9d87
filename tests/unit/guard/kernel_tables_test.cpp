// SPDX-License-Identifier: Apache-2.0
#include "guard/kernel_tables.hpp"

#include <algorithm>
#include <doctest/doctest.h>
#include <map>
#include <utility>

namespace casemate {
namespace {

constexpr uint64_t ram_bytes = 16_MiB;
constexpr uint64_t table = entry_present | entry_writable | entry_accessed | entry_dirty;
constexpr uint64_t pud = 0x11000, pmd = 0x12000, pte = 0x13000, other_pte = 0x14000;

// A root of which only the upper half exists, as a copy.
struct Walked {
    GuestMemory memory = GuestMemory::create(ram_bytes).value();
    TableEntries root{};
    size_t first_slot = 273;
    bool five_levels = false;
    uint64_t most_work = 10000;
    std::stop_source ending;
    uint64_t wanted_physical = ~0ULL; // the page whose mapping is wanted
    size_t stop_after = ~size_t{0};
    bool stop_at_leaf = false;

    std::vector<KernelLeaf> leaves;
    std::vector<KernelTable> found;
    std::map<std::pair<uint64_t, unsigned>, bool> wanted; // by page and level
    uint64_t dead_entries = 0;
    uint64_t work = 0;

    void put(uint64_t page, uint64_t index, uint64_t entry) const {
        REQUIRE(memory.store(GuestPhysical{page + 8 * index}, entry));
    }
    bool walk() {
        KernelTableWalk walk(
            memory, five_levels, {.work = most_work, .ending = ending.get_token()},
            [this](const KernelLeaf& leaf) {
                leaves.push_back(leaf);
                if (stop_at_leaf)
                    ending.request_stop();
                return wanted_physical - leaf.physical.value < leaf.bytes;
            },
            [this](const KernelTable& one) {
                found.push_back(one);
                CHECK(wanted.emplace(std::pair(one.page.value, one.level), one.wanted).second);
                return found.size() < stop_after;
            });
        const bool complete = walk.walk(std::span(root).subspan(first_slot), first_slot);
        dead_entries = walk.dead_entries();
        work = walk.work();
        CHECK(work <= most_work);
        CHECK(walk.tables() >= found.size());
        return complete;
    }
    bool has(uint64_t page, unsigned level) const { return wanted.contains({page, level}); }
};

// Slot 273 as KASLR may place the direct map, and the image at the top.
Walked four_levels() {
    Walked tables;
    tables.root[273] = pud | table;
    tables.put(pud, 5, pmd | table);
    tables.put(pmd, 7, pte | table);
    tables.put(pte, 9, 0x5000 | table);
    return tables;
}

TEST_CASE("a chain is found with its levels, and the page that it maps") {
    Walked tables = four_levels();
    CHECK(tables.walk());
    REQUIRE(tables.found.size() == 3);
    CHECK(tables.found[0].page.value == pte); // those below come first
    CHECK(tables.found[0].level == 1);
    CHECK(tables.found[1].page.value == pmd);
    CHECK(tables.found[1].level == 2);
    CHECK(tables.found[2].page.value == pud);
    CHECK(tables.found[2].level == 3);
    REQUIRE(tables.leaves.size() == 1);
    CHECK(tables.leaves[0].linear.value == 0xffff888140e09000);
    CHECK(tables.leaves[0].physical.value == 0x5000);
    CHECK(tables.leaves[0].bytes == 4_KiB);
    CHECK(tables.dead_entries == 0);
}

TEST_CASE("slots before the first kernel slot are not looked at") {
    Walked tables = four_levels();
    tables.first_slot = 274;
    CHECK(tables.walk());
    CHECK(tables.found.empty());
    tables.root[511] = pud | table;
    CHECK(tables.walk());
    CHECK(tables.has(pud, 3));
    CHECK(tables.leaves.at(0).linear.value == 0xffffff8140e09000);
}

TEST_CASE("the lowest and the highest address of the upper half, with 4 and 5 levels") {
    Walked tables;
    tables.first_slot = 256;
    tables.root[256] = tables.root[511] = pud | table;
    tables.put(pud, 0, entry_large | table);
    CHECK(tables.walk());
    CHECK(tables.leaves.at(0).linear.value == 0xffff800000000000);

    Walked last;
    last.first_slot = 511;
    last.root[511] = pud | table;
    last.put(pud, 511, entry_large | table);
    CHECK(last.walk());
    CHECK(last.leaves.at(0).linear.value == 0xffffffffc0000000);

    Walked five;
    five.five_levels = true;
    five.first_slot = 256;
    five.root[256] = 0x20000 | table;
    five.root[511] = 0x21000 | table;
    five.put(0x20000, 0, pud | table);
    five.put(0x21000, 511, pud | table);
    five.put(pud, 511, entry_large | table);
    CHECK(five.walk());
    CHECK(five.has(0x20000, 4));
    CHECK(five.has(0x21000, 4));
    CHECK(five.has(pud, 3));
    CHECK(five.found.size() == 3);
    REQUIRE(five.leaves.size() == 1); // the second way to a table is not walked again
    CHECK(five.leaves[0].linear.value == 0xff00007fc0000000);
}

TEST_CASE("large pages are leaves; their reserved bits, and PS where there are none, lead nowhere") {
    Walked tables = four_levels();
    tables.put(pud, 6, 0x40000000 | entry_large | table);
    tables.put(pmd, 8, 0x200000 | 0x1000 | entry_large | table); // PAT
    CHECK(tables.walk());
    REQUIRE(tables.leaves.size() == 3);
    CHECK(tables.leaves[1].physical.value == 0x200000);
    CHECK(tables.leaves[1].bytes == 2_MiB);
    CHECK(tables.leaves[2].physical.value == 0x40000000);
    CHECK(tables.leaves[2].bytes == 1_GiB);
    CHECK(tables.dead_entries == 0);

    Walked reserved = four_levels();
    reserved.root[300] = pud | entry_large | table;
    reserved.put(pud, 6, 0x40000000 | 0x2000 | entry_large | table);
    reserved.put(pmd, 8, 0x200000 | 0x100000 | entry_large | table);
    reserved.put(pte, 10, 0x6000 | entry_large | table); // PAT of a 4 KiB page
    CHECK(reserved.walk());
    CHECK(reserved.leaves.size() == 2);
    CHECK(reserved.dead_entries == 3);
}

TEST_CASE("holes and tables outside RAM end there and nowhere else") {
    Walked tables = four_levels();
    tables.root[274] = ram_bytes | table;
    tables.root[275] = (ram_bytes - 4_KiB) | table; // RAM, and zero there
    tables.root[276] = 3_GiB | table;
    tables.root[277] = address_field | table;
    tables.root[278] = pud | (table & ~entry_present);
    tables.put(pmd, 0, 0xfee00000 | table);
    CHECK(tables.walk());
    CHECK(tables.dead_entries == 4);
    CHECK(tables.found.size() == 4);
    CHECK(tables.has(ram_bytes - 4_KiB, 3));
}

TEST_CASE("loops and self-maps end, and each page counts once a level") {
    Walked tables = four_levels();
    for (uint64_t i = 0; i < table_entries; ++i)
        tables.put(0x30000, i, 0x30000 | table);
    tables.root[511] = 0x30000 | table;
    CHECK(tables.walk());
    CHECK(tables.has(0x30000, 3));
    CHECK(tables.has(0x30000, 2));
    CHECK(tables.has(0x30000, 1));
    CHECK(tables.found.size() == 6);
    CHECK(tables.leaves.size() == 1 + 512);
    // Six tables; four entries of the chain, one of the root, and all of this table at three levels.
    CHECK(tables.work == 6 * KernelTableWalk::table_work + 4 + 1 + uint64_t{3} * 512);
}

TEST_CASE("what maps a wanted page is wanted, on every way to it") {
    Walked tables = four_levels();
    tables.wanted_physical = 0x5123;
    tables.put(pmd, 8, other_pte | table); // maps something else
    tables.put(other_pte, 0, 0x6000 | table);
    tables.root[511] = 0x31000 | table;
    tables.put(0x31000, 0, 0x32000 | table);
    tables.put(0x32000, 0, pte | table); // a second way
    CHECK(tables.walk());
    for (const auto& [page, level] : {std::pair{pte, 1U}, std::pair{pmd, 2U}, std::pair{pud, 3U},
                                      std::pair{uint64_t{0x32000}, 2U}, std::pair{uint64_t{0x31000}, 3U}})
        CHECK(tables.wanted.at({page, level}));
    CHECK_FALSE(tables.wanted.at({other_pte, 1U}));

    Walked large = four_levels();
    large.wanted_physical = 0x345678;
    large.put(pmd, 8, 0x200000 | entry_large | table);
    CHECK(large.walk());
    CHECK_FALSE(large.wanted.at({pte, 1U}));
    CHECK(large.wanted.at({pmd, 2U}));
    CHECK(large.wanted.at({pud, 3U}));
}

TEST_CASE("a walk ends at its limit, and when it is told to") {
    Walked limited = four_levels();
    limited.most_work = 3 * KernelTableWalk::table_work + 3;
    CHECK_FALSE(limited.walk());
    CHECK(limited.leaves.empty());
    limited.most_work = 3 * KernelTableWalk::table_work + 4;
    limited.wanted.clear();
    CHECK(limited.walk());
    limited.most_work = 0;
    limited.found.clear();
    CHECK_FALSE(limited.walk());
    CHECK(limited.found.empty());
    Walked told = four_levels();
    told.stop_after = 2;
    CHECK_FALSE(told.walk());
    CHECK(told.found.size() == 2);
}

TEST_CASE("a walk ends when the machine does, before the next table") {
    Walked tables = four_levels();
    tables.put(pmd, 8, other_pte | table);
    tables.put(other_pte, 0, 0x6000 | table);
    tables.stop_at_leaf = true;
    CHECK_FALSE(tables.walk());
    CHECK(tables.leaves.size() == 1);
    CHECK_FALSE(tables.has(other_pte, 1));
}

TEST_CASE("of a table with a wanted page no other page costs anything") {
    Walked tables = four_levels();
    for (uint64_t i = 10; i < table_entries; ++i)
        tables.put(pte, i, 0x6000 | table);
    tables.put(pmd, 8, other_pte | table);
    tables.put(pmd, 9, 0x200000 | entry_large | table);
    tables.put(other_pte, 0, 0x6000 | table);
    tables.wanted_physical = 0x5000;
    CHECK(tables.walk());
    CHECK(tables.leaves.size() == 2); // the wanted one and that of the other table
    CHECK(tables.work == 4 * KernelTableWalk::table_work + 6);
    CHECK(tables.has(other_pte, 1));
}

TEST_CASE("a second root adds only what it alone has") {
    Walked tables = four_levels();
    size_t found = 0;
    KernelTableWalk walk(
        tables.memory, false, {.work = 100, .ending = {}}, [](const KernelLeaf&) { return false; },
        [&](const KernelTable&) {
            ++found;
            return true;
        });
    CHECK(walk.walk(std::span(tables.root).subspan(273), 273));
    CHECK(found == 3);
    TableEntries user{};
    user[511] = 0x41000 | table;
    tables.put(0x41000, 0, pmd | table);
    CHECK(walk.walk(std::span(user).subspan(273), 273));
    CHECK(found == 4);
}

} // namespace
} // namespace casemate
