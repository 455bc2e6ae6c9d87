// SPDX-License-Identifier: Apache-2.0
#include "guard/lock_table.hpp"

#include "page_model.hpp"

#include <algorithm>
#include <array>
#include <atomic>
#include <doctest/doctest.h>
#include <random>
#include <thread>
#include <vector>

namespace casemate {
namespace {

constexpr LockPolicy read_only = LockPolicy::read_only;
constexpr LockPolicy die_on_write = LockPolicy::die_on_write;

GuestRange bytes_at(uint64_t start, uint64_t bytes) {
    return GuestRange::of(GuestPhysical{start}, bytes);
}

GuestRange pages_at(uint64_t first, uint64_t count) {
    return bytes_at(first * page_bytes, count * page_bytes);
}

Lock lock_of(uint64_t first, uint64_t count, LockPolicy policy, LockKind kind = LockKind::text) {
    return {pages_at(first, count), policy, kind};
}

const Lock no_lock = lock_of(0, 0, LockPolicy::read_only);

TEST_CASE("an empty table lets everything be written") {
    const LockTable table;
    CHECK(table.may_write(bytes_at(0, ~uint64_t{0})));
    CHECK_FALSE(table.find(bytes_at(0, ~uint64_t{0})));
    CHECK(table.locks().empty());
    CHECK(table.count() == 0);
    CHECK(table.locked_bytes() == 0);
}

TEST_CASE("a lock refuses every range that holds one of its bytes, and no other") {
    LockTable table;
    REQUIRE(table.add(lock_of(2, 2, read_only)));
    CHECK(table.may_write(bytes_at(0, 0x2000)));
    CHECK_FALSE(table.may_write(bytes_at(0, 0x2001)));
    CHECK_FALSE(table.may_write(bytes_at(0x2fff, 2)));
    CHECK_FALSE(table.may_write(bytes_at(0x3fff, 1)));
    CHECK(table.may_write(bytes_at(0x4000, 1)));
    CHECK_FALSE(table.may_write(bytes_at(0, ~uint64_t{0})));
    CHECK(table.may_write(bytes_at(0x2800, 0)));
    CHECK_FALSE(table.find(bytes_at(0x2800, 0)));
}

TEST_CASE("the first page of the address space and the last that a guest can have are lockable") {
    LockTable table;
    constexpr uint64_t last = (uint64_t{1} << 40) - 1; // 52 bits of address
    REQUIRE(table.add(lock_of(last, 1, die_on_write, LockKind::data)));
    REQUIRE(table.add(lock_of(0, 1, read_only)));
    CHECK_FALSE(table.may_write(bytes_at(0, 1)));
    CHECK(table.may_write(pages_at(1, last - 1)));
    CHECK_FALSE(table.may_write(pages_at(last, 1)));
    CHECK(same(table.find(pages_at(last, 1)).value_or(no_lock),
               lock_of(last, 1, die_on_write, LockKind::data)));
}

TEST_CASE("a raise splits a lock and keeps its kind; lowering any page is refused whole") {
    LockTable table;
    REQUIRE(table.add(lock_of(10, 10, read_only, LockKind::rodata)));
    const auto raised = table.add(lock_of(12, 2, die_on_write, LockKind::text));
    REQUIRE(raised);
    CHECK(raised->newly_locked.empty());
    const auto locks = table.locks();
    REQUIRE(locks.size() == 3);
    CHECK(same(locks[0], lock_of(10, 2, read_only, LockKind::rodata)));
    CHECK(same(locks[1], lock_of(12, 2, die_on_write, LockKind::rodata)));
    CHECK(same(locks[2], lock_of(14, 6, read_only, LockKind::rodata)));

    CHECK(table.add(lock_of(0, 13, read_only)).error() == LockRefusal::lowers_policy);
    CHECK(table.may_write(pages_at(0, 10)));
    CHECK(table.count() == 3);

    // The highest policy wins over the lowest address.
    CHECK(same(table.find(pages_at(10, 10)).value_or(no_lock), locks[1]));
    CHECK(same(table.find(pages_at(14, 1)).value_or(no_lock), locks[2]));

    REQUIRE(table.add(lock_of(10, 10, die_on_write)));
    CHECK(table.count() == 1);
    CHECK(table.locked_bytes() == 10 * page_bytes);
}

TEST_CASE("locking again changes nothing, and undoing that neither") {
    LockTable table;
    REQUIRE(table.add(lock_of(1, 4, read_only)));
    const auto again = table.add(lock_of(2, 2, read_only, LockKind::data));
    REQUIRE(again);
    CHECK(again->newly_locked.empty());
    table.undo(*again);
    CHECK(table.count() == 1);
    CHECK(table.locked_bytes() == 4 * page_bytes);
}

TEST_CASE("undo takes back a raise and the new pages of one add") {
    LockTable table;
    REQUIRE(table.add(lock_of(10, 2, read_only, LockKind::rodata)));
    const auto change = table.add(lock_of(8, 6, die_on_write));
    REQUIRE(change);
    REQUIRE(change->newly_locked.size() == 2);
    CHECK(same(change->newly_locked[0], pages_at(8, 2)));
    CHECK(same(change->newly_locked[1], pages_at(12, 2)));
    CHECK(table.count() == 3);
    table.undo(*change);
    REQUIRE(table.count() == 1);
    CHECK(same(table.locks()[0], lock_of(10, 2, read_only, LockKind::rodata)));
    CHECK(table.locked_bytes() == 2 * page_bytes);
    CHECK(table.may_write(pages_at(8, 2)));
    // The next change starts from there.
    REQUIRE(table.add(lock_of(12, 1, read_only, LockKind::rodata)));
    CHECK(table.count() == 1);
}

TEST_CASE("the table ends at max_ranges separate ranges and goes on merging there") {
    LockTable table;
    for (uint64_t i = 0; i < LockTable::max_ranges; ++i)
        REQUIRE(table.add(lock_of(2 * i, 1, read_only)));
    CHECK(table.count() == LockTable::max_ranges);
    constexpr uint64_t behind = 2 * LockTable::max_ranges;
    CHECK(table.add(lock_of(behind, 1, read_only)).error() == LockRefusal::too_many_ranges);
    CHECK(table.may_write(pages_at(behind, 1)));
    CHECK(table.add(lock_of(1, 1, die_on_write)).error() == LockRefusal::too_many_ranges);
    CHECK(table.may_write(pages_at(1, 1)));
    // No page of it is new, but one becomes three.
    REQUIRE(table.add(lock_of(1, 1, read_only)));
    REQUIRE(table.add(lock_of(behind, 1, read_only)));
    CHECK(table.add(lock_of(1, 1, die_on_write)).error() == LockRefusal::too_many_ranges);
    // Holes are filled some at a time.
    constexpr uint64_t most = LockTable::max_new_ranges;
    CHECK(table.add(lock_of(0, behind + 1, read_only)).error() == LockRefusal::too_many_ranges);
    CHECK(table.add(lock_of(2, 2 * (most + 1), read_only)).error() == LockRefusal::too_many_ranges);
    CHECK(table.may_write(pages_at(3, 1)));
    const auto first = table.add(lock_of(2, 2 * most, read_only));
    REQUIRE(first);
    CHECK(first->newly_locked.size() == most);
    for (uint64_t at = 2 + 2 * most; at < behind; at += 2 * most)
        REQUIRE(table.add(lock_of(at, std::min(2 * most, behind - at), read_only)));
    CHECK(table.count() == 1);
    CHECK(table.locked_bytes() == (behind + 1) * page_bytes);
}

TEST_CASE("any sequence of locks and undos gives what a table of pages gives") {
    std::mt19937_64 random(20240601); // NOLINT(bugprone-random-generator-seed): failures shall repeat
    const auto below = [&](uint64_t limit) { return random() % limit; };
    for (int round = 0; round < 200; ++round) {
        LockTable table;
        PageModel model;
        for (int step = 0; step < 60; ++step) {
            const size_t first = below(PageModel::pages);
            const size_t count = 1 + below(std::min<size_t>(PageModel::pages - first, 1 + below(12)));
            const LockPolicy policy = below(3) == 0 ? die_on_write : read_only;
            const auto kind = static_cast<LockKind>(below(4));
            const PageModel before = model;
            const auto expected = model.add(first, count, policy, kind);
            const auto change = table.add({PageModel::page_range(first, count), policy, kind});
            REQUIRE(change.has_value() == expected.has_value());
            if (change)
                REQUIRE(PageModel::are_pages(change->newly_locked, *expected));
            else
                REQUIRE(change.error() == expected.error());
            if (change && below(8) == 0) {
                table.undo(*change);
                model = before;
            }
            REQUIRE(model.matches(table));
            for (int look = 0; look < 8; ++look) {
                const uint64_t start = PageModel::base - page_bytes + below((PageModel::pages + 2) << 12);
                REQUIRE(model.matches(table, bytes_at(start, below(3) == 0 ? below(8) : below(8 << 12))));
            }
        }
    }
}

// Locks of two pages with one free page between, from the highest down, so that each change moves every
// entry. A lookup that sees half of a change, or the array of the next one, finds some page in the wrong
// state.
TEST_CASE("lookups of other threads see whole changes only") {
    LockTable table;
    constexpr uint64_t rounds = 2000;
    std::atomic<uint64_t> lowest = rounds; // from this on every thread must see the locks
    std::atomic<uint64_t> wrong = 0;
    std::atomic<uint64_t> copies = 0;
    std::atomic<int> ready = 0;
    const auto look = [&](const std::stop_token& stop, unsigned seed) {
        std::mt19937 random(seed); // NOLINT(bugprone-random-generator-seed): failures shall repeat
        uint64_t bad = 0;
        uint64_t done = 0;
        ++ready;
        for (; !stop.stop_requested(); ++done) {
            const uint64_t known = lowest;
            const uint64_t free_page = 3 * (random() % rounds) + 2;
            bad += table.may_write(pages_at(free_page, 1)) ? 0U : 1U;
            if (known < rounds) {
                const uint64_t lock = known + random() % (rounds - known);
                bad += table.may_write(pages_at(3 * lock + 1, 1)) ? 1U : 0U;
                const Lock found = table.find(pages_at(3 * lock, 1)).value_or(no_lock);
                bad += same(found.range, pages_at(3 * lock, 2)) ? 0U : 1U;
            }
            const auto all = table.locks();
            bad += all.size() >= rounds - known ? 0U : 1U;
            for (size_t i = 0; i < all.size(); ++i)
                bad += same(all[i].range, pages_at(3 * (rounds - all.size() + i), 2)) ? 0U : 1U;
        }
        copies += done;
        wrong += bad;
    };
    {
        const std::array readers{std::jthread(look, 1), std::jthread(look, 2)};
        while (ready != static_cast<int>(readers.size()))
            std::this_thread::yield();
        for (uint64_t i = rounds; i-- != 0;) {
            // A change that comes and goes right before the one that stays.
            const auto change = table.add(lock_of(3 * i, 2, read_only));
            REQUIRE(change);
            table.undo(*change);
            REQUIRE(table.add(lock_of(3 * i, 2, read_only)));
            lowest = i;
        }
    }
    CHECK(wrong.load() == 0);
    CHECK(copies.load() > 0);
}

} // namespace
} // namespace casemate
