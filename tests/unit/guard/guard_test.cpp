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
                 .tables_tolerated = tables,
                 .end = [this](GuardEnd end) { ended = std::move(end); },
                 .ending = ending.get_token()},
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
    std::stop_source ending;
    Guard guard;
    FakeCpu cpu;
};

const auto features = casemate_attributes(CASEMATE_CALL_FEATURES, 0, 0);
constexpr uint64_t enforced_features = CASEMATE_FEATURE_LOCKS | CASEMATE_FEATURE_ROOT_CHECK |
                                       CASEMATE_FEATURE_ROOT_CLOCK | CASEMATE_FEATURE_TABLES_ENFORCED |
                                       CASEMATE_FEATURE_ROOT_ARENA;
constexpr uint64_t verified_features = CASEMATE_FEATURE_LOCKS | CASEMATE_FEATURE_ROOT_CHECK |
                                       CASEMATE_FEATURE_ROOT_CLOCK | CASEMATE_FEATURE_TABLES_VERIFIED;
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

// No operand of what is at RIP leads to the locked page.
void put_no_store_to_the_lock(Fixture& f) {
    SUBCASE("nothing is stored") {
        f.put({0x90, 0x90});
    }
    SUBCASE("the decoder does not know the store") {
        f.put({0x0f, 0x38, 0xf6, 0x18});
    } // wrssd [eax], ebx
    SUBCASE("the store is elsewhere") {
        f.cpu.registers().rax = page.value + page_bytes;
    }
}

TEST_CASE("a fault that nothing explains is tried again, but not for ever") {
    Fixture f;
    REQUIRE(f.lock() == 0);
    put_no_store_to_the_lock(f);
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

TEST_CASE("a store whose address KVM tells needs no operand that explains it") {
    const DeniedWrite denied{.address = {page.value + 8}};
    Fixture f;
    REQUIRE(f.lock() == 0);
    put_no_store_to_the_lock(f);
    CHECK(!f.guard.store_fault(f.cpu, Guard::Unexplained::retry, denied));
    CHECK(f.cpu.injected == 1);
    CHECK(f.guard.counts().violations == 1);
    CHECK(f.guard.counts().unexplained_faults == 0);
    REQUIRE(f.lock(CASEMATE_POLICY_DIE_ON_WRITE) == 0);
    const GuardEnd end = must_be(f.guard.store_fault(f.cpu, Guard::Unexplained::retry, denied));
    CHECK(end.reason == GuardEnd::Reason::die_on_write);
    CHECK(end.report.find("0x20008") != std::string::npos);
}

TEST_CASE("of a store to two locks the stricter policy counts, whichever KVM tells of") {
    Fixture f;
    REQUIRE(f.lock(CASEMATE_POLICY_DIE_ON_WRITE) == 0);
    REQUIRE(f.lock(CASEMATE_POLICY_READ_ONLY, CASEMATE_KIND_DATA, {page.value - page_bytes}) == 0);
    f.cpu.registers().rax = page.value - 2;
    const DeniedWrite denied{.address = {page.value - 2}};
    CHECK(must_be(f.guard.store_fault(f.cpu, Guard::Unexplained::retry, denied)).reason ==
          GuardEnd::Reason::die_on_write);
}

TEST_CASE("a walk of the guest's tables that would write to a lock ends the machine and names the lock") {
    Fixture f;
    REQUIRE(f.lock() == 0);
    const DeniedWrite denied{.address = {page.value + 0x18}, .is_page_walk = true};
    const GuardEnd end = must_be(f.guard.store_fault(f.cpu, Guard::Unexplained::retry, denied));
    CHECK(end.reason == GuardEnd::Reason::unattributable);
    CHECK(end.report.find("0x20018") != std::string::npos);
    CHECK(f.cpu.injected == 0);
}

TEST_CASE("a denial where no lock is counts as a fault that nothing explains") {
    Fixture f;
    REQUIRE(f.lock() == 0);
    f.put({0x90, 0x90});
    for (const bool is_page_walk : {false, true})
        CHECK(!f.guard.store_fault(f.cpu, Guard::Unexplained::retry,
                                   DeniedWrite{.address = {3_GiB}, .is_page_walk = is_page_walk}));
    CHECK(f.guard.counts().unexplained_faults == 2);
    CHECK(f.cpu.injected == 0);
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

// 64-bit code at `code`, RAM below 4 MiB mapped as it is.
struct LongModeFixture : Fixture {
    explicit LongModeFixture(Guard::Options options = {})
        : Fixture(options) {
        CHECK(memory.store({0x1000}, uint64_t{0x2007}));
        CHECK(memory.store({0x2000}, uint64_t{0x3007}));
        CHECK(memory.store({0x3000}, uint64_t{0x87}));
        kvm_sregs& system = cpu.system();
        system.cr0 = 1U << 31U | 1U << 16U | 1U;
        system.cr3 = 0x1000;
        system.cr4 = 1U << 5U;
        system.efer = 1U << 10U | 1U << 8U;
        system.cs.l = 1;
        system.cs.db = 0;
        cpu.registers().rsp = 0x30000;
    }
    // A look at the vCPU after its thread has run for so long.
    std::optional<GuardEnd> check_after(std::chrono::milliseconds run_time) {
        cpu.ran += run_time;
        return guard.check_progress(cpu);
    }
};
constexpr std::chrono::milliseconds whole_interval{100};

TEST_CASE("an emulated store whose instruction is certain is refused at the instruction") {
    for (const uint64_t policy : {CASEMATE_POLICY_READ_ONLY, CASEMATE_POLICY_DIE_ON_WRITE}) {
        LongModeFixture f;
        const std::array bytes{std::byte{0x44}, std::byte{0x33}, std::byte{0x22}, std::byte{0x11}};
        REQUIRE(f.lock(policy) == 0);
        f.cpu.registers().rip = code.value + 2;
        const auto end = f.guard.emulated_store(f.cpu, {page.value + 8}, bytes);
        CHECK(f.cpu.registers().rip == code.value);
        CHECK(f.guard.counts().violations == 1);
        CHECK(*f.memory.fetch<uint32_t>({page.value + 8}) == 0);
        if (policy == CASEMATE_POLICY_READ_ONLY) {
            CHECK(!end);
            CHECK(f.cpu.injected == 1);
            continue;
        }
        CHECK(must_be(end).reason == GuardEnd::Reason::die_on_write);
        CHECK(must_be(end).report.find("mov dword ptr [rax], ebx") != std::string::npos);
        CHECK(f.cpu.injected == 0);
    }
}

TEST_CASE("an emulated store is dropped where its instruction is not certain, or #GP cannot be given") {
    LongModeFixture f;
    const std::array bytes{std::byte{0x44}, std::byte{0x33}, std::byte{0x22}, std::byte{0x12}};
    REQUIRE(f.lock() == 0);
    f.cpu.registers().rip = code.value + 2;
    CHECK(!f.guard.emulated_store(f.cpu, {page.value + 8}, bytes)); // another value
    f.cpu.registers().rbx = 0x12223344;
    f.cpu.delivering = true;
    CHECK(!f.guard.emulated_store(f.cpu, {page.value + 8}, bytes));
    CHECK(f.cpu.registers().rip == code.value + 2);
    CHECK(f.cpu.injected == 0);
    CHECK(f.guard.counts().violations == 2);
}

TEST_CASE("an event whose frame has to go to a locked stack ends the machine, soon or after a while") {
    for (const bool knows_stack : {true, false}) {
        LongModeFixture f;
        REQUIRE(f.lock() == 0);
        f.cpu.delivering = true;
        f.cpu.registers().rip = code.value + 0x100;
        f.cpu.system().tr.base = 0x40000;
        f.cpu.registers().rsp = 0x30000;
        if (knows_stack) // IST3
            REQUIRE(f.memory.store({0x40000 + 52}, page.value + page_bytes));
        unsigned checks = 0;
        std::optional<GuardEnd> end;
        for (; !end && checks < 100; ++checks)
            end = f.check_after(whole_interval);
        CHECK(must_be(end).reason == GuardEnd::Reason::unattributable);
        CHECK(checks == (knows_stack ? 6 : 51));
        CHECK(f.cpu.injected == 0);
    }
}

TEST_CASE("a descriptor in a locked table that KVM cannot mark ends the machine") {
    for (const bool locked_table : {true, false}) {
        LongModeFixture f;
        REQUIRE(f.lock() == 0);
        REQUIRE(f.memory.store({code.value + 0x100}, uint16_t{0xc08e})); // mov es, eax
        f.cpu.registers().rip = code.value + 0x100;
        f.cpu.system().gdt.base = page.value - 0x800 + (locked_table ? 0 : 0x4000);
        f.cpu.system().gdt.limit = 0xfff;
        CHECK(!f.check_after(whole_interval));
        const auto end = f.check_after(whole_interval);
        CHECK(end.has_value() == locked_table);
        if (end)
            CHECK(end->report.find("mov es") != std::string::npos);
    }
}

TEST_CASE("a vCPU that moves on while events come, or is between two, is left alone") {
    LongModeFixture f;
    REQUIRE(f.lock() == 0);
    REQUIRE(f.memory.store({0x40000 + 52}, page.value + page_bytes));
    f.cpu.system().tr.base = 0x40000;
    f.cpu.registers().rip = code.value + 0x100;
    for (unsigned checks = 0; checks < 200; ++checks) {
        f.cpu.delivering = checks % 5 != 0;
        CHECK(!f.check_after(whole_interval));
    }
    f.cpu.delivering = true;
    for (unsigned checks = 0; checks < 200; ++checks) {
        f.cpu.registers().rcx = checks + 1;
        CHECK(!f.check_after(whole_interval));
    }
}

TEST_CASE("#GP that cannot be delivered for an emulated store ends the machine") {
    const std::array bytes{std::byte{0x44}, std::byte{0x33}, std::byte{0x22}, std::byte{0x11}};
    for (const bool locked_stack : {true, false}) {
        LongModeFixture f;
        REQUIRE(f.lock() == 0);
        if (locked_stack)
            f.cpu.registers().rsp = page.value + page_bytes;
        std::optional<GuardEnd> end;
        unsigned tries = 0;
        for (; !end && tries < 100; ++tries) {
            f.cpu.registers().rip = code.value + 2;
            end = f.guard.emulated_store(f.cpu, {page.value + 8}, bytes);
        }
        CHECK(end.has_value() == locked_stack);
        if (end)
            CHECK(end->reason == GuardEnd::Reason::unattributable);
    }
}

TEST_CASE("a vCPU that does not get past a store to a lock is helped out, or ends the machine") {
    LongModeFixture f;
    REQUIRE(f.lock() == 0);
    CHECK(!f.check_after(whole_interval));
    CHECK(f.cpu.injected == 0);
    CHECK(!f.check_after(whole_interval));
    CHECK(f.cpu.injected == 1);
    CHECK(f.guard.counts().violations == 1);
    REQUIRE(f.lock(CASEMATE_POLICY_DIE_ON_WRITE) == 0);
    CHECK(must_be(f.check_after(whole_interval)).reason == GuardEnd::Reason::die_on_write);
}

TEST_CASE("a vCPU that goes on, waits or spins is left alone") {
    LongModeFixture f;
    REQUIRE(f.lock(CASEMATE_POLICY_DIE_ON_WRITE) == 0);
    for (unsigned i = 0; i < 5; ++i) { // a REP string instruction, or another place
        ++f.cpu.registers().rcx;
        CHECK(!f.check_after(whole_interval));
    }
    for (unsigned i = 0; i < 5; ++i) // its thread has not run; it may not have tried yet
        CHECK(!f.check_after(std::chrono::milliseconds(1)));
    f.cpu.delivering = true;
    CHECK(!f.check_after(whole_interval));
    f.cpu.delivering = false;
    f.cpu.registers().rax = page.value + page_bytes; // a store, to no lock
    for (unsigned i = 0; i < 3; ++i)
        CHECK(!f.check_after(whole_interval));
    f.cpu.registers().rax = page.value;
    f.put({0xeb, 0xfe}); // jmp .
    for (unsigned i = 0; i < 3; ++i)
        CHECK(!f.check_after(whole_interval));
    CHECK(f.guard.counts().violations == 0);
    CHECK(f.cpu.injected == 0);
}

TEST_CASE("a store that the guest's own tables refuse is the guest's to handle, again and again") {
    for (const uint64_t flags : {uint64_t{0x85}, uint64_t{0x83}}) { // read-only; supervisor's
        LongModeFixture f;
        REQUIRE(f.lock(CASEMATE_POLICY_DIE_ON_WRITE) == 0);
        REQUIRE(f.memory.store({0x3000}, flags));
        f.cpu.system().ss.dpl = 3;
        for (unsigned i = 0; i < 3; ++i)
            CHECK(!f.check_after(whole_interval));
        f.cpu.system().ss.dpl = 0;
        f.cpu.system().cr0 &= ~(uint64_t{1} << 16U);
        CHECK(must_be(f.check_after(whole_interval)).reason == GuardEnd::Reason::die_on_write);
    }
}

TEST_CASE("it is told once that pages are protected") {
    const Log log(-1);
    EventLog events;
    GuestMemory memory = *GuestMemory::create(64_MiB);
    FakeProtection protection(memory);
    unsigned told = 0;
    Guard guard({.memory = memory,
                 .protection = protection,
                 .log = log,
                 .events = events,
                 .symbols = nullptr,
                 .tables_tolerated = false,
                 .end = [](const GuardEnd&) {},
                 .pages_protected = [&told] { ++told; }},
                {});
    const FakeCpu cpu;
    const auto lock = [&](uint64_t kind, uint64_t address) {
        return guard
            .hypercall(cpu, {.address = address,
                             .pages = 1,
                             .attributes = casemate_attributes(CASEMATE_CALL_LOCK, 0, kind)})
            .result;
    };
    CHECK(lock(CASEMATE_KIND_PAGE_TABLE, 0x30000) == 0); // verified only
    CHECK(told == 0);
    CHECK(lock(CASEMATE_KIND_TEXT, 0x20000) == 0);
    CHECK(lock(CASEMATE_KIND_TEXT, 0x40000) == 0);
    CHECK(told == 1);
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
    f.ending.request_stop();
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
