// SPDX-License-Identifier: Apache-2.0
#include "guard_fakes.hpp"

#include <array>
#include <cstring>
#include <doctest/doctest.h>
#include <thread>

using namespace casemate;
using namespace casemate::synthetic;

namespace {

const auto features = casemate_attributes(CASEMATE_CALL_FEATURES, 0, 0);
const auto seal = casemate_attributes(CASEMATE_CALL_SEAL, 0, 0);
constexpr uint64_t verified_features = CASEMATE_FEATURE_LOCKS | CASEMATE_FEATURE_ROOT_CHECK |
                                       CASEMATE_FEATURE_ROOT_CLOCK | CASEMATE_FEATURE_TABLES_VERIFIED;

} // namespace

TEST_CASE("a reference needs the tables locked, and is taken before the seal only") {
    RootFixture f(true);
    CHECK(f.check() == -CASEMATE_EINVAL); // nothing to compare with
    CHECK(f.refer() == -CASEMATE_EOPNOTSUPP);
    f.lock_all();
    CHECK(f.refer(0, 255) == -CASEMATE_EINVAL);
    CHECK(f.refer() == 0);
    CHECK(f.refer() == 0);
    CHECK(f.check() == 0);
    CHECK(f.refer(0, 274) == -CASEMATE_EPERM);
    CHECK(f.call(seal) == 0);
    CHECK(f.refer() == -CASEMATE_EPERM);
    CHECK(f.check() == 0);
    CHECK(!f.ended);
    CHECK(f.guard.counts().root_checks == 3);
    CHECK(f.guard.counts().violations == 0);
}

TEST_CASE("a forged root is refused and recorded, or ends the machine, by the reference's policy") {
    RootFixture f(true);
    f.lock_all();
    REQUIRE(f.refer() == 0);
    f.forge(process_root, 511, 0x700000 | table_entry);
    CHECK(f.check() == -CASEMATE_EPERM);
    CHECK(!f.ended);
    CHECK(f.guard.counts().violations == 1);
    REQUIRE(f.refer(CASEMATE_POLICY_DIE_ON_WRITE) == 0);
    CHECK(f.check() == -CASEMATE_EPERM);
    const GuardEnd end = must_be(f.ended);
    CHECK(end.reason == GuardEnd::Reason::root_mismatch);
    CHECK(end.report.find("511, from gla:0xffffff8000000000") != std::string::npos);
    CHECK(end.report.find("gpa:0x700000") != std::string::npos);
    CHECK(end.report.find("gpa:0x116000") != std::string::npos);
    f.forge(process_root, 511, f.at(reference_root, 511));
    CHECK(f.check() == 0);
    CHECK(!f.ended);
}

TEST_CASE("the root that a vCPU runs on counts, and the one it names") {
    RootFixture f(true);
    f.lock_all();
    REQUIRE(f.refer() == 0);
    constexpr uint64_t other = process_root + 4 * page_bytes;
    f.make_process(other);
    CHECK(f.check(other) == 0);
    f.forge(other, 400, 0x700000 | table_entry);
    CHECK(f.check(other) == -CASEMATE_EPERM);
    CHECK(f.check() == 0);
    f.cpu.system().cr3 = other;
    CHECK(f.check(process_root) == 0); // may be left, but not unnoticed
    CHECK(f.guard.counts().violations == 2);
    CHECK(f.check(other) == -CASEMATE_EPERM);
    CHECK(f.check(3_GiB) == -CASEMATE_EPERM);
    CHECK(f.guard.counts().violations == 5);
    f.cpu.system().cr3 = process_root;
    CHECK(f.check(3_GiB) == -CASEMATE_EPERM);
    f.cpu.system().cr4 |= 1ULL << 12U;
    CHECK(f.check() == -CASEMATE_EPERM);
    f.cpu.system().cr4 &= ~(1ULL << 12U);
    CHECK(f.check() == 0);
    CHECK(f.guard.counts().violations == 7);
}

TEST_CASE("root mismatches count towards the violations that are allowed") {
    RootFixture f(true, {.max_violations = 2});
    f.lock_all();
    REQUIRE(f.refer() == 0);
    f.forge(process_root, 300, 1);
    CHECK(f.check() == -CASEMATE_EPERM);
    CHECK(!f.ended);
    CHECK(f.check() == -CASEMATE_EPERM);
    CHECK(must_be(f.ended).reason == GuardEnd::Reason::too_many_violations);
}

TEST_CASE("with isolation the guest names a pair") {
    RootFixture f(true, {}, true);
    f.lock_all();
    REQUIRE(f.refer() == 0);
    CHECK(f.check() == 0);
    f.forge(process_root + page_bytes, 511, f.at(process_root, 511));
    CHECK(f.check() == -CASEMATE_EPERM);
}

TEST_CASE("tables that the host cannot lock are verified: not protected, and no device writes there") {
    RootFixture f(false);
    CHECK(f.call(features) == verified_features);
    f.lock_all();
    CHECK(f.protection.ranges.size() == 1); // text
    CHECK(f.guard.counts().verified_tables == 6);
    CHECK(!f.memory.store(GuestPhysical{image_pmd}, uint64_t{1}));
    CHECK(f.refer() == 0);
    CHECK(f.check() == 0);
    // Locked as something else it would not be.
    CHECK(f.lock(image_pmd, 1, CASEMATE_KIND_TEXT) == -CASEMATE_EPERM);
    CHECK(f.lock(image_pmd - page_bytes, 8, CASEMATE_KIND_DATA) == -CASEMATE_EPERM);
    CHECK(f.lock(image_pmd, 1, CASEMATE_KIND_PAGE_TABLE) == 0);
    CHECK(f.guard.counts().verified_tables == 6);
    CHECK(f.lock(32_MiB, 32_MiB / page_bytes, CASEMATE_KIND_PAGE_TABLE) == -CASEMATE_E2BIG);
    CHECK(f.memory.store(GuestPhysical{32_MiB}, uint64_t{1}));
    CHECK(f.guard.counts().verified_tables == 6);
}

TEST_CASE("a changed table is written back and recorded at the next root check, or ends the machine") {
    RootFixture f(false);
    f.lock_all();
    REQUIRE(f.refer() == 0);
    const uint64_t before = f.at(image_pmd, 8);
    f.forge(image_pmd, 8, 0x800000 | entry_large | table_entry);
    f.forge(image_pmd, 200, 0x800000 | entry_large | table_entry);
    CHECK(f.check() == 0); // the root itself is right
    CHECK(!f.ended);
    CHECK(f.at(image_pmd, 8) == before);
    CHECK(f.at(image_pmd, 200) == 0);
    CHECK(f.guard.counts().violations == 1);
    CHECK(f.check() == 0);
    CHECK(f.guard.counts().violations == 1);

    CHECK(f.lock(image_pmd, 1, CASEMATE_KIND_PAGE_TABLE, CASEMATE_POLICY_DIE_ON_WRITE) == 0);
    f.forge(image_pmd, 8, 0x800000 | entry_large | table_entry);
    f.check();
    const GuardEnd end = must_be(f.ended);
    CHECK(end.reason == GuardEnd::Reason::die_on_write);
    CHECK(end.report.find("gpa:0x800000") != std::string::npos);
    CHECK(end.report.find("1 of the table's entries differ") != std::string::npos);
    CHECK(f.at(image_pmd, 8) != before); // evidence
    CHECK(must_be(f.guard.verify_tables(std::nullopt)).reason == GuardEnd::Reason::die_on_write);
}

TEST_CASE("a violation has the tables verified too") {
    RootFixture f(false);
    f.lock_all();
    f.cpu.system() = {};
    f.cpu.system().cr0 = 1;
    f.cpu.system().cs.db = f.cpu.system().ss.db = 1;          // no paging: RIP and operands are physical
    const std::array store{std::byte{0x89}, std::byte{0x18}}; // mov [eax], ebx
    REQUIRE(f.memory.write(code, store));
    f.cpu.registers().rax = text_start;
    const uint64_t before = f.at(direct_pmd, 3);
    f.forge(direct_pmd, 3, 0);
    CHECK(!f.guard.store_fault(f.cpu, Guard::Unexplained::retry));
    CHECK(f.cpu.injected == 1);
    CHECK(f.at(direct_pmd, 3) == before);
    CHECK(f.guard.counts().violations == 2);
    f.forge(direct_pmd, 3, 0);
    CHECK(!f.guard.emulated_store(f.cpu, {text_start}, store));
    CHECK(f.at(direct_pmd, 3) == before);
    CHECK(f.guard.counts().violations == 4);
}

namespace {

constexpr uint64_t pool = 32_MiB;
constexpr uint64_t pool_pages = 16;
constexpr uint64_t free_table = 0x900000;

struct ArenaFixture : RootFixture {
    explicit ArenaFixture(bool isolation = false, bool enforced = true)
        : RootFixture(enforced, {}, isolation) {
        lock_all();
        CHECK(lock(reference_root, pair ? 2 : 1, CASEMATE_KIND_PAGE_TABLE) == 0);
        CHECK(refer() == 0);
    }
    int64_t give(uint64_t address = pool, uint64_t pages = pool_pages, uint64_t policy = 0) {
        return call(casemate_attributes(CASEMATE_CALL_ROOT_ARENA, policy, 0), address, pages);
    }
    int64_t write(uint64_t root, uint64_t slot, uint64_t table) {
        return call(casemate_attributes(CASEMATE_CALL_ROOT_WRITE, 0, CASEMATE_ROOT_ENTRY(root, slot)), table);
    }
    int64_t clear(uint64_t root) {
        return call(casemate_attributes(CASEMATE_CALL_ROOT_CLEAR, 0, CASEMATE_ROOT_ENTRY(root, 0)));
    }
    bool pool_is_free() { return memory.store(GuestPhysical{pool}, uint64_t{1}).has_value(); }
};

} // namespace

TEST_CASE("an arena's roots are right, and so is the reference, but no other root") {
    for (const bool isolation : {false, true}) {
        ArenaFixture f(isolation);
        CHECK(f.check() == 0); // the process's
        REQUIRE(f.give() == 0);
        CHECK(f.drops == 1);
        CHECK(!f.pool_is_free());
        CHECK(f.check() == -CASEMATE_EPERM);
        for (const uint64_t page : {uint64_t{0}, uint64_t{1}, pool_pages - 1}) {
            f.cpu.system().cr3 = pool + page * page_bytes;
            CHECK(f.check() == 0);
        }
        CHECK(f.check(pool + pool_pages * page_bytes) == -CASEMATE_EPERM);
        CHECK(f.check(pool - page_bytes) == -CASEMATE_EPERM);
        CHECK(f.check(process_root) == -CASEMATE_EPERM);
        CHECK(f.check(reference_root) == 0);
        f.cpu.system().cr3 = reference_root;
        CHECK(f.check(pool) == 0);
        f.cpu.system().cr4 |= 1ULL << 12U;
        CHECK(f.check() == -CASEMATE_EPERM);
        CHECK(!f.ended);
        f.cpu.system().cr4 &= ~(1ULL << 12U);
        REQUIRE(f.refer(CASEMATE_POLICY_DIE_ON_WRITE) == 0);
        f.cpu.system().cr3 = process_root;
        CHECK(f.check() == -CASEMATE_EPERM);
        const GuardEnd end = must_be(f.ended);
        CHECK(end.reason == GuardEnd::Reason::root_mismatch);
        CHECK(end.report.find("neither in the root arena nor the reference") != std::string::npos);
        f.forge(process_root, 511, 0x700000 | table_entry);
        CHECK(f.check() == -CASEMATE_EPERM);
        CHECK(must_be(f.ended).report.find("gpa:0x700000") != std::string::npos); // what is forged is told
    }
}

TEST_CASE("a second reference does not become a root of its own once there is an arena") {
    ArenaFixture f;
    REQUIRE(f.give() == 0);
    CHECK(f.call(casemate_attributes(CASEMATE_CALL_ROOT_REFERENCE, 0, 273), process_root) == 0);
    CHECK(f.check() == -CASEMATE_EPERM);
    CHECK(f.check(reference_root) == 0);
}

TEST_CASE("an arena is refused with the error that fits, and nothing changes") {
    ArenaFixture f;
    CHECK(f.give(pool, 0) == -CASEMATE_EINVAL);
    CHECK(f.give(pool + 8) == -CASEMATE_EINVAL);
    CHECK(f.give(pool, pool_pages, 2) == -CASEMATE_EINVAL);
    CHECK(f.call(casemate_attributes(CASEMATE_CALL_ROOT_ARENA, 0, 1), pool) == -CASEMATE_EINVAL);
    CHECK(f.give(64_MiB, 1) == -CASEMATE_EFAULT);
    CHECK(f.give(64_MiB - page_bytes, 2) == -CASEMATE_EFAULT);
    CHECK(f.give(3_GiB, 1) == -CASEMATE_EFAULT);
    CHECK(f.give(~uint64_t{0xfff}, 2) == -CASEMATE_EFAULT);
    CHECK(f.give(~uint64_t{0xfff}, 1) == -CASEMATE_EFAULT);
    CHECK(f.give(pool, ~uint64_t{0}) == -CASEMATE_EFAULT);
    CHECK(f.give(0, CASEMATE_ARENA_MAX_PAGES + 1) == -CASEMATE_E2BIG);
    CHECK(f.give(text_start + text_bytes - page_bytes, 2) == -CASEMATE_EPERM);
    CHECK(f.give(text_start - page_bytes, 2) == -CASEMATE_EPERM);
    CHECK(f.give(reference_root, 1) == -CASEMATE_EPERM);
    CHECK(f.write(0, 0, free_table) == -CASEMATE_EINVAL);
    CHECK(f.clear(0) == -CASEMATE_EINVAL);
    f.protection.fails = true;
    CHECK(f.give() == -CASEMATE_E2BIG);
    f.protection.fails = false;
    CHECK(f.pool_is_free());
    CHECK(f.drops == 0);
    CHECK(f.check() == 0);
    const uint64_t locks = f.guard.counts().locks;

    // At the end of RAM; and once only.
    REQUIRE(f.give(64_MiB - page_bytes, 1) == 0);
    CHECK(f.guard.counts().locks == locks + 1);
    CHECK(f.at(64_MiB - page_bytes, 511) == f.at(reference_root, 511));
    CHECK(f.give() == -CASEMATE_EPERM);
    CHECK(f.pool_is_free());
}

TEST_CASE("an arena needs a reference that is locked, tables that can be, and comes before the seal") {
    RootFixture bare(true);
    bare.lock_all();
    const uint64_t give = casemate_attributes(CASEMATE_CALL_ROOT_ARENA, 0, 0);
    CHECK(bare.call(give, pool) == -CASEMATE_EINVAL);
    REQUIRE(bare.refer() == 0);
    CHECK(bare.call(give, pool) == -CASEMATE_EOPNOTSUPP);
    CHECK(bare.lock(reference_root, 1, CASEMATE_KIND_DATA) == 0);
    CHECK(bare.call(give, pool) == -CASEMATE_EOPNOTSUPP);

    RootFixture changed(true);
    changed.lock_all();
    REQUIRE(changed.refer() == 0);
    changed.forge(reference_root, 400, 0x700000 | table_entry);
    CHECK(changed.lock(reference_root, 1, CASEMATE_KIND_PAGE_TABLE) == 0);
    CHECK(changed.call(give, pool) == -CASEMATE_EOPNOTSUPP);

    ArenaFixture verified(false, false);
    CHECK(verified.give() == -CASEMATE_EOPNOTSUPP);
    CHECK((static_cast<uint64_t>(verified.call(features)) & CASEMATE_FEATURE_ROOT_ARENA) == 0);

    ArenaFixture sealed;
    CHECK((static_cast<uint64_t>(sealed.call(features)) & CASEMATE_FEATURE_ROOT_ARENA) != 0);
    REQUIRE(sealed.call(seal) == 0);
    CHECK(sealed.give() == -CASEMATE_EPERM);
    CHECK(sealed.pool_is_free());
}

TEST_CASE("with isolation an arena is of pairs") {
    ArenaFixture f(true);
    CHECK(f.give(pool, 15) == -CASEMATE_EINVAL);
    CHECK(f.give(pool + page_bytes, 16) == -CASEMATE_EINVAL);
    CHECK(f.pool_is_free());
    REQUIRE(f.give() == 0);
    CHECK(f.write(7, 255, free_table) == 0);
    CHECK(f.write(8, 0, free_table) == -CASEMATE_EINVAL);
    CHECK(f.at(pool + 14 * page_bytes, 255) == (free_table | user_table_entry | entry_no_execute));
    CHECK(f.at(pool + 15 * page_bytes, 255) == (free_table | user_table_entry));
    f.cpu.system().cr3 = pool + 14 * page_bytes;
    CHECK(f.check() == 0);
}

TEST_CASE("tables are linked and taken out by the guest's calls, also after the seal") {
    ArenaFixture f;
    REQUIRE(f.give() == 0);
    const unsigned before = f.drops;
    f.cpu.system().cr3 = pool;
    REQUIRE(f.call(seal) == 0);
    CHECK(f.write(3, 7, free_table) == 0);
    CHECK(f.at(pool + 3 * page_bytes, 7) == (free_table | user_table_entry));
    CHECK(f.write(3, 7, free_table) == 0);
    CHECK(f.write(3, 7, free_table + page_bytes) == -CASEMATE_EPERM);
    CHECK(f.write(3, 256, free_table) == -CASEMATE_EPERM);
    CHECK(f.write(3, 511, 0) == -CASEMATE_EPERM);
    CHECK(f.write(pool_pages, 7, free_table) == -CASEMATE_EINVAL);
    CHECK(f.write((1U << 18U) - 1, 7, free_table) == -CASEMATE_EINVAL);
    for (const uint64_t bad : {64_MiB, 3_GiB, uint64_t{0xfee00000}, uint64_t{1} << 51U, ~uint64_t{0xfff}})
        CHECK(f.write(3, 8, bad) == -CASEMATE_EFAULT);
    for (const uint64_t locked : {text_start, image_pmd, reference_root, pool, pool + 15 * page_bytes})
        CHECK(f.write(3, 8, locked) == -CASEMATE_EPERM);
    CHECK(f.at(pool + 3 * page_bytes, 8) == 0);
    CHECK(f.write(3, 8, free_table + 8) == -CASEMATE_EINVAL);
    CHECK(f.drops == before);
    CHECK(f.write(3, 7, 0) == 0);
    CHECK(f.drops == before + 1);
    CHECK(f.write(3, 7, free_table + page_bytes) == 0);
    CHECK(f.clear(3) == 0);
    CHECK(f.at(pool + 3 * page_bytes, 7) == 0);
    CHECK(f.clear(pool_pages) == -CASEMATE_EINVAL);
    CHECK(f.write(3, 7, free_table) == 0);
    CHECK(f.drops == before + 2);
    CHECK(f.check() == 0);
    const auto counts = f.guard.counts();
    CHECK(counts.root_writes == 19);
    CHECK(counts.root_clears == 2);
    CHECK(counts.shadow_drops == f.drops);
    CHECK(counts.violations == 0);
}

TEST_CASE("fields that the arena's calls do not use must be zero") {
    ArenaFixture f;
    REQUIRE(f.give() == 0);
    const uint64_t write = casemate_attributes(CASEMATE_CALL_ROOT_WRITE, 0, 0);
    const uint64_t clear = casemate_attributes(CASEMATE_CALL_ROOT_CLEAR, 0, 0);
    const uint64_t policy = 1ULL << CASEMATE_POLICY_SHIFT;
    const uint64_t slot = 1ULL << CASEMATE_ARGUMENT_SHIFT;
    CHECK(f.call(write | policy, free_table) == -CASEMATE_EINVAL);
    CHECK(f.call(write | 1, free_table) == -CASEMATE_EINVAL);
    CHECK(f.call(write, free_table, 2) == -CASEMATE_EINVAL);
    CHECK(f.call(clear | policy) == -CASEMATE_EINVAL);
    CHECK(f.call(clear | slot) == -CASEMATE_EINVAL);
    CHECK(f.call(clear | 1) == -CASEMATE_EINVAL);
    CHECK(f.call(clear, 0, 2) == -CASEMATE_EINVAL);
    CHECK(f.call(clear, page_bytes) == -CASEMATE_EINVAL);
    CHECK(f.at(pool, 0) == 0);
}

TEST_CASE("the pool's locks take no device's write, and a higher policy") {
    ArenaFixture f;
    REQUIRE(f.give() == 0);
    CHECK(!f.memory.store(GuestPhysical{pool + 8}, uint64_t{1}));
    CHECK(!f.ended);
    CHECK(f.guard.counts().violations == 1);
    CHECK(f.lock(pool, pool_pages, CASEMATE_KIND_PAGE_TABLE, CASEMATE_POLICY_DIE_ON_WRITE) == 0);
    CHECK(!f.memory.store(GuestPhysical{pool + 8}, uint64_t{1}));
    CHECK(must_be(f.ended).reason == GuardEnd::Reason::die_on_write);
    CHECK(f.at(pool, 1) == 0);
    CHECK(f.write(0, 1, free_table) == 0);
}

TEST_CASE("an arena waits for transfers under way into the pool, and replaces what they wrote") {
    ArenaFixture f;
    const std::array ranges{GuestRange::of({pool}, page_bytes)};
    auto transfer = f.memory.begin_transfer(ranges, GuestMemory::Direction::into_ram);
    REQUIRE(transfer);
    std::atomic<bool> finished = false;
    f.protection.before = [&] { CHECK(finished); };
    std::thread giver([&] { CHECK(f.give() == 0); });
    while (
        f.memory.begin_transfer(ranges, GuestMemory::Direction::into_ram)) // until the table shows the lock
        std::this_thread::yield();
    std::memset(transfer->vectors()[0].iov_base, 0x55, page_bytes);
    finished = true;
    *transfer = {};
    giver.join();
    CHECK(f.at(pool, 0) == 0);
    CHECK(f.at(pool, 511) == f.at(reference_root, 511));
}

TEST_CASE("a host that cannot drop shadow pages ends the machine") {
    ArenaFixture f;
    REQUIRE(f.give() == 0);
    CHECK(f.write(0, 0, free_table) == 0);
    f.drop_fails = true;
    CHECK(f.write(0, 0, 0) == -CASEMATE_EPERM);
    CHECK(must_be(f.ended).reason == GuardEnd::Reason::host_failure);
}

TEST_CASE("roots are checked while others are written") {
    ArenaFixture f(true);
    REQUIRE(f.give() == 0);
    std::atomic<bool> stop = false;
    uint64_t wrong = 0;
    std::thread checker([&] {
        FakeCpu cpu;
        cpu.system() = f.cpu.system();
        for (uint64_t root = 0; !stop; root = (root + 1) % pool_pages) {
            cpu.system().cr3 = pool + root * page_bytes;
            wrong += f.guard.hypercall(cpu, {.address = reference_root, .pages = 1, .attributes = check_call})
                                 .result == 0
                         ? 0U
                         : 1U;
        }
    });
    for (uint64_t i = 0; i < 2000; ++i) {
        const uint64_t root = i % (pool_pages / 2);
        CHECK(f.write(root, i % 256, free_table) == 0);
        if (i % 3 == 0)
            CHECK(f.write(root, i % 256, 0) == 0);
        if (i % 7 == 0)
            CHECK(f.clear(root) == 0);
    }
    stop = true;
    checker.join();
    CHECK(wrong == 0);
}

namespace {

struct AuditFixture : RootFixture {
    explicit AuditFixture(bool enforced, uint64_t policy = CASEMATE_POLICY_READ_ONLY)
        : RootFixture(enforced) {
        lock_all(policy);
        CHECK(refer() == 0);
        cpu.system().efer |= 1ULL << 8U; // LME: without it a reset is not seen
        REQUIRE(call(seal) == 0);
    }
    std::optional<GuardEnd> round() {
        guard.start_audit_round();
        return guard.look(cpu);
    }
};

} // namespace

TEST_CASE("a walk that has no end in this much RAM, or none before the machine's, is refused") {
    RootFixture f(true);
    f.lock_all(CASEMATE_POLICY_READ_ONLY);
    SUBCASE("too much below") {
        constexpr uint64_t first = 32_MiB, tables = 600; // 300,000 entries
        for (uint64_t table = 0; table < tables; ++table)
            for (uint64_t i = 0; i < table_entries; ++i)
                REQUIRE(f.memory.store(GuestPhysical{first + table * page_bytes + 8 * i},
                                       (first + (table + i) % tables * page_bytes) | table_entry));
        f.forge(reference_root, 400, first | table_entry);
        CHECK(f.refer() == -CASEMATE_E2BIG);
        f.forge(reference_root, 400, 0);
        CHECK(f.refer() == 0);
    }
    SUBCASE("the machine ends") {
        f.ending.request_stop();
        CHECK(f.refer() == -CASEMATE_EPERM);
        CHECK(f.call(casemate_attributes(CASEMATE_CALL_FEATURES, 0, 0)) == -CASEMATE_EPERM);
    }
}

TEST_CASE("an audit that finds a forged root ends the machine, whatever the policy") {
    AuditFixture f(true);
    CHECK(!f.guard.look(f.cpu));
    f.forge(process_root, 511, 0x700000 | table_entry);
    const GuardEnd end = must_be(f.guard.look(f.cpu));
    CHECK(end.reason == GuardEnd::Reason::root_mismatch);
    CHECK(end.report.find("found by an audit") != std::string::npos);
    CHECK(end.report.find("511, from gla:0xffffff8000000000") != std::string::npos);
    CHECK(end.report.find("gpa:0x700000") != std::string::npos);
    CHECK(f.guard.counts().violations == 1);
    CHECK(f.guard.counts().audits == 2);
}

TEST_CASE("a forged root that a check has recorded is spared by one audit, in which the guest can leave it") {
    AuditFixture f(true);
    f.forge(process_root, 511, 0x700000 | table_entry);
    CHECK(f.check(reference_root) == 0);
    CHECK(!f.guard.look(f.cpu));
    CHECK(f.check(reference_root) == 0);
    CHECK(must_be(f.guard.look(f.cpu)).reason == GuardEnd::Reason::root_mismatch);

    AuditFixture left(true);
    left.forge(process_root, 511, 0x700000 | table_entry);
    for (int i = 0; i < 2; ++i) {
        left.cpu.system().cr3 = process_root;
        CHECK(left.check(reference_root) == 0);
        CHECK(!left.guard.look(left.cpu));
        left.cpu.system().cr3 = reference_root;
        CHECK(!left.guard.look(left.cpu));
    }
    left.cpu.system().cr3 = process_root;
    CHECK(must_be(left.guard.look(left.cpu)).reason == GuardEnd::Reason::root_mismatch);
}

TEST_CASE("an audit leaves the root of a vCPU alone that waits for its start") {
    AuditFixture f(true);
    f.cpu.system().cr3 = 0x5000;
    f.cpu.waiting = true;
    CHECK(!f.guard.look(f.cpu));
    f.cpu.system() = {};
    CHECK(!f.guard.look(f.cpu));
}

TEST_CASE("a vCPU that starts again is soon on the kernel's root and in its locked text") {
    constexpr uint64_t text = 0xffffffff81000010;
    AuditFixture f(true);
    const kvm_sregs running = f.cpu.system();
    f.cpu.system().cr0 = 1; // no paging yet, wherever it is
    f.cpu.system().efer = 0;
    f.cpu.system().cr3 = 0x5000;
    CHECK(!f.guard.look(f.cpu));
    f.cpu.ran += 2 * Auditor::stray_time;
    CHECK(!f.guard.look(f.cpu));
    f.cpu.system() = running;
    f.cpu.system().cs.l = 1;
    f.cpu.system().idt.base = 0x1000; // not through yet
    f.cpu.registers().rip = text;
    CHECK(!f.guard.look(f.cpu));
    const auto ends = [&f] {
        const bool early = f.guard.look(f.cpu).has_value();
        f.cpu.ran += Auditor::stray_time + std::chrono::nanoseconds(1);
        const auto end = f.guard.look(f.cpu);
        return !early && end && end->reason == GuardEnd::Reason::audit_mismatch;
    };
    SUBCASE("it is") {
        f.cpu.ran += 2 * Auditor::stray_time;
        CHECK(!f.guard.look(f.cpu));
        f.cpu.system().idt = running.idt;
        CHECK(!f.guard.look(f.cpu));
        CHECK(f.guard.counts().restarts == 1);
    }
    SUBCASE("as pinned it has no while any more") {
        f.cpu.system().idt = running.idt;
        f.cpu.system().cr3 = 0x5000;
        CHECK(must_be(f.guard.look(f.cpu)).reason == GuardEnd::Reason::root_mismatch);
    }
    SUBCASE("another root") {
        f.cpu.system().cr3 = 0x5000;
        CHECK(ends());
    }
    SUBCASE("a forged root") {
        f.forge(process_root, 511, 0x700000 | table_entry);
        CHECK(ends());
    }
    SUBCASE("code that is not locked") {
        f.cpu.registers().rip = 0xffff888000000000;
        CHECK(ends());
    }
    SUBCASE("code that no table maps") {
        f.cpu.registers().rip = 0x1000;
        CHECK(ends());
    }
    SUBCASE("user code") {
        f.cpu.system().ss.dpl = 3;
        CHECK(ends());
    }
}

TEST_CASE("tables under verification are compared once a round of audits, all of them") {
    AuditFixture f(false);
    const uint64_t before = f.at(image_pmd, 8);
    const uint64_t verifications = f.guard.counts().verifications;
    f.forge(image_pmd, 8, 0x800000 | entry_large | table_entry);
    CHECK(!f.guard.look(f.cpu)); // of no round
    CHECK(f.at(image_pmd, 8) != before);
    CHECK(!f.round());
    CHECK(f.at(image_pmd, 8) == before);
    CHECK(f.guard.counts().violations == 1);
    CHECK(f.guard.counts().verifications == verifications + 1);
    f.forge(image_pmd, 8, 0x800000 | entry_large | table_entry);
    CHECK(!f.guard.look(f.cpu)); // the round's second
    CHECK(f.at(image_pmd, 8) != before);
    CHECK(!f.round());
    CHECK(f.guard.counts().verifications == verifications + 2);
    CHECK(f.guard.counts().violations == 2);

    AuditFixture dies(false, CASEMATE_POLICY_DIE_ON_WRITE);
    dies.forge(direct_pmd, 3, 0);
    CHECK(must_be(dies.round()).reason == GuardEnd::Reason::die_on_write);

    AuditFixture enforced(true);
    CHECK(!enforced.round());
    CHECK(enforced.guard.counts().verifications == 0);
}

namespace {

constexpr uint64_t clock_page = 48_MiB;

struct ClockFixture : RootFixture {
    explicit ClockFixture(bool enforced = false)
        : RootFixture(enforced) {
        lock_all();
    }
    int64_t give(uint64_t address = clock_page, uint64_t units = 2,
                 uint64_t policy = CASEMATE_POLICY_READ_ONLY) {
        return call(casemate_attributes(CASEMATE_CALL_ROOT_CLOCK, policy, units), address);
    }
};

} // namespace

TEST_CASE("a clock starts at once, and each check sets the vCPU's entry alone") {
    ClockFixture f;
    REQUIRE(f.refer() == 0);
    REQUIRE(f.memory.store(GuestPhysical{clock_page}, ~uint64_t{0}));
    REQUIRE(f.give() == 0);
    CHECK(f.guard.counts().locks > 0);
    for (size_t entry = 0; entry < table_entries; ++entry)
        CHECK(f.at(clock_page, entry) == 0);
    f.cpu.tsc = 1000;
    CHECK(f.check() == 0);
    CHECK(f.at(clock_page, 0) == 1000 + 2 * 1024);
    CHECK(f.at(clock_page, 1) == 0);
    REQUIRE(f.call(seal) == 0);
    f.cpu.tsc = 9000;
    CHECK(f.check() == 0);
    CHECK(f.at(clock_page, 0) == 9000 + 2 * 1024);
    // Asked is asked, whatever the answer.
    f.forge(process_root, 511, 0x700000 | table_entry);
    f.cpu.tsc = 20000;
    CHECK(f.check() == -CASEMATE_EPERM);
    CHECK(f.at(clock_page, 0) == 20000 + 2 * 1024);
    CHECK(!f.memory.store(GuestPhysical{clock_page}, uint64_t{1}));
    CHECK(f.at(clock_page, 0) == 20000 + 2 * 1024);
}

TEST_CASE("a clock is refused with the error that fits, and nothing changes") {
    ClockFixture f;
    CHECK(f.give() == -CASEMATE_EINVAL); // no reference
    REQUIRE(f.refer() == 0);
    CHECK(f.give(clock_page, 0) == -CASEMATE_EINVAL);
    CHECK(f.give(clock_page, 1, 2) == -CASEMATE_EINVAL);
    CHECK(f.give(clock_page + 8) == -CASEMATE_EINVAL);
    CHECK(f.give(64_MiB) == -CASEMATE_EFAULT);
    CHECK(f.give(3_GiB) == -CASEMATE_EFAULT);
    CHECK(f.give(~uint64_t{0xfff}) == -CASEMATE_EFAULT);
    CHECK(f.give(text_start) == -CASEMATE_EPERM);
    CHECK(f.give(direct_pmd) == -CASEMATE_EPERM);
    f.protection.fails = true;
    CHECK(f.give() == -CASEMATE_E2BIG);
    f.protection.fails = false;
    CHECK(f.memory.store(GuestPhysical{clock_page}, uint64_t{7}));
    CHECK(f.check() == 0);
    CHECK(f.at(clock_page, 0) == 7);
    const uint64_t locks = f.guard.counts().locks;
    REQUIRE(f.give() == 0);
    CHECK(f.guard.counts().locks == locks + 1);
    CHECK(f.give(clock_page + page_bytes) == -CASEMATE_EPERM);

    ClockFixture sealed;
    REQUIRE(sealed.refer() == 0);
    REQUIRE(sealed.call(seal) == 0);
    CHECK(sealed.give() == -CASEMATE_EPERM);
    CHECK(sealed.memory.store(GuestPhysical{clock_page}, uint64_t{7}));
}

TEST_CASE("a wrong root has more tables compared: the reference may be among them") {
    ClockFixture f;
    for (uint64_t page = 0; page < 200; ++page)
        REQUIRE(f.lock(clock_page + page * page_bytes, 1, CASEMATE_KIND_PAGE_TABLE) == 0);
    REQUIRE(f.lock(reference_root, 1, CASEMATE_KIND_PAGE_TABLE) == 0);
    REQUIRE(f.refer() == 0);
    const uint64_t right = f.at(reference_root, 511);
    f.forge(reference_root, 511, 0x700000 | table_entry);
    CHECK(f.check(reference_root) == -CASEMATE_EPERM);
    CHECK(f.at(reference_root, 511) == right);
    CHECK(f.check(reference_root) == 0);
}
