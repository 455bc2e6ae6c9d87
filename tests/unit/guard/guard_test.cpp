// SPDX-License-Identifier: Apache-2.0
#include "guard/guard.hpp"

#include "synthetic_tables.hpp"

#include <array>
#include <cstring>
#include <doctest/doctest.h>
#include <thread>
#include <vector>

using namespace casemate;

namespace {

constexpr GuestPhysical code{0x10000};
constexpr GuestPhysical page{0x20000};

GuardEnd must_be(const std::optional<GuardEnd>& end) {
    REQUIRE(end);
    return end.value_or(GuardEnd{});
}

// A CPU in protected mode without paging: linear addresses are physical.
class FakeCpu final : public GuestCpu {
public:
    FakeCpu() {
        m_state.system.cr0 = 1;
        m_state.system.cs.db = 1;
        m_state.system.ss.db = 1;
        m_state.registers.rip = code.value;
    }
    kvm_regs& registers() { return m_state.registers; }
    bool delivering = false;
    mutable unsigned injected = 0;

    uint32_t index() const override { return 0; }
    Result<CpuState> state() const override { return m_state; }
    Result<kvm_sregs> system_registers() const override { return m_state.system; }
    kvm_sregs& system() { return m_state.system; }
    Result<bool> is_delivering_event() const override { return delivering; }
    Result<void> inject_general_protection() const override {
        ++injected;
        return {};
    }
    Result<uint64_t> syscall_entry() const override { return 0; }
    Result<AuditedState> audited_state() const override { return AuditedState{}; }
    Result<bool> waits_for_start() const override { return false; }
    Result<void> write_msr(uint32_t, uint64_t) const override { return {}; }
    std::chrono::nanoseconds run_time() const override { return {}; }

private:
    CpuState m_state;
};

class FakeProtection final : public Protection {
public:
    std::vector<GuestRange> ranges;
    bool fails = false;
    std::function<void()> before = [] {};

    Result<void> protect(std::span<const GuestRange> more) override {
        before();
        if (fails)
            return fail(Error("protect"));
        ranges.insert(ranges.end(), more.begin(), more.end());
        return {};
    }
    const char* name() const override { return "fake"; }
};

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
    FakeProtection protection;
    std::optional<GuardEnd> ended;
    Guard guard;
    FakeCpu cpu;
};

const auto features = casemate_attributes(CASEMATE_CALL_FEATURES, 0, 0);
constexpr uint64_t base_features = CASEMATE_FEATURE_LOCKS | CASEMATE_FEATURE_ROOT_CHECK;
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
    CHECK(f.lock(0, CASEMATE_KIND_PAGE_TABLE) == -CASEMATE_EOPNOTSUPP);
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
    CHECK(f.call(features) == (base_features | CASEMATE_FEATURE_TABLES_ENFORCED));
    CHECK(!f.guard.has_taken_locks());
    CHECK(f.call(seal) == 0);
    CHECK(!f.guard.has_taken_locks());
    CHECK(f.call(features) == (base_features | CASEMATE_FEATURE_TABLES_ENFORCED | CASEMATE_FEATURE_SEALED));
    CHECK(f.lock() == -CASEMATE_EPERM);
    CHECK(f.writable());
    CHECK(f.call(seal) == 0);

    Fixture verified({}, false);
    CHECK(verified.call(features) == base_features);
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

namespace {

using namespace synthetic;

const auto check_call = casemate_attributes(CASEMATE_CALL_ROOT_CHECK, 0, 0);

struct RootFixture : SyntheticTables {
    explicit RootFixture(bool enforced, Guard::Options options = {.verify_tables = true},
                         bool isolation = false)
        : SyntheticTables({.pair = isolation, .ram_bytes = 64_MiB})
        , guard({.memory = memory,
                 .protection = protection,
                 .log = log,
                 .events = events,
                 .symbols = nullptr,
                 .tables_tolerated = [enforced] { return enforced; },
                 .end = [this](GuardEnd end) { ended = std::move(end); }},
                options) {
        memory.set_write_gate(&guard);
        cpu.system().cr0 |= 1ULL << 31U;
        cpu.system().cr4 = 1ULL << 5U;
        cpu.system().efer = 1ULL << 10U | 1ULL << 11U;
        cpu.system().cr3 = process_root | 0x801;
    }
    int64_t call(uint64_t attributes, uint64_t address = 0, uint64_t pages = 1) {
        Guard::Answer answer =
            guard.hypercall(cpu, {.address = address, .pages = pages, .attributes = attributes});
        ended = std::move(answer.end);
        return static_cast<int64_t>(answer.result);
    }
    int64_t lock(uint64_t address, uint64_t pages, uint64_t kind,
                 uint64_t policy = CASEMATE_POLICY_READ_ONLY) {
        return call(casemate_attributes(CASEMATE_CALL_LOCK, policy, kind), address, pages);
    }
    void lock_all(uint64_t policy = CASEMATE_POLICY_READ_ONLY) {
        CHECK(lock(text_start, text_bytes / page_bytes, CASEMATE_KIND_TEXT, policy) == 0);
        for (const uint64_t table : required())
            CHECK(lock(table, 1, CASEMATE_KIND_PAGE_TABLE, policy) == 0);
    }
    int64_t refer(uint64_t policy = CASEMATE_POLICY_READ_ONLY, uint64_t slot = 273) {
        return call(casemate_attributes(CASEMATE_CALL_ROOT_REFERENCE, policy, slot), reference_root,
                    pair ? 2 : 1);
    }
    int64_t check(uint64_t next = 0) { return call(check_call, next); }
    // As a vCPU's store does, which no gate asks.
    void forge(uint64_t table, uint64_t index, uint64_t entry) const {
        REQUIRE(memory.restore({table + 8 * index}, entry));
    }

    Log log{-1};
    EventLog events;
    FakeProtection protection;
    std::optional<GuardEnd> ended;
    Guard guard;
    FakeCpu cpu;
};

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
    CHECK(f.check(process_root) == -CASEMATE_EPERM);
    CHECK(f.check(3_GiB) == -CASEMATE_EPERM);
    f.cpu.system().cr3 = process_root;
    CHECK(f.check(3_GiB) == -CASEMATE_EPERM);
    f.cpu.system().cr4 |= 1ULL << 12U;
    CHECK(f.check() == -CASEMATE_EPERM);
    f.cpu.system().cr4 &= ~(1ULL << 12U);
    CHECK(f.check() == 0);
    CHECK(f.guard.counts().violations == 5);
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
    CHECK(f.call(features) == (base_features | CASEMATE_FEATURE_TABLES_VERIFIED));
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

    RootFixture without(false, {});
    CHECK(without.call(features) == base_features);
    CHECK(without.lock(image_pmd, 1, CASEMATE_KIND_PAGE_TABLE) == -CASEMATE_EOPNOTSUPP);
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
