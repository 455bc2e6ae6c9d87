// SPDX-License-Identifier: Apache-2.0
#include "guard/paravirtual.hpp"

#include "guard/report.hpp"
#include "guard_fakes.hpp"

#include <algorithm>
#include <array>
#include <doctest/doctest.h>
#include <string>

namespace casemate::synthetic {
namespace {

constexpr uint32_t wall_clock = 0x4b564d00, system_time = 0x4b564d01, async_page_fault = 0x4b564d02,
                   steal_time = 0x4b564d03, end_of_interrupt = 0x4b564d04;

std::optional<GuestRange> range_of(uint32_t index, uint64_t value) {
    const ParavirtualMsr* const msr = find_paravirtual_msr(index);
    REQUIRE(msr != nullptr);
    return written_by_kvm(*msr, value);
}

size_t place_of(uint32_t index) {
    return static_cast<size_t>(find_paravirtual_msr(index) - paravirtual_msrs.data());
}

struct Fixture : RootFixture {
    Fixture()
        : RootFixture(true) {}
    int64_t lock_page(uint64_t page, uint64_t policy = CASEMATE_POLICY_READ_ONLY) {
        return lock(page, 1, CASEMATE_KIND_DATA, policy);
    }
    void aim(uint32_t msr, uint64_t value) { cpu.paravirtual.at(place_of(msr)) = value; }
    int64_t seal() { return call(casemate_attributes(CASEMATE_CALL_SEAL, 0, 0)); }
    uint64_t violations() const { return guard.counts().violations; }
};

TEST_CASE("an MSR says where KVM writes, and how much") {
    CHECK(range_of(wall_clock, 0x1004)->start().value == 0x1004);
    CHECK(range_of(0x11, 0x1004)->bytes() == 12);
    CHECK(range_of(system_time, 0x1001)->start().value == 0x1000);
    CHECK(range_of(0x12, 0x1001)->bytes() == 32);
    CHECK(range_of(async_page_fault, 0x104d)->start().value == 0x1040);
    CHECK(range_of(steal_time, 0x1041)->start().value == 0x1040);
    CHECK(range_of(end_of_interrupt, 0x1fff)->start().value == 0x1ffe);
    CHECK(range_of(end_of_interrupt, 0x1fff)->end() == 0x1fff);
    // Switched off.
    for (const uint32_t index : {system_time, async_page_fault, steal_time, end_of_interrupt})
        CHECK(!range_of(index, 0x1040));
    CHECK(!range_of(wall_clock, 0));
    // No such address.
    CHECK(!range_of(wall_clock, ~uint64_t{0}));
    CHECK(find_paravirtual_msr(0x4b564d05) == nullptr);
    CHECK(find_paravirtual_msr(0x10) == nullptr);
    CHECK(find_paravirtual_msr(0) == nullptr);
}

TEST_CASE("all of them are intercepted, under both of their numbers, and no MSR twice") {
    auto indices = intercepted_msrs();
    for (const uint32_t index : {0x11U, 0x12U, wall_clock, system_time, async_page_fault, steal_time,
                                 end_of_interrupt, 0xc0000082U, 0xc0000080U})
        CHECK(std::ranges::count(indices, index) == 1);
    CHECK(indices.size() == refused_msrs().size() + 7);
    std::ranges::sort(indices);
    CHECK(std::ranges::adjacent_find(indices) == indices.end());
}

TEST_CASE("LOCK finds what KVM is to write for its caller into the page, to the byte") {
    struct Form {
        uint32_t msr;
        uint64_t value;
        bool hits;
    };
    constexpr uint64_t page = 0x500000;
    const std::array forms{
        Form{steal_time, page | 1, true},
        Form{steal_time, (page + page_bytes - 64) | 1, true},
        Form{steal_time, (page + page_bytes) | 1, false},
        Form{steal_time, (page - 64) | 1, false},
        Form{steal_time, page, false},
        Form{wall_clock, page - 11, true}, // its last byte
        Form{wall_clock, page - 12, false},
        Form{system_time, (page + 0x800) | 1, true},
        Form{async_page_fault, page | 9, true},
        Form{end_of_interrupt, (page + page_bytes - 2) | 1, true},
        Form{end_of_interrupt, (page + page_bytes) | 1, false},
    };
    for (const Form& form : forms) {
        CAPTURE(form.msr);
        CAPTURE(form.value);
        Fixture f;
        f.aim(form.msr, form.value);
        CHECK(f.lock_page(page) == 0);
        CHECK(!f.ended);
        CHECK(f.violations() == (form.hits ? 1 : 0));
    }
}

TEST_CASE("it is told once as long as it stays, and again when it comes back") {
    Fixture f;
    constexpr uint64_t page = 0x500000;
    f.aim(steal_time, page | 1);
    CHECK(f.lock_page(page) == 0);
    CHECK(f.lock_page(page + page_bytes) == 0);
    CHECK(f.seal() == 0);
    for (int i = 0; i < 3; ++i)
        CHECK(!f.guard.look(f.cpu));
    CHECK(f.violations() == 1);
    f.aim(steal_time, (page + 64) | 1);
    CHECK(!f.guard.look(f.cpu));
    CHECK(f.violations() == 2);
    f.aim(steal_time, 0);
    CHECK(!f.guard.look(f.cpu));
    f.aim(steal_time, (page + 64) | 1);
    f.aim(system_time, page | 1);
    CHECK(!f.guard.look(f.cpu));
    CHECK(f.violations() == 4);
}

TEST_CASE("die_on_write ends the machine, at LOCK, SEAL and an audit") {
    constexpr uint64_t page = 0x500000;
    const auto dies = [](const std::optional<GuardEnd>& end) {
        const GuardEnd found = must_be(end);
        CHECK(found.reason == GuardEnd::Reason::die_on_write);
        CHECK(found.summary.find(
                  "die-on-write data at gpa:0x500000: KVM's write of the steal time, by 0x500001 in "
                  "MSR 0x4b564d03 of vCPU 0") == 0);
        CHECK(found.report.find("KVM itself was told to write to memory locked as data, die-on-write,") == 0);
        CHECK(found.report.find("  register    steal time, MSR 0x4b564d03") != std::string::npos);
    };
    Fixture f;
    SUBCASE("at LOCK") {
        f.aim(steal_time, page | 1);
        CHECK(f.lock_page(page, CASEMATE_POLICY_DIE_ON_WRITE) == 0);
        dies(f.ended);
    }
    SUBCASE("at SEAL") {
        CHECK(f.lock_page(page, CASEMATE_POLICY_DIE_ON_WRITE) == 0);
        f.aim(steal_time, page | 1);
        CHECK(f.seal() == 0);
        dies(f.ended);
    }
    SUBCASE("at an audit") {
        CHECK(f.lock_page(page, CASEMATE_POLICY_DIE_ON_WRITE) == 0);
        CHECK(f.seal() == 0);
        CHECK(!f.ended);
        f.aim(steal_time, page | 1);
        dies(f.guard.look(f.cpu));
    }
    SUBCASE("when a lock is raised to it") {
        f.aim(steal_time, page | 1);
        CHECK(f.lock_page(page) == 0);
        CHECK(!f.ended);
        CHECK(f.lock_page(page, CASEMATE_POLICY_DIE_ON_WRITE) == 0);
        dies(f.ended);
    }
}

TEST_CASE("after SEAL a WRMSR that has KVM write to a lock is refused, any other is made") {
    Fixture f;
    constexpr uint64_t page = 0x500000;
    CHECK(f.lock_page(page) == 0);
    CHECK(f.seal() == 0);
    for (const uint32_t index :
         {0x11U, 0x12U, wall_clock, system_time, async_page_fault, steal_time, end_of_interrupt}) {
        CAPTURE(index);
        const uint64_t before = f.violations();
        auto write = f.guard.msr_write(f.cpu, index, page | 1);
        CHECK(write.refused);
        CHECK(!write.end);
        CHECK(f.violations() == before + 1);
        write = f.guard.msr_write(f.cpu, index, (page + page_bytes) | 1);
        CHECK(!write.refused);
        CHECK(!f.guard.msr_write(f.cpu, index, 0).refused);
        CHECK(f.violations() == before + 1);
    }
    // What KVM does not take raises #GP, and is no violation.
    f.cpu.refuses_msr_writes = true;
    const auto write = f.guard.msr_write(f.cpu, steal_time, 0x3e);
    CHECK(write.refused);
    CHECK(!write.end);
    CHECK(f.violations() == 7);
}

TEST_CASE("what KVM does not have is nothing to look at") {
    Fixture f;
    CHECK(f.lock_page(0) == 0);
    CHECK(f.seal() == 0);
    CHECK(!f.guard.look(f.cpu));
    CHECK(f.violations() == 0);
}

TEST_CASE("the event has the lock, the address and the MSR") {
    const Violation violation{.source = ViolationSource::kvm_write,
                              .lock = Lock{.range = GuestRange::of({0x1000}, page_bytes),
                                           .policy = LockPolicy::read_only,
                                           .kind = LockKind::rodata},
                              .address = GuestPhysical{0x1040},
                              .bytes = 64,
                              .value = 0x1041,
                              .msr = steal_time,
                              .vcpu = 1};
    const EventFields wanted{{"source", "kvm_write"},  {"policy", "read_only"},       {"kind", "rodata"},
                             {"gpa", "0x1040"},        {"register", "steal time"},    {"msr", "0x4b564d03"},
                             {"bytes", uint64_t{64}},  {"value", "0x1041"},           {"vcpu", uint64_t{1}},
                             {"lock_start", "0x1000"}, {"lock_bytes", uint64_t{4096}}};
    CHECK(event_fields(violation, {}) == wanted);
}

} // namespace
} // namespace casemate::synthetic
