// SPDX-License-Identifier: Apache-2.0
#include "guard/audit.hpp"

#include "guard/guard.hpp"
#include "guard/report.hpp"

#include <algorithm>
#include <array>
#include <atomic>
#include <doctest/doctest.h>
#include <functional>
#include <string>
#include <thread>
#include <utility>
#include <vector>

using namespace casemate;

namespace {

// What Linux 6.12 has after its boot.
AuditedState booted() {
    AuditedState state;
    state.system.cr0 = 0x80050033;
    state.system.cr4 = 0x370ef0; // with SMEP, SMAP, UMIP, OSXSAVE, FSGSBASE
    state.system.efer = 0xd01;
    state.system.idt.base = 0xfffffe0000000000;
    state.system.idt.limit = 0xfff;
    state.system.cs.l = 1;
    state.system.apic_base = 0xfee00c00;
    state.msrs = {0xffffffff82000080, 0x23001000000000,  0x257fd5, 0xffffffff82001b40, 0x10,
                  0xfffffe0000003000, 0xffffffff82001a70};
    return state;
}

// After INIT and the start-up IPI.
AuditedState reset() {
    AuditedState state;
    state.system.apic_base = booted().system.apic_base;
    return state;
}

constexpr uint64_t bit(unsigned number) {
    return uint64_t{1} << number;
}

class FakeCpu final : public GuestCpu {
public:
    explicit FakeCpu(uint32_t index = 0)
        : m_index(index) {}
    AuditedState audited = booted();
    bool waits = false;
    bool fails = false;

    uint32_t index() const override { return m_index; }
    Result<CpuState> state() const override {
        CpuState state;
        state.system = audited.system;
        state.registers.rip = 0xffffffff81234567;
        return state;
    }
    Result<kvm_sregs> system_registers() const override { return audited.system; }
    Result<bool> is_delivering_event() const override { return false; }
    Result<void> set_instruction_pointer(uint64_t) const override { return {}; }
    Result<void> inject_general_protection() const override { return {}; }
    Result<uint64_t> time_stamp() const override { return 0; }
    Result<uint64_t> syscall_entry() const override { return 0; }
    Result<AuditedState> audited_state() const override {
        if (fails)
            return casemate::fail(Error("KVM_GET_SREGS"));
        return audited;
    }
    Result<ParavirtualValues> paravirtual_values() const override { return ParavirtualValues{}; }
    Result<bool> waits_for_start() const override { return waits; }
    Result<void> write_msr(uint32_t index, uint64_t value) const override {
        written.emplace_back(index, value);
        return {};
    }
    std::chrono::nanoseconds run_time() const override { return ran; }
    std::chrono::nanoseconds ran{0};
    mutable std::vector<std::pair<uint32_t, uint64_t>> written;

private:
    uint32_t m_index;
};

class NoProtection final : public Protection {
public:
    Result<void> protect(std::span<const GuestRange>) override { return {}; }
    Result<std::span<std::byte>> replace(const GuestRange&, const Fill&) override {
        return fail(Error("replace"));
    }
    std::string name() const override { return "none"; }
};

constexpr uint32_t cpus = 3;

// More than comes back of a start's time while a test takes.
constexpr std::chrono::seconds past_the_test{60};

struct Fixture {
    explicit Fixture(uint64_t max_violations = 0)
        : memory(*GuestMemory::create(16_MiB))
        , guard({.memory = memory,
                 .protection = protection,
                 .log = log,
                 .events = events,
                 .symbols = nullptr,
                 .tables_tolerated = false,
                 .end = [this](GuardEnd end) { ended = std::move(end); },
                 .intercept_msr_writes =
                     [this] {
                         order += "filter ";
                         return Result<void>();
                     },
                 .ask_others_to_look = [this](uint32_t caller) { ask(caller); },
                 .sealed = [this] { order += "sealed "; },
                 .ending = ending.get_token()},
                {.max_violations = max_violations, .cpus = cpus}) {}
    int64_t seal(const GuestCpu& cpu) {
        return static_cast<int64_t>(
            guard.hypercall(cpu, {.pages = 1, .attributes = casemate_attributes(CASEMATE_CALL_SEAL, 0, 0)})
                .result);
    }
    void lock() {
        REQUIRE(
            guard
                .hypercall(all[0], {.address = 0x10000,
                                    .pages = 1,
                                    .attributes = casemate_attributes(
                                        CASEMATE_CALL_LOCK, CASEMATE_POLICY_READ_ONLY, CASEMATE_KIND_DATA)})
                .result == 0);
    }
    // SEAL by CPU 0; the others look when they are asked to.
    void seal_all() {
        ask = [this](uint32_t caller) {
            for (const FakeCpu& cpu : all)
                if (cpu.index() != caller)
                    CHECK(!guard.look(cpu));
        };
        REQUIRE(seal(all[0]) == 0);
    }

    Log log{-1};
    EventLog events;
    GuestMemory memory;
    NoProtection protection;
    std::optional<GuardEnd> ended;
    std::string order;
    std::function<void(uint32_t)> ask = [](uint32_t) {};
    std::array<FakeCpu, cpus> all{FakeCpu(0), FakeCpu(1), FakeCpu(2)};
    std::stop_source ending;
    Guard guard;
};

} // namespace

TEST_CASE("SEAL filters MSRs, then pins every vCPU, then is done") {
    Fixture f;
    f.ask = [&f](uint32_t caller) {
        CHECK(caller == 0);
        f.order += "ask ";
        CHECK(!f.guard.look(f.all[1]));
        f.order += "1 ";
        CHECK(!f.guard.look(f.all[2]));
        f.order += "2 ";
    };
    CHECK(!f.guard.look(f.all[1])); // too early: nothing to compare with
    CHECK(f.seal(f.all[0]) == 0);
    CHECK(f.order == "filter ask 1 2 sealed ");
    CHECK(f.guard.counts().audits == 0);
    CHECK(f.seal(f.all[1]) == 0);
    CHECK(f.order == "filter ask 1 2 sealed ");
    for (const FakeCpu& cpu : f.all)
        CHECK(!f.guard.look(cpu));
    CHECK(f.guard.counts().audits == cpus);
}

TEST_CASE("every pinned register's change is found, on the vCPU that made it") {
    struct Change {
        const char* name;
        void (*make)(AuditedState&);
    };
    const std::array changes{
        Change{"CR0.PE", [](AuditedState& s) { s.system.cr0 &= ~bit(0); }},
        Change{"CR0.WP", [](AuditedState& s) { s.system.cr0 &= ~bit(16); }},
        Change{"CR0.PG", [](AuditedState& s) { s.system.cr0 &= ~bit(31); }},
        Change{"CR4.PAE", [](AuditedState& s) { s.system.cr4 &= ~bit(5); }},
        Change{"CR4.UMIP", [](AuditedState& s) { s.system.cr4 &= ~bit(11); }},
        Change{"CR4.LA57", [](AuditedState& s) { s.system.cr4 |= bit(12); }},
        Change{"CR4.SMEP", [](AuditedState& s) { s.system.cr4 &= ~bit(20); }},
        Change{"CR4.SMAP", [](AuditedState& s) { s.system.cr4 &= ~bit(21); }},
        Change{"EFER.SCE", [](AuditedState& s) { s.system.efer &= ~bit(0); }},
        Change{"EFER.LME", [](AuditedState& s) { s.system.efer &= ~bit(8); }},
        Change{"EFER.LMA", [](AuditedState& s) { s.system.efer &= ~bit(10); }},
        Change{"EFER.NXE", [](AuditedState& s) { s.system.efer &= ~bit(11); }},
        Change{"IDTR.base", [](AuditedState& s) { s.system.idt.base += 16; }},
        Change{"IDTR.limit", [](AuditedState& s) { --s.system.idt.limit; }},
        Change{"APIC_BASE", [](AuditedState& s) { s.system.apic_base += 0x1000; }},
        Change{"APIC_BASE", [](AuditedState& s) { s.system.apic_base |= bit(8); }},
        Change{"LSTAR", [](AuditedState& s) { s.msrs[0] ^= 1; }},
        Change{"STAR", [](AuditedState& s) { s.msrs[1] ^= bit(63); }},
        Change{"SFMASK", [](AuditedState& s) { s.msrs[2] = 0; }},
        Change{"CSTAR", [](AuditedState& s) { s.msrs[3] = 0; }},
        Change{"SYSENTER_CS", [](AuditedState& s) { s.msrs[4] = 0; }},
        Change{"SYSENTER_ESP", [](AuditedState& s) { s.msrs[5] = 0; }},
        Change{"SYSENTER_EIP", [](AuditedState& s) { s.msrs[6] = 0; }},
    };
    for (const Change& change : changes) {
        CAPTURE(change.name);
        Fixture f;
        f.all[2].audited.msrs[0] += 0x40; // each has pins of its own
        f.seal_all();
        for (const FakeCpu& cpu : f.all)
            CHECK(!f.guard.look(cpu));
        change.make(f.all[2].audited);
        CHECK(!f.guard.look(f.all[1]));
        if (f.all[2].audited.system.efer == (booted().system.efer & ~bit(8))) { // as INIT does
            CHECK(!f.guard.look(f.all[2]));
            f.all[2].ran += Auditor::start_time + past_the_test;
        }
        const auto end = f.guard.look(f.all[2]);
        REQUIRE(end);
        CHECK(end->reason == GuardEnd::Reason::audit_mismatch);
        CHECK(end->summary.find("audit of vCPU 2: " + std::string(change.name) + " was") == 0);
        CHECK(end->report.find("  register    " + std::string(change.name)) != std::string::npos);
        CHECK(end->report.find("81234567") != std::string::npos);
    }
}

TEST_CASE("what Linux changes after its boot is no difference") {
    Fixture f;
    f.all[0].audited.system.cr4 &= ~bit(20); // SMEP may come later
    f.seal_all();
    const std::array<void (*)(AuditedState&), 10> changes{
        [](AuditedState& s) { s.system.cr4 ^= bit(2) | bit(7) | bit(8) | bit(18); }, // TSD, PGE, PCE, OSXSAVE
        [](AuditedState& s) { s.system.cr4 ^= bit(17) | bit(6) | bit(13); },         // PCIDE, MCE, VMXE
        [](AuditedState& s) { s.system.cr4 |= bit(20); },                            // SMEP
        [](AuditedState& s) { s.system.cr0 ^= bit(1) | bit(3) | bit(5); },           // MP, TS, NE
        [](AuditedState& s) { s.system.cr0 ^= bit(29) | bit(30) | bit(18); },        // NW, CD, AM
        [](AuditedState& s) { s.system.efer ^= bit(14) | bit(12); },                 // FFXSR, SVME
        [](AuditedState& s) { s.system.cr3 ^= 0x1234000; },
        [](AuditedState& s) { s.system.apic_base ^= bit(10); }, // x2APIC
        [](AuditedState& s) { s.system.cr2 = s.system.cr8 = 7; },
        [](AuditedState& s) { s.system.gdt.base = s.system.gs.base = s.system.tr.base = 0x1000; },
    };
    for (const auto change : changes) {
        change(f.all[0].audited);
        CHECK(!f.guard.look(f.all[0]));
    }
    CHECK(f.guard.counts().audits == changes.size());
}

TEST_CASE("a vCPU that waits for its start is nothing to look at, and must not start after SEAL") {
    Fixture f;
    f.all[2].waits = true;
    f.seal_all();
    CHECK(!f.guard.look(f.all[2]));
    // INIT resets what was pinned; Linux parks CPUs so before a reboot.
    f.all[1].audited = reset();
    f.all[1].waits = true;
    CHECK(!f.guard.look(f.all[1]));
    f.all[1].waits = false;
    f.all[2].waits = false;
    const auto started = f.guard.look(f.all[2]);
    REQUIRE(started);
    CHECK(started->reason == GuardEnd::Reason::audit_mismatch);
    CHECK(started->summary.find("has been started since") != std::string::npos);
}

TEST_CASE("SEAL does not return before every vCPU is pinned") {
    Fixture f;
    std::atomic<bool> asked = false;
    std::atomic<bool> returned = false;
    f.ask = [&asked](uint32_t) { asked = true; };
    std::thread caller([&] {
        CHECK(f.seal(f.all[0]) == 0);
        returned = true;
    });
    while (!asked)
        std::this_thread::yield();
    CHECK(!f.guard.look(f.all[1]));
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
    CHECK(!returned);
    // Other calls do not wait for it: a vCPU in one could not look.
    const auto features =
        f.guard
            .hypercall(f.all[2],
                       {.pages = 1, .attributes = casemate_attributes(CASEMATE_CALL_FEATURES, 0, 0)})
            .result;
    CHECK((features & CASEMATE_FEATURE_SEALED) != 0);
    CHECK(!returned);
    CHECK(!f.guard.look(f.all[2]));
    caller.join();
    CHECK(returned);
}

TEST_CASE("vCPUs that SEAL at once wait for each other, not for ever") {
    for (int round = 0; round < 200; ++round) {
        Fixture f;
        std::array<std::thread, cpus> threads;
        for (uint32_t i = 0; i < cpus; ++i)
            threads.at(i) = std::thread([&f, i] { CHECK(f.seal(f.all.at(i)) == 0); });
        for (std::thread& thread : threads)
            thread.join();
        CHECK(f.order == "filter sealed ");
        f.all[1].audited.system.cr0 &= ~bit(16);
        CHECK(!f.guard.look(f.all[0]));
        CHECK(f.guard.look(f.all[1]));
    }
}

TEST_CASE("how late looks come is told, those too that have not come yet") {
    using namespace std::chrono_literals;
    Fixture f;
    f.ask = [&f](uint32_t caller) {
        for (const FakeCpu& cpu : f.all)
            if (cpu.index() != caller)
                CHECK(!f.guard.look(cpu));
    };
    REQUIRE(f.seal(f.all[0]) == 0);
    const auto latest = [&f] {
        return std::chrono::microseconds(f.guard.counts().audit_latest_microseconds);
    };
    const auto now = std::chrono::steady_clock::now();
    const auto hours_late = [&](int hours) {
        return latest() >= 1h * hours && latest() < 1h * hours + 10min;
    };
    CHECK(!f.guard.look(f.all[0])); // nobody has asked
    CHECK(latest() == 0us);
    f.guard.start_audit_round(now - 1h);
    CHECK(!f.guard.look(f.all[0]));
    CHECK(hours_late(1));
    CHECK(!f.guard.look(f.all[0]));
    CHECK(hours_late(1));
    // The others still owe the first round, whatever the second says.
    f.guard.start_audit_round(now - 1h);
    CHECK(!f.guard.look(f.all[1]));
    CHECK(hours_late(1));
    f.guard.start_audit_round(now + 24h);
    f.guard.start_audit_round(now - 2h);
    CHECK(hours_late(1));
    CHECK(!f.guard.look(f.all[0]));
    CHECK(hours_late(1));
    f.guard.start_audit_round(now - 3h);
    CHECK(!f.guard.look(f.all[0]));
    CHECK(hours_late(3));
}

TEST_CASE("the machine's end lets a SEAL go that waits for a vCPU") {
    Fixture f;
    std::atomic<bool> asked = false;
    f.ask = [&asked](uint32_t) { asked = true; };
    int64_t first = 0;
    int64_t second = 0;
    std::thread a([&] { first = f.seal(f.all[0]); });
    while (!asked)
        std::this_thread::yield();
    std::thread b([&] { second = f.seal(f.all[1]); });
    f.ending.request_stop();
    a.join();
    b.join();
    CHECK(first == -CASEMATE_EPERM);
    CHECK(second == -CASEMATE_EPERM);
    CHECK(f.order == "filter ");
}

TEST_CASE("registers that KVM does not tell end the machine as the host's failure") {
    Fixture f;
    SUBCASE("at SEAL") {
        f.all[0].fails = true;
        CHECK(f.seal(f.all[0]) == -CASEMATE_EPERM);
        REQUIRE(f.ended);
        CHECK(f.ended->reason == GuardEnd::Reason::host_failure);
    }
    SUBCASE("later") {
        f.seal_all();
        f.all[0].fails = true;
        const auto end = f.guard.look(f.all[0]);
        REQUIRE(end);
        CHECK(end->reason == GuardEnd::Reason::host_failure);
    }
}

TEST_CASE("a CPU that starts again may write what is pinned, and has a while to conform") {
    Fixture f;
    f.seal_all();
    FakeCpu& cpu = f.all[1];
    const auto may_write = [&](uint32_t index, uint64_t value) {
        return !f.guard.msr_write(cpu, index, value).refused;
    };
    CHECK(may_write(0xc0000080, 0xd01));
    CHECK(may_write(0xc0000080, 0x901)); // LMA is the CPU's own
    CHECK(!may_write(0xc0000080, 0x900));
    CHECK(may_write(0xc0000082, booted().msrs[0]));
    CHECK(!may_write(0xc0000082, booted().msrs[0] + 1));
    CHECK(!may_write(0xc0000101, 0));
    CHECK(cpu.written.size() == 3);
    CHECK(f.guard.counts().restarts == 0);
    CHECK(f.guard.counts().restart_microseconds == 0);

    // INIT and start-up IPI, then the ways of Linux's trampoline.
    cpu.audited = reset();
    cpu.ran = std::chrono::seconds(100);
    CHECK(!f.guard.look(cpu));
    CHECK(f.guard.counts().restarts == 1);
    CHECK(!may_write(0xc0000080, 0x1901)); // SVME was not pinned
    CHECK(!may_write(0xc0000080, 0x101));
    CHECK(may_write(0xc0000080, 0x901));
    cpu.audited.system.efer = 0xd01;
    cpu.audited.system.cr0 = 0x80000001;
    CHECK(!f.guard.look(cpu));
    SUBCASE("its last WRMSR makes it conform") {
        cpu.audited = booted();
        cpu.ran += std::chrono::microseconds(7);
        CHECK(may_write(0xc0000084, booted().msrs[2]));
        cpu.ran += std::chrono::hours(1);
        CHECK(!f.guard.look(cpu));
        CHECK(f.guard.counts().restart_microseconds == 7);
    }
    SUBCASE("it conforms") {
        cpu.audited = booted();
        CHECK(!f.guard.look(cpu));
        CHECK(f.guard.counts().restarts == 1);
        cpu.audited.system.cr0 &= ~bit(16);
        CHECK(f.guard.look(cpu));
    }
    SUBCASE("it takes too long, and starting once more gives it no more") {
        cpu.ran += Auditor::start_time;
        CHECK(!f.guard.look(cpu));
        cpu.audited = reset();
        CHECK(!f.guard.look(cpu));
        cpu.ran += past_the_test; // what came back meanwhile
        const auto end = f.guard.look(cpu);
        REQUIRE(end);
        CHECK(end->summary.find("CR0.PE was 0x1 at SEAL and is 0x0") != std::string::npos);
        CHECK(f.guard.counts().restarts == 1);
    }
    SUBCASE("one that did not run at SEAL may write nothing") {
        Fixture late;
        late.all[1].waits = true;
        late.seal_all();
        CHECK(late.guard.msr_write(late.all[1], 0xc0000080, 0).refused);
        CHECK(late.guard.msr_write(late.all[1], 0xc0000080, 0xd01).refused);
    }
}

namespace {

Auditor::Clock::time_point fake_now;

// One CPU that was pinned, and starts again and again.
struct Starts {
    Auditor auditor{1, {}, [] { return fake_now; }};
    AuditedState found = booted();
    std::chrono::nanoseconds ran{0};
    bool strays = false;

    Starts() {
        auditor.begin();
        auditor.pin(0, booted());
    }
    bool passes() {
        return !auditor.audit(0, found, ran, [this] { return strays; });
    }
    // Runs for this long between INIT and the state that is pinned.
    bool start(std::chrono::nanoseconds time) {
        found = reset();
        const bool began = passes();
        ran += time;
        const bool ended = passes();
        found = booted();
        return began && ended && passes();
    }
    // In long mode, with its protections still to be switched on.
    void enter_long_mode() {
        found.system.cr0 = 0x80000001;
        found.system.efer = 0xd01;
    }
};

} // namespace

TEST_CASE("all starts of a CPU together have what one had, and time brings some of it back") {
    using std::chrono::milliseconds;
    Starts f;
    for (int i = 0; i < 4; ++i)
        CHECK(f.start(milliseconds(500)));
    CHECK(f.auditor.restarts() == 4);
    CHECK(f.auditor.time_in_restarts() == Auditor::start_time);
    SUBCASE("none is left") {
        f.ran += std::chrono::hours(1); // of ordinary work, which brings nothing back
        CHECK(f.passes());
        CHECK(!f.start(milliseconds(1)));
    }
    SUBCASE("a part of the time that goes by comes back") {
        fake_now += Auditor::refill_divisor * milliseconds(10);
        CHECK(f.start(milliseconds(10)));
        CHECK(!f.start(milliseconds(1)));
    }
    SUBCASE("never more than there was") {
        fake_now += std::chrono::hours(24 * 365);
        CHECK(f.start(Auditor::start_time));
        CHECK(!f.start(milliseconds(1)));
    }
    SUBCASE("a start that is settled does not count what comes behind it") {
        fake_now += Auditor::refill_divisor * milliseconds(10);
        f.found = reset();
        CHECK(f.passes());
        f.auditor.settle(0, f.found, f.ran); // not yet over
        CHECK(f.auditor.is_restarting(0));
        f.ran += milliseconds(5);
        f.auditor.settle(0, booted(), f.ran);
        CHECK(!f.auditor.is_restarting(0));
        f.ran += std::chrono::hours(1);
        f.found = booted();
        CHECK(f.passes());
        CHECK(f.start(milliseconds(5)));
        CHECK(!f.start(milliseconds(1)));
    }
}

TEST_CASE("a CPU that starts has page tables in long mode only, and soon the kernel's and its text") {
    using std::chrono::nanoseconds;
    Starts f;
    f.found = reset();
    f.strays = true; // which nobody asks without paging
    CHECK(f.passes());
    f.ran += Auditor::stray_time * 3;
    CHECK(f.passes());
    SUBCASE("32-bit paging") {
        f.found.system.cr0 = 0x80000001;
        CHECK(!f.passes());
    }
    SUBCASE("it goes on to the kernel in time") {
        f.enter_long_mode();
        CHECK(f.passes());
        f.ran += Auditor::stray_time;
        CHECK(f.passes());
        f.strays = false;
        f.ran += std::chrono::milliseconds(500);
        CHECK(f.passes());
        SUBCASE("and comes back later") {
            f.strays = true;
            CHECK(!f.passes());
        }
        SUBCASE("and its next start has as much") {
            f.found = booted();
            CHECK(f.passes());
            f.found = reset();
            CHECK(f.passes());
            f.enter_long_mode();
            f.strays = true;
            CHECK(f.passes());
        }
    }
    SUBCASE("it does not") {
        f.enter_long_mode();
        CHECK(f.passes());
        f.ran += Auditor::stray_time + nanoseconds(1);
        CHECK(!f.passes());
    }
}

TEST_CASE("the local APIC stays where it is, and may change its mode") {
    constexpr uint64_t disabled = 0xfee00000;
    constexpr uint64_t enabled = disabled | apic_base_enable;
    constexpr uint64_t x2apic = enabled | apic_base_x2apic;
    for (const uint64_t boot_cpu : {uint64_t{0}, apic_base_boot_cpu}) {
        const auto may = [boot_cpu](uint64_t now, uint64_t wanted) {
            return may_write_apic_base(now ^ boot_cpu, wanted ^ boot_cpu);
        };
        for (const uint64_t mode : {disabled, enabled, x2apic}) {
            CHECK(may(mode, mode));
            CHECK(may(mode, disabled));
            CHECK(!may(mode, disabled | apic_base_x2apic));
            for (const uint64_t change :
                 {uint64_t{0x1000}, uint64_t{0xfee00000}, uint64_t{1} << 36U, uint64_t{1} << 63U, uint64_t{1},
                  uint64_t{0x200}, apic_base_boot_cpu})
                CHECK(!may(mode, mode ^ change));
        }
        CHECK(may(enabled, x2apic));
        CHECK(may(disabled, enabled));
        CHECK(!may(disabled, x2apic));
        CHECK(!may(x2apic, enabled));
    }
    // Once moved it may not stay there either.
    CHECK(!may_write_apic_base(0x1000 | apic_base_enable, 0x1000 | apic_base_enable));
}

TEST_CASE("a write that moves the local APIC is refused with or without locks, and recorded with them") {
    Fixture f;
    FakeCpu& cpu = f.all[0];
    cpu.audited.system.apic_base = 0xfee00900;
    CHECK(!f.guard.msr_write(cpu, apic_base_msr, 0xfee00d00).refused);
    CHECK(cpu.written.size() == 1);
    const auto before = f.guard.msr_write(cpu, apic_base_msr, 0x1000900);
    CHECK(before.refused);
    CHECK(!before.end);
    CHECK(f.guard.counts().violations == 0);
    f.lock();
    CHECK(!f.guard.msr_write(cpu, apic_base_msr, 0xfee00d00).refused);
    CHECK(f.guard.counts().violations == 0);
    CHECK(f.guard.msr_write(cpu, apic_base_msr, 0x1000900).refused);
    CHECK(f.guard.counts().violations == 1);
    CHECK(cpu.written.size() == 2);
}

TEST_CASE("a refused MSR write is a violation, of no lock") {
    Fixture f(3);
    CHECK(!f.guard.msr_write(f.all[0], 0xc0000082, 0x1234).end);
    CHECK(!f.guard.msr_write(f.all[1], 0xc0000080, 0).end);
    CHECK(f.guard.counts().violations == 2);
    const auto end = f.guard.msr_write(f.all[1], 0x176, 0xabcd).end;
    REQUIRE(end);
    CHECK(end->reason == GuardEnd::Reason::too_many_violations);
    CHECK(end->summary.find("write of 0xabcd to SYSENTER_EIP by vCPU 1") != std::string::npos);
    CHECK(end->report.find("SYSENTER_EIP, MSR 0x176") != std::string::npos);
}

TEST_CASE("the guest may write none of the audited MSRs, nor EFER, nor move its APIC") {
    const auto refused = refused_msrs();
    CHECK(refused.size() == 9);
    for (const uint32_t index : refused)
        CHECK(msr_name(index) != nullptr);
    CHECK(std::ranges::count(refused, 0xc0000080U) == 1);
    CHECK(std::ranges::count(refused, apic_base_msr) == 1);
    CHECK(std::ranges::equal(msrs_refused_at_once, std::array{apic_base_msr}));
    CHECK(msr_name(0xc0000101) == nullptr);
}

TEST_CASE("the audit event names vCPU, register, both values and RIP") {
    AuditDifference difference{
        .vcpu = 3, .name = "LSTAR", .expected = 0x10, .found = 0x20, .state = CpuState{}};
    difference.state->registers.rip = 0x1234;
    difference.state->system.ss.dpl = 3;
    const EventFields fields = event_fields(difference, {});
    const EventFields wanted{{"vcpu", uint64_t{3}}, {"register", "LSTAR"}, {"expected", "0x10"},
                             {"found", "0x20"},     {"rip", "0x1234"},     {"cpl", uint64_t{3}}};
    CHECK(fields == wanted);
    difference.state.reset();
    CHECK(event_fields(difference, {}).size() == 4);
    CHECK(summary(difference, {}) == "audit of vCPU 3: LSTAR was 0x10 at SEAL and is 0x20");
}
