// SPDX-License-Identifier: Apache-2.0
// On the KVM of the machine that runs the tests, whatever kind it is; skipped where there is none.
#include "probe/host_probe.hpp"

#include "firmware/probe_guests.hpp"
#include "probe/guest.hpp"
#include "probe/speed.hpp"

#include <chrono>
#include <cstring>
#include <doctest/doctest.h>
#include <vector>

namespace casemate {
namespace {

using std::chrono::milliseconds;

TEST_CASE("the probe code fits its page and keeps the store first") {
    CHECK(probe_code().size() <= page_bytes);
    CHECK(ProbeGuest::address_of(casemate_probe_store_done) - ProbeGuest::address_of(casemate_probe_store) ==
          3);
}

TEST_CASE("the instruction mix computes the same twice and stays in its page") {
    std::vector<std::byte> memory(2 * page_bytes, std::byte{0x5a});
    const uint64_t first = casemate_instruction_mix(memory.data(), 1000);
    CHECK(memory[page_bytes] == std::byte{0x5a});
    std::vector<std::byte> again(page_bytes, std::byte{0x5a});
    CHECK(casemate_instruction_mix(again.data(), 1000) == first);
    CHECK(std::equal(again.begin(), again.end(), memory.begin()));
}

TEST_CASE("every probe comes back and its answers fit each other") {
    const HostReport report = probe_host();
    if (report.access != KvmAccess::open) {
        MESSAGE("no KVM here: ", report.access_error);
        CHECK_FALSE(is_usable(report));
        return;
    }
    CHECK(report.probe_note == "");
    CHECK(report.speed.ratio.value_or(0) > 0);
    CHECK(report.hypercall != HypercallReport::untested);
    CHECK(protection_report(report, ProtectionKind::attributes).store != StoreReport::untested);
    CHECK(protection_report(report, ProtectionKind::slots).store == StoreReport::mmio_past_store);
    CHECK(protection_report(report, ProtectionKind::mapping).walk.tested);
    if (report.kind == KvmKind::software)
        return;
    CHECK(report.speed.useful);
    CHECK(report.hypercall == HypercallReport::exits);
    CHECK(protection_report(report, ProtectionKind::mapping).store == StoreReport::efault_at_store);
    CHECK(report.msr_filter == true);
}

TEST_CASE("a guest that never stops is ended by the watchdog") {
    const auto system = System::open();
    if (!system) {
        MESSAGE("no KVM here");
        return;
    }
    const auto guest = ProbeGuest::create(*system);
    REQUIRE(guest);
    REQUIRE((*guest)->enter(casemate_probe_spin, {}));
    const auto stop = run_probe(*guest, milliseconds(50));
    REQUIRE(stop);
    CHECK(stop->timed_out);
    CHECK(stop->registers.rip == ProbeGuest::address_of(casemate_probe_spin));
    // The signal was that thread's alone: the same guest runs again on another.
    kvm_regs registers{};
    registers.rdi = probe_layout::target.value;
    registers.rsi = 42;
    REQUIRE((*guest)->enter(casemate_probe_store, registers));
    const auto again = run_probe(*guest, milliseconds(5000));
    REQUIRE(again);
    CHECK(again->describe() == "stop 1");
    CHECK((*guest)->memory()[probe_layout::target.value] == std::byte{42});
}

TEST_CASE("a guest without page tables dies and says how") {
    const auto system = System::open();
    if (!system) {
        MESSAGE("no KVM here");
        return;
    }
    const auto guest = ProbeGuest::create(*system);
    REQUIRE(guest);
    std::ranges::fill((*guest)->memory().first<probe_layout::tables.value + page_bytes>(), std::byte{0});
    REQUIRE((*guest)->enter(casemate_probe_store, {}));
    const auto stop = run_probe(*guest, milliseconds(5000));
    REQUIRE(stop);
    CHECK(stop->describe() == "KVM_EXIT_SHUTDOWN");
}

TEST_CASE("a protection that is not offered cannot be had, and one that works was offered") {
    const auto system = System::open();
    if (!system) {
        MESSAGE("no KVM here");
        return;
    }
    const auto vm = system->create_vm();
    REQUIRE(vm);
    for (const ProtectionKind kind : protection_kinds) {
        const ProtectionTrial trial = try_protection(*system, {&kind, 1}).value();
        CHECK(is_offered(kind, *vm) == (trial.report.store != StoreReport::missing));
        CHECK((trial.throwaway != nullptr) == (trial.report.store != StoreReport::missing));
        if (kind == ProtectionKind::slots)
            CHECK(stops_stores(trial.report));
    }
}

TEST_CASE("KVM is asked once for its CPUID, and the answer is the same") {
    const auto system = System::open();
    if (!system) {
        MESSAGE("no KVM here");
        return;
    }
    const auto first = system->supported_cpuid();
    const auto again = system->supported_cpuid();
    REQUIRE(first);
    REQUIRE(again);
    CHECK_FALSE(first->empty());
    CHECK(std::memcmp(first->data(), again->data(), first->size() * sizeof(first->front())) == 0);
}

TEST_CASE("the check at start agrees with the whole probe") {
    const auto system = System::open();
    if (!system) {
        MESSAGE("no KVM here");
        return;
    }
    const SpeedReport quick = probe_speed_at_start(*system);
    if (hardware_kind() != KvmKind::software)
        CHECK(quick.useful);
    else
        CHECK(quick.useful == (quick.ratio.value_or(1e9) <= highest_useful_ratio));
}

} // namespace
} // namespace casemate
