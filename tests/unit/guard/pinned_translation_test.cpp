// SPDX-License-Identifier: Apache-2.0
#include "guard/pinned_translation.hpp"

#include "guard/report.hpp"
#include "guard_fakes.hpp"

#include <array>
#include <doctest/doctest.h>
#include <set>
#include <string>

namespace casemate::synthetic {
namespace {

constexpr uint64_t upper = ~uint64_t{0} << 48U;
// As SyntheticTables maps them: by the tables that a pair's roots share, and by what each has for itself.
constexpr uint64_t idt_linear = upper | 282ULL << 39U | 3ULL << 30U | 4ULL << 21U | 5ULL << 12U;
constexpr uint64_t idt_page = 0x800000;
constexpr uint64_t text_linear = upper | 511ULL << 39U | 510ULL << 30U | 8ULL << 21U;
constexpr uint64_t small_text_linear = text_linear + 2_MiB;
constexpr uint64_t unmapped = upper | 300ULL << 39U;

void put_gate(const SyntheticTables& tables, uint64_t table, uint32_t vector, uint64_t target,
              uint64_t attributes = 0x8e00) {
    const uint64_t low =
        (target & 0xffff) | 0x10ULL << 16U | attributes << 32U | (target & 0xffff0000) << 32U;
    tables.put(table, 2ULL * vector, low);
    tables.put(table, 2ULL * vector + 1, target >> 32U);
}

struct Fixture : SyntheticTables {
    explicit Fixture(const Shape& shape = {})
        : SyntheticTables(shape) {
        state.system.cr0 = 1ULL << 31U;
        state.system.cr4 = 1ULL << 5U | (shape.five_levels ? 1ULL << 12U : 0);
        state.system.efer = 1 | 1ULL << 10U | 1ULL << 11U;
        state.system.idt = {.base = idt_linear, .limit = 0xfff, .padding = {}};
        for (uint32_t vector = 0; vector < 32; ++vector)
            put_gate(*this, idt_page, vector, text_linear + 64ULL * vector);
        state.msrs[0] = text_linear + 0x3000; // LSTAR
        state.msrs[3] = text_linear + 0x3040; // CSTAR
        state.msrs[4] = 0x10;                 // SYSENTER_CS
        state.msrs[6] = small_text_linear;    // SYSENTER_EIP
        locked.insert(idt_page);
    }
    std::array<GuestPhysical, 2> pages() const {
        return {GuestPhysical{process_root}, GuestPhysical{process_root + page_bytes}};
    }
    std::span<const GuestPhysical> roots(const std::array<GuestPhysical, 2>& of) const {
        return std::span(of).first(pair ? 2 : 1);
    }
    void pin() {
        const auto of = pages();
        pinned.pin(memory, state, roots(of),
                   [this](GuestPhysical page) { return locked.contains(page.value); });
    }
    std::optional<TranslationDifference> compare() const {
        const auto of = pages();
        return pinned.compare(memory, state.system, roots(of));
    }

    AuditedState state;
    std::set<uint64_t> locked;
    PinnedTranslations pinned;
};

TEST_CASE("the IDT, what its gates lead to and the entry points are pinned, each page once") {
    Fixture f;
    f.pin();
    CHECK(f.pinned.pages() == 4); // the IDT, the gates' page, that of LSTAR and CSTAR, that of SYSENTER_EIP
    CHECK(!f.compare());

    SUBCASE("gates of a table that may change are not") {
        Fixture other;
        other.locked.clear();
        other.pin();
        CHECK(other.pinned.pages() == 3);
    }
    SUBCASE("nor those that are absent, of another type, or behind the limit") {
        Fixture other;
        put_gate(other, idt_page, 0, small_text_linear + 0x100000, 0x0e00);
        put_gate(other, idt_page, 1, small_text_linear + 0x101000, 0x8500);
        put_gate(other, idt_page, 32, small_text_linear + 0x102000);
        other.state.system.idt.limit = 32 * 16 + 14;
        other.pin();
        CHECK(other.pinned.pages() == 4);
        other.state.system.idt.limit = 32 * 16 + 15;
        PinnedTranslations longer;
        const auto of = other.pages();
        longer.pin(other.memory, other.state, other.roots(of), [](GuestPhysical) { return true; });
        CHECK(longer.pages() == 5);
    }
    SUBCASE("nor entry points that the CPU does not take") {
        Fixture other;
        other.state.system.efer &= ~uint64_t{1};
        other.state.msrs[4] = 3; // a null selector
        other.pin();
        CHECK(other.pinned.pages() == 2);
    }
}

TEST_CASE("an entry that leads elsewhere is found at every level, and named") {
    struct Entry {
        uint64_t table;
        uint64_t index;
        unsigned level;
        const char* pinned_by;
    };
    // Copies of the tables below, so that the rest of the way is as it was.
    const std::array entries{Entry{process_root, 282, 4, "IDTR"},   Entry{vmalloc_pud, 3, 3, "IDTR"},
                             Entry{vmalloc_pmd, 4, 2, "IDTR"},      Entry{vmalloc_pte, 5, 1, "IDTR"},
                             Entry{image_pmd, 8, 2, "IDTR"},        Entry{image_pte, 0, 1, "SYSENTER_EIP"},
                             Entry{image_pmd, 9, 2, "SYSENTER_EIP"}};
    constexpr uint64_t copies = 0x700000;
    for (const Entry& entry : entries) {
        CAPTURE(entry.level);
        CAPTURE(entry.pinned_by);
        Fixture f;
        f.pin();
        const uint64_t before = f.at(entry.table, entry.index);
        const uint64_t forged = (before & ~address_field) | copies | (before & entry_large);
        f.put(entry.table, entry.index, forged);
        const auto found = f.compare();
        REQUIRE(found);
        CHECK(std::string(found->pinned_by) == entry.pinned_by);
        REQUIRE(found->entry);
        CHECK(found->entry->value == entry.table + 8 * entry.index);
        CHECK(found->level == entry.level);
        CHECK(found->expected == before);
        CHECK(found->found == forged);
        CHECK(found->root.value == process_root);
        CHECK(found->gate.has_value() == (entry.table == image_pmd && entry.index == 8));
        f.put(entry.table, entry.index, before);
        CHECK(!f.compare());
    }
}

TEST_CASE("rights count, accessed bits and the size of a page do not") {
    Fixture f;
    f.pin();
    const uint64_t before = f.at(vmalloc_pte, 5);
    for (const uint64_t bit : {entry_writable, entry_no_execute, entry_present}) {
        f.put(vmalloc_pte, 5, before ^ bit);
        CHECK(f.compare());
    }
    // U/S counts once it is set at every level.
    f.put(vmalloc_pte, 5, before | entry_user);
    CHECK(!f.compare());
    for (const auto& [table, index] : {std::pair{vmalloc_pmd, 4}, {vmalloc_pud, 3}, {process_root, 282}}) {
        const auto at = static_cast<uint64_t>(index);
        f.put(table, at, f.at(table, at) | entry_user);
    }
    CHECK(f.compare());
    f.put(vmalloc_pte, 5, before ^ (entry_accessed | entry_dirty) ^ bits(11, 9) ^ bits(58, 52));
    CHECK(!f.compare());
    // A large page of the image in small ones, as CPA splits it.
    constexpr uint64_t table = 0x700000;
    for (uint64_t i = 0; i < table_entries; ++i)
        f.put(table, i, (text_start + i * page_bytes) | entry_present | entry_accessed);
    f.put(image_pmd, 8, table | table_entry);
    CHECK(!f.compare());
    f.put(table, 3, (text_start + 4 * page_bytes) | entry_present | entry_accessed);
    const auto found = f.compare();
    REQUIRE(found);
    CHECK(std::string(found->pinned_by) == "LSTAR");
    // The first that is another is the one that was a large page.
    CHECK(found->entry->value == image_pmd + uint64_t{8} * 8);
}

TEST_CASE("of a pair both roots are walked") {
    Fixture f({.pair = true, .ram_bytes = 64_MiB});
    f.state.msrs[4] = 0; // what user space's root does not map
    f.pin();
    CHECK(!f.compare());
    const uint64_t before = f.at(user_pmd, 8);
    f.put(user_pmd, 8, 0x600000 | entry_large | entry_present);
    auto found = f.compare();
    REQUIRE(found);
    CHECK(found->root.value == process_root + page_bytes);
    CHECK(found->entry->value == user_pmd + uint64_t{8} * 8);
    f.put(user_pmd, 8, before);
    CHECK(!f.compare());
    f.put(vmalloc_pte, 5, 0x801000 | table_entry | entry_no_execute); // that both share
    found = f.compare();
    REQUIRE(found);
    CHECK(found->root.value == process_root);
}

TEST_CASE("what leads nowhere has to go on doing so, but in the lower half") {
    Fixture f;
    f.state.msrs[0] = unmapped + 0x123;
    f.state.msrs[3] = 0x40000000;
    f.pin();
    CHECK(f.pinned.pages() == 4);
    constexpr uint64_t tables = 0x700000;
    for (uint64_t i = 0; i < 3; ++i)
        f.put(tables + i * page_bytes, i == 1 ? 1 : 0, (tables + (i + 1) * page_bytes) | table_entry);
    f.put(process_root, 0, tables | user_table_entry);
    CHECK(!f.compare());
    f.put(tables, 0, (tables + page_bytes) | table_entry);
    f.put(tables + page_bytes, 0, (tables + 2 * page_bytes) | table_entry);
    f.put(process_root, 300, tables | table_entry);
    const auto found = f.compare();
    REQUIRE(found);
    CHECK(std::string(found->pinned_by) == "LSTAR");
    CHECK(found->entry->value == process_root + uint64_t{300} * 8);
    CHECK(found->expected == 0);
}

TEST_CASE("a table over a page boundary, and hostile ones") {
    Fixture f;
    SUBCASE("over a boundary") {
        f.put(vmalloc_pte, 6, 0x801000 | table_entry | entry_no_execute);
        f.locked.insert(0x801000);
        f.state.system.idt.base = idt_linear + page_bytes - 8; // a gate lies half on each page
        f.state.system.idt.limit = 31;
        f.put(idt_page, 511, (text_linear & 0xffff) | 0x8e00ULL << 32U | (text_linear & 0xffff0000) << 32U);
        f.put(0x801000, 0, text_linear >> 32U);
        f.state.system.efer &= ~uint64_t{1};
        f.state.msrs[4] = 0;
        f.pin();
        CHECK(f.pinned.pages() == 3);
        f.put(image_pmd, 8, 0);
        REQUIRE(f.compare());
        CHECK(f.compare()->gate == 0);
    }
    SUBCASE("at the end of the address space") {
        f.state.system.idt.base = ~uint64_t{0} - 100;
        f.state.system.idt.limit = 0xffff;
        f.pin();
        CHECK(!f.compare());
    }
    SUBCASE("not canonical") {
        f.state.system.idt.base = 1ULL << 60U;
        f.state.msrs[0] = 1ULL << 50U;
        f.pin();
        CHECK(!f.compare());
    }
    SUBCASE("a page for each gate") {
        for (uint32_t vector = 0; vector < 256; ++vector)
            put_gate(f, idt_page, vector, unmapped + vector * page_bytes);
        f.pin();
        CHECK(f.pinned.pages() == 259);
        CHECK(!f.compare());
    }
    SUBCASE("a root outside RAM") {
        f.pin();
        const std::array none{GuestPhysical{1_GiB}};
        const auto found = f.pinned.compare(f.memory, f.state.system, none);
        REQUIRE(found);
        CHECK(!found->entry);
    }
}

TEST_CASE("with five levels the table's level is counted from there") {
    Fixture f({.five_levels = true});
    f.state.system.idt.base = text_linear; // any page will do
    f.pin();
    CHECK(!f.compare());
    f.put(p4d_high, 511, 0x700000 | table_entry);
    const auto found = f.compare();
    REQUIRE(found);
    CHECK(found->level == 4);
}

// --- the guard ---

struct GuardFixture : RootFixture {
    explicit GuardFixture(bool enforced, bool isolation = false)
        : RootFixture(enforced, {}, isolation) {
        cpu.system().idt = {.base = idt_linear, .limit = 0xfff, .padding = {}};
        put_gate(*this, idt_page, 3, text_linear);
    }
    void lock_and_seal(uint64_t policy = CASEMATE_POLICY_READ_ONLY, bool table = false) {
        lock_all(policy);
        CHECK(lock(idt_page, 1, CASEMATE_KIND_DATA, policy) == 0);
        if (table)
            CHECK(lock(vmalloc_pte, 1, CASEMATE_KIND_PAGE_TABLE, policy) == 0);
        CHECK(refer(policy) == 0);
        REQUIRE(call(casemate_attributes(CASEMATE_CALL_SEAL, 0, 0)) == 0);
        CHECK(!guard.look(cpu));
    }
    void forge_idt() { forge(vmalloc_pte, 5, 0x801000 | table_entry | entry_no_execute); }
};

TEST_CASE("an IDT that leads elsewhere ends the machine at the next audit, under either policy") {
    for (const uint64_t policy : {CASEMATE_POLICY_READ_ONLY, CASEMATE_POLICY_DIE_ON_WRITE})
        for (const bool isolation : {false, true}) {
            GuardFixture f(true, isolation);
            f.lock_and_seal(policy);
            f.forge_idt();
            const auto end = must_be(f.guard.look(f.cpu));
            CHECK(end.reason == GuardEnd::Reason::audit_mismatch);
            CHECK(
                end.summary.find("pinned by IDTR, leads elsewhere than at SEAL: entry 0x8000000000801063 at "
                                 "gpa:0x115028 was 0x8000000000800063") != std::string::npos);
            CHECK(end.report.find("  register    IDTR") != std::string::npos);
            CHECK(end.report.find("gpa:0x115028, in a table of level 1") != std::string::npos);
            CHECK(f.guard.counts().violations == 0);
        }
}

TEST_CASE("a gate's target that only user space's root maps elsewhere ends it too") {
    GuardFixture f(true, true);
    f.lock_and_seal();
    f.forge(user_pmd, 8, 0x600000 | entry_large | entry_present);
    for (const uint64_t root : {process_root, process_root + page_bytes}) {
        f.cpu.system().cr3 = root;
        const auto end = must_be(f.guard.look(f.cpu));
        CHECK(end.summary.find("pinned by IDTR by gate 3") != std::string::npos);
    }
}

TEST_CASE("an entry of a table under verification is judged by that lock") {
    SUBCASE("read_only: written back and recorded") {
        GuardFixture f(false);
        f.lock_and_seal(CASEMATE_POLICY_READ_ONLY, true);
        f.forge_idt();
        CHECK(!f.guard.look(f.cpu)); // without a round of audits: the table itself is not due
        CHECK(f.guard.counts().violations == 1);
        CHECK(f.at(vmalloc_pte, 5) == (idt_page | table_entry | entry_no_execute));
        CHECK(!f.guard.look(f.cpu));
        CHECK(f.guard.counts().violations == 1);
    }
    SUBCASE("die_on_write") {
        GuardFixture f(false);
        f.lock_and_seal(CASEMATE_POLICY_DIE_ON_WRITE, true);
        f.forge_idt();
        CHECK(must_be(f.guard.look(f.cpu)).reason == GuardEnd::Reason::die_on_write);
    }
}

TEST_CASE("a root that a check has recorded is not walked while it may be left") {
    GuardFixture f(true);
    f.lock_and_seal();
    const uint64_t before = f.at(process_root, 282);
    f.forge(process_root, 282, 0x700000 | table_entry);
    CHECK(f.check() == -CASEMATE_EPERM);
    CHECK(!f.guard.look(f.cpu));
    f.forge(process_root, 282, before);
    CHECK(!f.guard.look(f.cpu));
}

TEST_CASE("the audit event of a translation names register, gate and entry") {
    const TranslationDifference difference{.vcpu = 2,
                                           .pinned_by = "IDTR",
                                           .gate = 14,
                                           .linear = {0x1000},
                                           .root = {0x2000},
                                           .level = 1,
                                           .entry = GuestPhysical{0x3008},
                                           .expected = 0x10,
                                           .found = 0x20,
                                           .state = {}};
    const EventFields wanted{{"vcpu", uint64_t{2}},  {"register", "IDTR"}, {"gate", uint64_t{14}},
                             {"linear", "0x1000"},   {"root", "0x2000"},   {"entry", "0x3008"},
                             {"level", uint64_t{1}}, {"expected", "0x10"}, {"found", "0x20"}};
    CHECK(event_fields(difference, {}) == wanted);
    CHECK(summary(difference, {}) ==
          "audit of vCPU 2: gla:0x1000, pinned by IDTR by gate 14, leads elsewhere "
          "than at SEAL: entry 0x20 at gpa:0x3008 was 0x10");
}

} // namespace
} // namespace casemate::synthetic
