// SPDX-License-Identifier: Apache-2.0
#include "guard/root_arena.hpp"

#include "guard_fakes.hpp"

#include <doctest/doctest.h>

namespace casemate {
namespace {

using namespace synthetic;
using Reason = ArenaRefusal::Reason;

constexpr uint64_t pool = 0x800000;
constexpr uint64_t link_bits = table_entry | entry_user;

struct Fixture : SyntheticTables {
    explicit Fixture(const Shape& shape, uint64_t pages = 8, bool shadows = true)
        : SyntheticTables(shape)
        , protection(memory)
        , arena(make(pages, shadows)) {}

    std::unique_ptr<RootArena> make(uint64_t pages, bool shadows) {
        Roots roots(memory);
        REQUIRE(roots.reference(request(), mode, locks(), [](GuestPhysical) { return true; }));
        RootArena::DropShadowPages drop;
        if (shadows)
            drop = [this]() -> Result<void> {
                ++drops;
                return fails ? fail(Error("drop")) : Result<void>();
            };
        auto made =
            RootArena::create(GuestRange::of({pool}, pages * page_bytes), roots.contents(), protection, drop);
        REQUIRE(made);
        return std::move(*made);
    }
    Reason refused(const RootArena::Done& done) {
        REQUIRE_FALSE(done);
        return done.error().reason;
    }

    unsigned drops = 0;
    bool fails = false;
    FakeProtection protection;
    std::unique_ptr<RootArena> arena;
};

TEST_CASE("each root of an arena has the reference's kernel half and an empty user half") {
    for (const bool pair : {false, true}) {
        Fixture f({.pair = pair});
        const uint64_t step = pair ? 2 : 1;
        CHECK(f.arena->roots() == 8 / step);
        for (uint64_t page = 0; page < 8; ++page) {
            const uint64_t from = reference_root + (pair ? page % 2 * page_bytes : 0);
            for (size_t slot = 0; slot < table_entries; ++slot)
                REQUIRE(f.at(pool + page * page_bytes, slot) == (slot < 256 ? 0 : f.at(from, slot)));
        }
        CHECK(f.at(pool + 8 * page_bytes, 511) == 0);
    }
}

TEST_CASE("what a walk would set in a kernel half is set") {
    const SyntheticTables tables;
    tables.put(reference_root, 400, 0x3000 | entry_present);
    tables.put(reference_root, 401, 0x3000);
    Roots roots(tables.memory);
    REQUIRE(
        roots.reference(tables.request(), tables.mode, tables.locks(), [](GuestPhysical) { return true; }));
    const RootContents contents = roots.contents();
    CHECK(contents.kernel[400] == (0x3000 | entry_present | entry_accessed));
    CHECK(contents.kernel[401] == 0x3000);
}

TEST_CASE("tables are linked and taken out in the documented form, in both pages of a pair") {
    for (const bool pair : {false, true})
        for (const bool no_execute : {false, true}) {
            SyntheticTables tables({.pair = pair});
            FakeProtection protection(tables.memory);
            Roots roots(tables.memory);
            tables.mode.no_execute = no_execute;
            REQUIRE(roots.reference(tables.request(), tables.mode, tables.locks(),
                                    [](GuestPhysical) { return true; }));
            auto made = RootArena::create(GuestRange::of({pool}, 4 * page_bytes), roots.contents(),
                                          protection, nullptr);
            REQUIRE(made);
            RootArena& arena = **made;
            const uint64_t root = pool + (pair ? 2 : 1) * page_bytes;
            const uint64_t nx = pair && no_execute ? entry_no_execute : 0;
            CHECK(arena.link(1, 255, {0x300000}));
            CHECK(tables.at(root, 255) == (0x300000 | link_bits | nx));
            CHECK(tables.at(root + page_bytes, 255) == (pair ? 0x300000 | link_bits : 0));
            CHECK(tables.at(pool, 255) == 0);
            CHECK(arena.link(1, 255, {0x300000}));
            const auto other = arena.link(1, 255, {0x301000});
            REQUIRE_FALSE(other);
            CHECK(other.error().reason == Reason::other_table);
            CHECK(tables.at(root, 255) == (0x300000 | link_bits | nx));
            CHECK(arena.take_out(1, 255));
            CHECK(tables.at(root, 255) == 0);
            CHECK(tables.at(root + page_bytes, 255) == 0);
            CHECK(arena.take_out(1, 255));
            CHECK(arena.link(1, 255, {0x301000}));
            CHECK(arena.link(1, 0, {0x302000}));
            CHECK(arena.clear(1));
            for (size_t slot = 0; slot < 256; ++slot)
                CHECK((tables.at(root, slot) | (pair ? tables.at(root + page_bytes, slot) : 0)) == 0);
            CHECK(tables.at(root, 511) == tables.at(reference_root, 511));
        }
}

TEST_CASE("roots and slots that are not the arena's are refused") {
    Fixture f({.pair = true});
    for (const uint64_t root : {uint64_t{4}, uint64_t{1} << 17U, ~uint64_t{0}}) {
        CHECK(f.refused(f.arena->link(root, 0, {0x300000})) == Reason::no_such_root);
        CHECK(f.refused(f.arena->take_out(root, 0)) == Reason::no_such_root);
        CHECK(f.refused(f.arena->clear(root)) == Reason::no_such_root);
    }
    for (const uint64_t slot : {uint64_t{256}, uint64_t{511}, ~uint64_t{0}}) {
        CHECK(f.refused(f.arena->link(3, slot, {0x300000})) == Reason::kernel_slot);
        CHECK(f.refused(f.arena->take_out(3, slot)) == Reason::kernel_slot);
    }
    CHECK(error_of(Reason::no_such_root) == CASEMATE_EINVAL);
    CHECK(error_of(Reason::kernel_slot) == CASEMATE_EPERM);
    CHECK(error_of(Reason::other_table) == CASEMATE_EPERM);
    CHECK(f.drops == 0);
}

TEST_CASE("shadow pages are dropped when an entry was taken out, and before a cleared root is used again") {
    Fixture f({});
    CHECK(f.arena->link(0, 0, {0x300000}));
    CHECK(f.arena->link(1, 0, {0x301000}));
    CHECK(f.arena->link(2, 0, {0x302000}));
    CHECK(f.arena->link(2, 0, {0x302000}));
    CHECK(f.arena->take_out(3, 0)); // nothing there
    CHECK(f.arena->clear(3));       // nor here
    CHECK(f.arena->link(3, 0, {0x303000}));
    CHECK(f.drops == 0);
    CHECK(f.arena->take_out(0, 0));
    CHECK(f.drops == 1);
    CHECK(f.arena->clear(1));
    CHECK(f.arena->clear(2));
    CHECK(f.drops == 1);
    CHECK(f.arena->link(0, 1, {0x300000})); // another root
    CHECK(f.drops == 1);
    CHECK(f.arena->link(1, 0, {0x303000}));
    CHECK(f.drops == 2);
    CHECK(f.arena->link(1, 1, {0x304000}));
    CHECK(f.arena->link(2, 0, {0x303000})); // clean since
    CHECK(f.drops == 2);
    CHECK(f.arena->clear(2));
    CHECK(f.arena->take_out(1, 1));
    CHECK(f.drops == 3);
    CHECK(f.arena->link(2, 0, {0x303000}));
    CHECK(f.drops == 3);
    CHECK(f.arena->shadow_drops() == 3);
}

TEST_CASE("a host that cannot drop shadow pages is told of, and a stale root is not used") {
    Fixture f({});
    CHECK(f.arena->link(0, 0, {0x300000}));
    CHECK(f.arena->clear(0));
    f.fails = true;
    const auto done = f.arena->link(0, 0, {0x301000});
    CHECK(f.refused(done) == Reason::host_failure);
    CHECK(done.error().error);
    CHECK(f.at(pool, 0) == 0);
    f.fails = false;
    CHECK(f.arena->link(0, 0, {0x301000}));
    CHECK(f.drops == 2);
}

TEST_CASE("without shadow paging nothing is dropped") {
    Fixture f({}, 8, false);
    CHECK(f.arena->link(0, 0, {0x300000}));
    CHECK(f.arena->take_out(0, 0));
    CHECK(f.arena->link(0, 0, {0x301000}));
    CHECK(f.arena->clear(0));
    CHECK(f.arena->link(0, 0, {0x302000}));
    CHECK(f.arena->drop_shadow_pages());
    CHECK(f.arena->shadow_drops() == 0);
}

} // namespace
} // namespace casemate
