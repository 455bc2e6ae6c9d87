// SPDX-License-Identifier: Apache-2.0
#include "guard_fakes.hpp"

#include <array>
#include <cstring>
#include <doctest/doctest.h>
#include <thread>
#include <vector>

using namespace casemate;
using synthetic::code;
using synthetic::FakeCpu;
using synthetic::FakeProtection;
using synthetic::must_be;

namespace {

constexpr GuestPhysical page{0x20000};

struct Fixture {
    explicit Fixture(Guard::Options options = {}, bool tables = true)
        : memory(*GuestMemory::create(64_MiB))
        , guard({.memory = memory,
                 .protection = protection,
                 .log = log,
                 .events = events,
                 .symbols = nullptr,
                 .tables_tolerated = [tables] { return tables; },
                 .end = [this](GuardEnd end) { ended = std::move(end); }},
                options) {
        memory.set_write_gate(&guard);
        put({0x89, 0x18}); // mov [eax], ebx
        cpu.registers().rax = page.value + 8;
        cpu.registers().rbx = 0x11223344;
    }
    void put(std::initializer_list<uint8_t> bytes) {
        const std::vector<uint8_t> copy(bytes);
        REQUIRE(memory.write(code, std::as_bytes(std::span(copy))));
    }
    int64_t lock(uint64_t policy = CASEMATE_POLICY_READ_ONLY, uint64_t kind = CASEMATE_KIND_TEXT,
                 GuestPhysical address = page, uint64_t pages = 1) {
        return call(casemate_attributes(CASEMATE_CALL_LOCK, policy, kind), address, pages);
    }
    int64_t call(uint64_t attributes, GuestPhysical address = {0}, uint64_t pages = 1) {
        return static_cast<int64_t>(answer(attributes, address, pages).result);
    }
    Guard::Answer answer(uint64_t attributes, GuestPhysical address = {0}, uint64_t pages = 1) {
        return guard.hypercall(cpu, {.address = address.value, .pages = pages, .attributes = attributes});
    }
    bool writable(GuestPhysical address = page) { return memory.store<uint64_t>(address, 1).has_value(); }

    Log log{-1};
    EventLog events;
    GuestMemory memory;
    FakeProtection protection{memory};
    std::optional<GuardEnd> ended;
    Guard guard;
    FakeCpu cpu;
};

const auto features = casemate_attributes(CASEMATE_CALL_FEATURES, 0, 0);
constexpr uint64_t enforced_features = CASEMATE_FEATURE_LOCKS | CASEMATE_FEATURE_ROOT_CHECK |
                                       CASEMATE_FEATURE_TABLES_ENFORCED | CASEMATE_FEATURE_ROOT_ARENA;
constexpr uint64_t verified_features =
    CASEMATE_FEATURE_LOCKS | CASEMATE_FEATURE_ROOT_CHECK | CASEMATE_FEATURE_TABLES_VERIFIED;
const auto seal = casemate_attributes(CASEMATE_CALL_SEAL, 0, 0);

} // namespace

TEST_CASE("a lock is protected, and the monitor itself may not write it") {
    Fixture f;
    CHECK(f.writable());
    CHECK(f.lock() == 0);
    REQUIRE(f.protection.ranges.size() == 1);
    CHECK(f.protection.ranges[0].start() == page);
    CHECK(f.protection.ranges[0].bytes() == page_bytes);
    CHECK(!f.writable());
    CHECK(f.writable({page.value + page_bytes}));
    CHECK(f.guard.counts().locks == 1);
    CHECK(f.guard.counts().violations == 1);
}

TEST_CASE("locking again protects nothing twice; raising works, lowering does not") {
    Fixture f;
    CHECK(f.lock() == 0);
    CHECK(f.lock() == 0);
    CHECK(f.lock(CASEMATE_POLICY_DIE_ON_WRITE) == 0);
    CHECK(f.lock(CASEMATE_POLICY_READ_ONLY) == -CASEMATE_EPERM);
    CHECK(f.protection.ranges.size() == 1);
    CHECK(must_be(f.guard.store_fault(f.cpu, Guard::Unexplained::retry)).reason ==
          GuardEnd::Reason::die_on_write);
}

TEST_CASE("a refused lock changes nothing") {
    Fixture f({}, false);
    const GuestPhysical last{64_MiB - page_bytes};
    CHECK(f.lock(0, CASEMATE_KIND_TEXT, {64_MiB}) == -CASEMATE_EFAULT);
    CHECK(f.lock(0, CASEMATE_KIND_TEXT, last, 2) == -CASEMATE_EFAULT);
    CHECK(f.lock(0, CASEMATE_KIND_TEXT, {3_GiB}) == -CASEMATE_EFAULT);
    CHECK(f.lock(0, CASEMATE_KIND_TEXT, {~uint64_t{0xfff}}) == -CASEMATE_EFAULT);
    f.protection.fails = true;
    CHECK(f.lock() == -CASEMATE_E2BIG);
    CHECK(f.writable());
    CHECK(f.writable(last));
    CHECK(f.guard.counts().locks == 0);
    CHECK(f.guard.counts().violations == 0);
    f.protection.fails = false;
    CHECK(f.lock() == 0);
}

TEST_CASE("features tell of tables and of the seal; after it nothing more is locked") {
    Fixture f;
    CHECK(f.call(features) == enforced_features);
    CHECK(!f.guard.has_taken_locks());
    CHECK(f.call(seal) == 0);
    CHECK(!f.guard.has_taken_locks());
    CHECK(f.call(features) == (enforced_features | CASEMATE_FEATURE_SEALED));
    CHECK(f.lock() == -CASEMATE_EPERM);
    CHECK(f.writable());
    CHECK(f.call(seal) == 0);

    Fixture verified({}, false);
    CHECK(verified.call(features) == verified_features);
    CHECK(verified.lock() == 0);
    CHECK(verified.call(seal) == 0);
    CHECK(verified.guard.has_taken_locks());
}

TEST_CASE("too many ranges end the locking, not the monitor") {
    Fixture f;
    int64_t result = 0;
    uint64_t granted = 0;
    for (GuestPhysical at{0}; at.value < 64_MiB && result == 0; at.value += 2 * page_bytes) {
        result = f.lock(0, CASEMATE_KIND_DATA, at);
        granted += result == 0 ? 1 : 0;
    }
    CHECK(granted == 64_MiB / (2 * page_bytes));
    CHECK(f.guard.counts().locks == granted);
}

TEST_CASE("a store to a read-only lock raises #GP and is not the end") {
    Fixture f;
    REQUIRE(f.lock() == 0);
    CHECK(!f.guard.store_fault(f.cpu, Guard::Unexplained::retry));
    CHECK(f.cpu.injected == 1);
    CHECK(f.guard.counts().violations == 1);
}

TEST_CASE("a store to a die-on-write lock ends the machine with a report") {
    Fixture f;
    REQUIRE(f.lock(CASEMATE_POLICY_DIE_ON_WRITE) == 0);
    const GuardEnd end = must_be(f.guard.store_fault(f.cpu, Guard::Unexplained::retry));
    CHECK(end.reason == GuardEnd::Reason::die_on_write);
    CHECK(end.report.find("0x11223344") != std::string::npos);
    CHECK(end.report.find("0x20008") != std::string::npos);
    CHECK(f.cpu.injected == 0);
}

TEST_CASE("the last violation allowed ends the machine") {
    Fixture f({.max_violations = 3});
    REQUIRE(f.lock() == 0);
    for (int i = 0; i < 2; ++i)
        CHECK(!f.guard.store_fault(f.cpu, Guard::Unexplained::retry));
    const GuardEnd end = must_be(f.guard.store_fault(f.cpu, Guard::Unexplained::retry));
    CHECK(end.reason == GuardEnd::Reason::too_many_violations);
}

TEST_CASE("a fault that nothing explains is tried again, but not for ever") {
    Fixture f;
    REQUIRE(f.lock() == 0);
    SUBCASE("nothing is stored") {
        f.put({0x90, 0x90});
    }
    SUBCASE("the decoder does not know the store") {
        f.put({0x0f, 0x38, 0xf9, 0x18});
    } // movdiri [eax], ebx
    SUBCASE("the store is elsewhere") {
        f.cpu.registers().rax = page.value + page_bytes;
    }
    SUBCASE("the instruction is not in RAM") {
        f.cpu.registers().rip = 3_GiB;
    }
    unsigned tries = 0;
    std::optional<GuardEnd> end;
    while (!end && ++tries < 1000)
        end = f.guard.store_fault(f.cpu, Guard::Unexplained::retry);
    CHECK(tries > 1);
    CHECK(tries < 100);
    CHECK(must_be(end).reason == GuardEnd::Reason::unattributable);
    CHECK(f.cpu.injected == 0);
    CHECK(must_be(f.guard.store_fault(f.cpu, Guard::Unexplained::fail)).reason ==
          GuardEnd::Reason::unattributable);
}

TEST_CASE("an instruction that another vCPU rewrote is judged when it is read right") {
    Fixture f;
    REQUIRE(f.lock() == 0);
    f.put({0x90, 0x90});
    for (int i = 0; i < 3; ++i)
        CHECK(!f.guard.store_fault(f.cpu, Guard::Unexplained::retry));
    CHECK(f.cpu.injected == 0);
    f.put({0x89, 0x18});
    CHECK(!f.guard.store_fault(f.cpu, Guard::Unexplained::retry));
    CHECK(f.cpu.injected == 1);
}

TEST_CASE("an event's frame that cannot be pushed ends the machine at once") {
    Fixture f;
    REQUIRE(f.lock() == 0);
    f.cpu.delivering = true;
    const GuardEnd end = must_be(f.guard.store_fault(f.cpu, Guard::Unexplained::retry));
    CHECK(end.reason == GuardEnd::Reason::unattributable);
    // A failed emulation queues an exception of its own.
    CHECK(!f.guard.store_fault(f.cpu, Guard::Unexplained::fail));
}

TEST_CASE("a store that KVM emulated is dropped on a lock and made elsewhere") {
    Fixture f;
    const std::array bytes{std::byte{1}, std::byte{2}};
    REQUIRE(f.lock() == 0);
    CHECK(!f.guard.emulated_store(f.cpu, {page.value + page_bytes - 1}, bytes)); // its second byte is free
    CHECK(*f.memory.fetch<uint16_t>({page.value + page_bytes - 1}) == 0);
    CHECK(f.guard.counts().violations == 1);
    CHECK(!f.guard.emulated_store(f.cpu, {page.value + page_bytes}, bytes));
    CHECK(*f.memory.fetch<uint16_t>({page.value + page_bytes}) == 0x201);
    CHECK(f.guard.counts().violations == 1);
    CHECK(f.cpu.injected == 0);
}

TEST_CASE("a device that aims at a lock is refused and recorded, and may end the machine") {
    Fixture f;
    REQUIRE(f.lock() == 0);
    CHECK(!f.writable());
    CHECK(f.guard.counts().violations == 1);
    CHECK(!f.ended);
    REQUIRE(f.lock(CASEMATE_POLICY_DIE_ON_WRITE) == 0);
    CHECK(!f.writable());
    CHECK(must_be(f.ended).reason == GuardEnd::Reason::die_on_write);
}

TEST_CASE("a lock waits for transfers under way and lets none begin") {
    Fixture f;
    const std::array ranges{GuestRange::of(page, page_bytes)};
    auto transfer = f.memory.begin_transfer(ranges, GuestMemory::Direction::into_ram);
    REQUIRE(transfer);
    std::atomic<bool> finished = false;
    f.protection.before = [&] { CHECK(finished); };
    std::thread locker([&] { CHECK(f.lock() == 0); });
    while (
        f.memory.begin_transfer(ranges, GuestMemory::Direction::into_ram)) // until the table shows the lock
        std::this_thread::yield();
    std::memset(transfer->vectors()[0].iov_base, 0x55, 16);
    finished = true;
    *transfer = {};
    locker.join();
    CHECK(f.protection.ranges.size() == 1);
}

TEST_CASE("a lock that waits for a stuck transfer is given up when the machine ends") {
    Fixture f;
    const std::array ranges{GuestRange::of(page, page_bytes)};
    auto transfer = f.memory.begin_transfer(ranges, GuestMemory::Direction::into_ram);
    REQUIRE(transfer);
    std::thread locker([&] { CHECK(f.lock() < 0); });
    while (f.memory.begin_transfer(ranges, GuestMemory::Direction::into_ram)) // until the lock waits
        std::this_thread::yield();
    f.memory.abandon_drains();
    locker.join();
    CHECK(f.protection.ranges.empty());
    CHECK(f.memory.writes_in_flight() == 1);
}

TEST_CASE("faults that nothing explains count as violations, wherever they are") {
    Fixture f({.max_violations = 3});
    REQUIRE(f.lock() == 0);
    f.put({0x90, 0x90});
    for (unsigned i = 0; i < 2; ++i) {
        CHECK(!f.guard.store_fault(f.cpu, Guard::Unexplained::retry));
        ++f.cpu.registers().rcx; // another instruction each time
    }
    CHECK(must_be(f.guard.store_fault(f.cpu, Guard::Unexplained::retry)).reason ==
          GuardEnd::Reason::too_many_violations);
}
