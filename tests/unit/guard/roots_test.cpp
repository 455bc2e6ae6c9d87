// SPDX-License-Identifier: Apache-2.0
#include "guard/roots.hpp"

#include "synthetic_tables.hpp"

#include <doctest/doctest.h>
#include <string_view>

namespace casemate {
namespace {

using namespace synthetic;
using Reason = RootRefusal::Reason;
using Kind = RootMismatch::Kind;

struct Fixture : SyntheticTables {
    explicit Fixture(const Shape& shape = {})
        : SyntheticTables(shape) {}

    std::expected<void, RootRefusal> refer(const RootRequest& request) {
        return roots.reference(request, mode, locks(),
                               [this](GuestPhysical page) { return protected_pages.contains(page.value); });
    }
    std::expected<void, RootRefusal> refer() { return refer(request()); }
    Reason refused(const RootRequest& request) {
        const auto done = refer(request);
        REQUIRE_FALSE(done);
        return done.error().reason;
    }
    bool matches(uint64_t cr3) const { return !roots.check(cr3, mode); }
    RootMismatch mismatch(uint64_t cr3) const {
        const auto found = roots.check(cr3, mode);
        REQUIRE(found);
        return *found;
    }

    Roots roots{memory};
};

TEST_CASE("a reference is taken when all that text and the direct map need is protected") {
    Fixture f;
    CHECK_FALSE(f.roots.has_reference());
    CHECK_FALSE(f.roots.check(~0ULL, f.mode)); // nothing to compare with
    REQUIRE(f.refer());
    CHECK(f.roots.has_reference());
    CHECK(f.roots.extent().required == 6);
    CHECK(f.roots.extent().tables == 9); // with vmalloc's
}

TEST_CASE("each table that is not protected is told of, wherever KASLR places things") {
    for (const Shape& shape :
         {Shape{}, Shape{.direct_slot = 301, .direct_pud_index = 77}, Shape{.direct_slot = 273, .pair = true},
          Shape{.direct_slot = 400, .direct_pud_index = 511, .pair = true}, Shape{.five_levels = true},
          Shape{.direct_slot = 290, .pair = true, .five_levels = true}}) {
        Fixture f(shape);
        for (const uint64_t page : f.required()) {
            f.protected_pages.erase(page);
            const auto done = f.refer();
            REQUIRE_FALSE(done);
            CHECK(done.error().reason == Reason::unprotected_table);
            REQUIRE(done.error().table);
            CHECK(done.error().table->page.value == page);
            CHECK_FALSE(f.roots.has_reference());
            f.protected_pages.insert(page);
        }
        CHECK(f.refer());
        CHECK(f.roots.extent().required == f.required().size());
    }
}

TEST_CASE("another mapping of text needs its tables protected, one of other memory does not") {
    Fixture f;
    f.put(vmalloc_pte, 6, (text_start + text_bytes - page_bytes) | entry_present);
    CHECK(f.refused(f.request()) == Reason::unprotected_table);
    f.put(vmalloc_pte, 6, (text_start + text_bytes) | entry_present);
    f.put(vmalloc_pte, 7, (text_start - page_bytes) | entry_present);
    CHECK(f.refer());
}

TEST_CASE("what no reference is") {
    Fixture f({.pair = true});
    RootRequest request = f.request();
    for (const uint64_t address :
         {uint64_t{16_MiB}, 3_GiB, 4_GiB, uint64_t{0xfee00000}, ~uint64_t{0x1fff}, uint64_t{1} << 52U}) {
        request.root = {address};
        CHECK(f.refused(request) == Reason::outside_ram);
    }
    request = f.request();
    for (const uint64_t slot : {uint64_t{0}, uint64_t{255}, uint64_t{512}, ~uint64_t{0}}) {
        request.first_slot = slot;
        CHECK(f.refused(request) == Reason::bad_slot);
    }
    request = f.request();
    request.root.value += page_bytes;
    CHECK(f.refused(request) == Reason::misaligned_pair);
    for (bool PagingMode::* const bit : {&PagingMode::paging, &PagingMode::pae, &PagingMode::long_mode}) {
        f.mode.*bit = false;
        CHECK(f.refused(f.request()) == Reason::not_long_mode);
        f.mode.*bit = true;
    }
    CHECK(f.refer());
}

TEST_CASE("refusals have errors that tell the causes apart") {
    CHECK(error_of(Reason::outside_ram) == CASEMATE_EFAULT);
    CHECK(error_of(Reason::bad_slot) == CASEMATE_EINVAL);
    CHECK(error_of(Reason::other_reference) == CASEMATE_EPERM);
    CHECK(error_of(Reason::unprotected_table) == CASEMATE_EOPNOTSUPP);
    CHECK(error_of(Reason::too_many_tables) == CASEMATE_E2BIG);
}

TEST_CASE("a second reference may only raise the policy") {
    Fixture f;
    REQUIRE(f.refer());
    CHECK(f.roots.policy() == LockPolicy::read_only);
    f.put(reference_root, 511, f.at(reference_root, 511) & ~(entry_accessed | entry_dirty));
    CHECK(f.refer(f.request(LockPolicy::die_on_write)));
    CHECK(f.roots.policy() == LockPolicy::die_on_write);
    CHECK(f.refused(f.request()) == Reason::lowers_policy);
    CHECK(f.refer(f.request(LockPolicy::die_on_write)));

    RootRequest other = f.request(LockPolicy::die_on_write);
    ++other.first_slot;
    CHECK(f.refused(other) == Reason::other_reference);
    other = f.request(LockPolicy::die_on_write);
    other.pair = true;
    CHECK(f.refused(other) == Reason::other_reference);
    f.put(reference_root, 400, 0x3000 | table_entry);
    CHECK(f.refused(f.request(LockPolicy::die_on_write)) == Reason::other_reference);
    other = f.request(LockPolicy::die_on_write);
    other.root = {process_root};
    CHECK(f.refer(other)); // any page with this kernel half
    f.mode.five_levels = true;
    CHECK(f.refused(other) == Reason::other_reference);
}

TEST_CASE("a root that leads to more tables than there can be is refused") {
    Fixture f({.ram_bytes = 256_MiB});
    constexpr uint64_t puds = 128; // one for each page of RAM
    for (uint64_t i = 0; i < puds; ++i) {
        f.put(reference_root, 300 + i, (8_MiB + i * page_bytes) | table_entry);
        for (uint64_t j = 0; j < table_entries; ++j)
            f.put(8_MiB + i * page_bytes, j, (i * table_entries + j) * page_bytes | table_entry);
    }
    const auto done = f.roots.reference(f.request(), f.mode, {}, [](GuestPhysical) { return true; });
    REQUIRE_FALSE(done);
    CHECK(done.error().reason == Reason::too_many_tables);
    CHECK_FALSE(f.roots.has_reference());
}

TEST_CASE("roots with the reference's kernel half match, whatever else they hold") {
    Fixture f;
    REQUIRE(f.refer());
    CHECK(f.matches(process_root));
    CHECK(f.matches(reference_root));
    CHECK(f.matches(process_root | 0xfff));       // PCID; PWT and PCD
    CHECK(f.matches(process_root | 7ULL << 61U)); // LAM, and the TLB stays
    CHECK(f.mismatch(process_root | 1ULL << 51U).kind == Kind::outside_ram);
    for (uint64_t slot = 0; slot < f.first_slot; ++slot)
        f.put(process_root, slot, ~slot);
    CHECK(f.matches(process_root));
    for (uint64_t slot = f.first_slot; slot < table_entries; ++slot) {
        const uint64_t entry = f.at(process_root, slot);
        // A, D and what the CPU ignores; all but P when the entry is not present.
        const uint64_t ignored = entry_accessed | entry_dirty | bits(11, 9) | bits(62, 52);
        f.put(process_root, slot, entry ^ ((entry & entry_present) != 0 ? ignored : ~entry_present));
    }
    CHECK(f.matches(process_root));
}

TEST_CASE("a bit that matters in any kernel slot is found") {
    Fixture f;
    REQUIRE(f.refer());
    const uint64_t image = f.at(process_root, 511);
    for (unsigned bit = 0; bit < 64; ++bit) {
        const bool ignored = bit == 5 || bit == 6 || (bit >= 9 && bit <= 11) || (bit >= 52 && bit <= 62);
        f.put(process_root, 511, image ^ (1ULL << bit));
        CHECK(f.matches(process_root) == ignored);
    }
    f.put(process_root, 511, image);
    for (uint64_t slot = f.first_slot; slot < table_entries; ++slot) {
        const uint64_t entry = f.at(process_root, slot);
        const uint64_t forged = 0x700000 | table_entry; // also where the kernel has nothing
        f.put(process_root, slot, forged);
        const RootMismatch found = f.mismatch(process_root | 0x5);
        CHECK(found.kind == Kind::slot);
        CHECK(found.root.value == process_root);
        CHECK(found.slot == slot);
        CHECK(found.expected == entry);
        CHECK(found.found == forged);
        CHECK(f.roots.check_page({process_root}));
        f.put(process_root, slot, entry);
    }
    f.put(process_root, 511, 0);
    CHECK(f.mismatch(process_root).slot == 511);
}

TEST_CASE("the reference is a copy") {
    Fixture f;
    REQUIRE(f.refer());
    f.put(reference_root, 511, 0x700000 | table_entry);
    CHECK(f.mismatch(reference_root).slot == 511);
    CHECK(f.matches(process_root));
    f.make_process(process_root);
    CHECK(f.mismatch(process_root).slot == 511);
}

TEST_CASE("a root that is no RAM") {
    Fixture f;
    REQUIRE(f.refer());
    for (const uint64_t cr3 : {uint64_t{16_MiB}, 3_GiB, 4_GiB, uint64_t{0xfee00000}, uint64_t{0xc0000000},
                               address_field, ~uint64_t{0}}) {
        const RootMismatch found = f.mismatch(cr3);
        CHECK(found.kind == Kind::outside_ram);
        CHECK(found.root.value == (cr3 & address_field));
        CHECK(f.roots.check_page({cr3}));
    }
    CHECK(f.mismatch(16_MiB - page_bytes).kind == Kind::slot); // RAM, and zero there
}

TEST_CASE("another paging mode is a mismatch with any root") {
    Fixture f;
    REQUIRE(f.refer());
    for (bool PagingMode::* const bit : {&PagingMode::paging, &PagingMode::pae, &PagingMode::long_mode,
                                         &PagingMode::five_levels, &PagingMode::no_execute}) {
        PagingMode changed = f.mode;
        changed.*bit = !(changed.*bit);
        const auto found = f.roots.check(process_root, changed);
        REQUIRE(found);
        CHECK(found->kind == Kind::paging_mode);
        CHECK(found->mode == changed);
    }
    kvm_sregs registers{};
    registers.cr0 = 1ULL << 31U;
    registers.cr4 = 1ULL << 5U;
    registers.efer = 1ULL << 10U | 1ULL << 11U;
    CHECK(PagingMode::of(registers) == f.mode);
    registers.cr4 |= 1ULL << 12U;
    CHECK(PagingMode::of(registers).five_levels);
}

TEST_CASE("with page-table isolation both pages of a pair are compared, by whichever CR3 names") {
    Fixture f({.direct_slot = 333, .pair = true});
    REQUIRE(f.refer());
    const uint64_t user_page = process_root + page_bytes;
    for (const uint64_t cr3 : {process_root, user_page | 0x800}) {
        CHECK(f.matches(cr3));
        const uint64_t kernel_entry = f.at(process_root, 511);
        f.put(process_root, 511, f.at(user_page, 511)); // each half only in its own page
        CHECK(f.mismatch(cr3).kind == Kind::slot);
        CHECK(f.mismatch(cr3).root.value == process_root);
        f.put(process_root, 511, kernel_entry);

        const uint64_t user_entry = f.at(user_page, 511);
        f.put(user_page, 511, kernel_entry);
        CHECK(f.mismatch(cr3).kind == Kind::user_root_slot);
        CHECK(f.mismatch(cr3).root.value == user_page);
        CHECK(f.mismatch(cr3).expected == user_entry);
        CHECK(f.mismatch(cr3).found == kernel_entry);
        f.put(user_page, 511, user_entry);
        f.put(user_page, 400, 0x700000 | table_entry);
        CHECK(f.mismatch(cr3).slot == 400);
        f.put(user_page, 400, 0);

        // The kernel must not execute user space; user space may.
        f.put(process_root, 255, 0x300000 | user_table_entry);
        CHECK(f.mismatch(cr3).kind == Kind::executable_user);
        CHECK(f.mismatch(cr3).slot == 255);
        f.put(process_root, 255, 0x300000 | entry_no_execute | user_table_entry);
        f.put(user_page, 255, 0x300000 | user_table_entry);
        CHECK(f.matches(cr3));
    }
    CHECK(f.mismatch(16_MiB).kind == Kind::outside_ram);
}

TEST_CASE("without isolation the page behind a root is another's") {
    Fixture f;
    REQUIRE(f.refer());
    f.make_process(process_root + page_bytes);
    CHECK(f.matches(process_root + page_bytes));
    f.put(process_root + page_bytes, 511, 0);
    CHECK(f.matches(process_root));
    CHECK(f.mismatch(process_root + page_bytes).root.value == process_root + page_bytes);
}

TEST_CASE("5-level roots") {
    Fixture f({.five_levels = true});
    REQUIRE(f.refer());
    CHECK(f.roots.extent().required == 8);
    CHECK(f.matches(process_root));
    f.put(process_root, 511, f.at(process_root, 273));
    CHECK(f.mismatch(process_root).slot == 511);
}

} // namespace
} // namespace casemate
