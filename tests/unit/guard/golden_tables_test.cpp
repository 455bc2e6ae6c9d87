// SPDX-License-Identifier: Apache-2.0
#include "guard/golden_tables.hpp"

#include "synthetic_tables.hpp"

#include <array>
#include <atomic>
#include <doctest/doctest.h>
#include <thread>
#include <tuple>

namespace casemate {
namespace {

using namespace synthetic;

// Refuses every host-side write, as the guard does for tables under verification.
class Closed final : public WriteGate {
public:
    bool may_write(const GuestRange&) const override { return false; }
};

struct Fixture : SyntheticTables {
    Fixture() {
        const std::array ranges{GuestRange::of({direct_pud}, 3 * page_bytes),
                                GuestRange::of({image_pud}, 3 * page_bytes)};
        REQUIRE(golden.add(ranges));
    }
    std::optional<TableDifference> first() const {
        const auto differences = golden.compare(~size_t{0});
        CHECK(differences.size() < 2);
        return differences.empty() ? std::nullopt : std::optional(differences[0]);
    }
    GoldenTables golden{memory};
};

TEST_CASE_FIXTURE(Fixture, "tables as they were, and in each bit that matters not") {
    CHECK(golden.pages() == 6);
    CHECK_FALSE(first());
    const uint64_t before = at(image_pmd, 9);
    for (unsigned bit = 0; bit < 64; ++bit) {
        const bool ignored = bit == 5 || bit == 6 || (bit >= 9 && bit <= 11) || (bit >= 52 && bit <= 62);
        put(image_pmd, 9, before ^ (1ULL << bit));
        const auto found = first();
        CHECK(!found == ignored);
        if (!found)
            continue;
        CHECK(found->page.value == image_pmd);
        CHECK(found->entry().value == image_pmd + 72);
        CHECK(found->expected == before);
        CHECK(found->found == (before ^ (1ULL << bit)));
        CHECK(found->entries == 1);
    }
    put(image_pmd, 9, before);
    put(image_pmd, 100, ~entry_present); // not present, as before
    CHECK_FALSE(first());
    put(image_pmd, 100, entry_present);
    CHECK(first()->index == 100);
    put(image_pmd, 511, text_start | table_entry);
    put(image_pmd, 100, 0);
    CHECK(first()->index == 511);
    put(vmalloc_pmd, 0, ~0ULL); // not held
    put(image_pmd, 511, 0);
    CHECK_FALSE(first());
}

TEST_CASE_FIXTURE(Fixture, "a repair writes back what differs, past the gate, and nothing else") {
    const uint64_t before = at(direct_pte, 7);
    put(direct_pte, 7, 0x400000 | table_entry);
    put(direct_pte, 0, 0);
    put(direct_pte, 9, at(direct_pte, 9) ^ (entry_dirty | 0x200));
    const uint64_t harmless = at(direct_pte, 9);
    CHECK(first()->entries == 2);
    const Closed closed;
    memory.set_write_gate(&closed);
    CHECK(golden.repair({direct_pte}) == 2);
    memory.set_write_gate(nullptr);
    CHECK_FALSE(first());
    CHECK(at(direct_pte, 7) == before);
    CHECK(at(direct_pte, 9) == harmless);
    CHECK(golden.repair({direct_pte}) == 0);
    put(vmalloc_pmd, 0, 1); // not held, and the next one differs
    put(image_pud, 3, 1);
    CHECK(golden.repair({vmalloc_pmd}) == 0);
    CHECK(golden.repair({direct_pte + 8}) == 0);
    CHECK(at(vmalloc_pmd, 0) == 1);
}

TEST_CASE_FIXTURE(Fixture, "what is held, to the page") {
    const auto held = [&](uint64_t start, uint64_t bytes) {
        return golden.overlaps(GuestRange::of({start}, bytes));
    };
    CHECK(held(direct_pud, 1));
    CHECK(held(direct_pud + page_bytes - 1, 1));
    CHECK(held(direct_pud - page_bytes, page_bytes + 1));
    CHECK(held(0, 16_MiB));
    CHECK_FALSE(held(direct_pud - page_bytes, page_bytes));
    CHECK_FALSE(held(vmalloc_pud, 3 * page_bytes));
    CHECK(held(image_pte, page_bytes));
    CHECK_FALSE(held(image_pte + page_bytes, page_bytes));
}

TEST_CASE_FIXTURE(Fixture, "few pages at a time come round to all") {
    put(direct_pud, 3, 1);
    put(image_pte, 3, 1);
    for (int round = 0; round < 3; ++round) {
        size_t found = 0;
        for (int part = 0; part < 3; ++part)
            found += golden.compare(2).size();
        CHECK(found == 2);
    }
    CHECK(golden.compare(100).size() == 2); // each once
}

TEST_CASE("too many pages, or some that are not RAM: none is copied") {
    const GuestMemory memory = GuestMemory::create(64_MiB).value();
    GoldenTables golden(memory);
    const size_t room = golden.max_pages();
    CHECK(room == 1088);
    const GuestRange outside = GuestRange::of({64_MiB - page_bytes}, 2 * page_bytes);
    CHECK_FALSE(golden.add({&outside, 1}));
    const std::array too_many{GuestRange::of({0}, room * page_bytes), GuestRange::of({32_MiB}, page_bytes)};
    CHECK_FALSE(golden.add(too_many));
    CHECK(golden.pages() == 0);
    CHECK(golden.add(std::span(too_many).first(1)));
    CHECK(golden.pages() == room);
    CHECK_FALSE(golden.add(std::span(too_many).last(1)));
}

TEST_CASE_FIXTURE(Fixture, "comparisons and repairs beside a guest that changes entries, and more tables") {
    std::atomic<bool> stop = false;
    std::thread guest([&] {
        for (uint64_t i = 0; !stop; ++i)
            std::ignore = memory.restore({direct_pte + i % table_entries * 8}, i << 12U | 1);
    });
    std::thread other([&] {
        while (!stop)
            for (const TableDifference& found : golden.compare(3))
                golden.repair(found.page);
    });
    for (uint64_t i = 0; i < 100; ++i) {
        const GuestRange more = GuestRange::of({8_MiB + i * page_bytes}, page_bytes);
        CHECK(golden.add({&more, 1}));
        for (const TableDifference& found : golden.compare(~size_t{0})) {
            CHECK(found.page.value == direct_pte);
            CHECK(differ(found.expected, found.found));
        }
    }
    stop = true;
    guest.join();
    other.join();
    golden.repair({direct_pte});
    CHECK(golden.compare(~size_t{0}).empty());
}

} // namespace
} // namespace casemate
