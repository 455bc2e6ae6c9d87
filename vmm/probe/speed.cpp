// SPDX-License-Identifier: Apache-2.0
#include "probe/speed.hpp"

#include "firmware/probe_guests.hpp"
#include "probe/guest.hpp"
#include "probe/host_probe.hpp"
#include "probe/watchdog.hpp"

#include <algorithm>
#include <array>
#include <chrono>
#include <cpuid.h>

namespace casemate {
namespace {

using Clock = std::chrono::steady_clock;

// Some 100,000 instructions: 30 microseconds at native speed, so that entering and leaving the guest does not
// show; 30 milliseconds on a KVM that interprets.
constexpr uint64_t rounds = 4000;
// The fastest counts: the machine may be busy.
constexpr int attempts = 3;
constexpr std::chrono::milliseconds speed_limit{1000};

struct Timed {
    Clock::duration time;
    uint64_t checksum;
};

Result<Timed> time_guest_once(ProbeGuest& guest) {
    std::ranges::fill(guest.memory().subspan(probe_layout::target.value), std::byte{0});
    kvm_regs registers{};
    registers.rdi = probe_layout::target.value;
    registers.rsi = rounds;
    TRY(guest.enter(casemate_probe_speed, registers));
    const ProbeStop warm = TRY(guest.run_here());
    if (warm.al != 1)
        return fail(Error("warm up: " + warm.describe()));
    const Clock::time_point start = Clock::now();
    const ProbeStop done = TRY(guest.run_here());
    const Clock::time_point end = Clock::now();
    if (done.al != 2)
        return fail(Error("run the instruction mix: " + done.describe()));
    return Timed{end - start, done.registers.rbx};
}

Result<Timed> time_guest(ProbeGuest& guest) {
    Timed best = TRY(time_guest_once(guest));
    for (int i = 1; i < attempts; ++i)
        best.time = std::min(best.time, TRY(time_guest_once(guest)).time);
    return best;
}

Timed time_host() {
    Timed best{Clock::duration::max(), 0};
    alignas(page_bytes) std::array<std::byte, page_bytes> page{};
    for (int i = 0; i < attempts; ++i) {
        page.fill(std::byte{0});
        constexpr uint64_t warm_up_rounds = 16; // as the guest does
        casemate_instruction_mix(page.data(), warm_up_rounds);
        const Clock::time_point start = Clock::now();
        best.checksum = casemate_instruction_mix(page.data(), rounds);
        best.time = std::min(best.time, Clock::now() - start);
    }
    return best;
}

} // namespace

KvmKind hardware_kind() {
    unsigned a = 0;
    unsigned b = 0;
    unsigned c = 0;
    unsigned d = 0;
    // SDM volume 2A, "CPUID": leaf 1, ECX. APM volume 3, "Feature Identifiers": leaf 0x80000001, ECX.
    constexpr unsigned vmx_bit = 1U << 5U;
    constexpr unsigned svm_bit = 1U << 2U;
    if (__get_cpuid(1, &a, &b, &c, &d) != 0 && (c & vmx_bit) != 0)
        return KvmKind::vmx;
    if (__get_cpuid(0x80000001, &a, &b, &c, &d) != 0 && (c & svm_bit) != 0)
        return KvmKind::svm;
    return KvmKind::software;
}

Result<double> measure_speed_ratio(const System& system) {
    const std::shared_ptr<ProbeGuest> guest = TRY(ProbeGuest::create(system));
    const auto timed = std::make_shared<Result<Timed>>(fail(Error("speed probe never ran")));
    const BoundedEnd end =
        TRY(run_bounded([guest, timed] { *timed = time_guest(*guest); }, speed_limit, interrupt_grace));
    if (end == BoundedEnd::abandoned)
        return fail(Error("stop the speed probe: KVM_RUN ignores signals"));
    const Timed in_guest = TRY(std::move(*timed));
    const Timed in_host = time_host();
    if (in_guest.checksum != in_host.checksum)
        return fail(Error("compare the speed probe's results: the guest computed something else"));
    return std::chrono::duration<double>(in_guest.time) /
           std::max(std::chrono::duration<double>(in_host.time), std::chrono::duration<double>(1e-9));
}

SpeedReport probe_speed_at_start(const System& system) {
    SpeedReport report;
    if (hardware_kind() != KvmKind::software) {
        report.useful = true;
        return report;
    }
    if (const auto ratio = measure_speed_ratio(system)) {
        report.ratio = *ratio;
        report.useful = *ratio <= highest_useful_ratio;
    }
    return report;
}

} // namespace casemate
