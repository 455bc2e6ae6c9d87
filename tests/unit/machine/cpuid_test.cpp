// SPDX-License-Identifier: Apache-2.0
#include "machine/cpuid.hpp"

#include <algorithm>
#include <doctest/doctest.h>

namespace casemate {
namespace {

kvm_cpuid_entry2 leaf(uint32_t function, uint32_t eax, uint32_t ebx, uint32_t ecx, uint32_t edx,
                      uint32_t index = 0) {
    kvm_cpuid_entry2 entry{};
    entry.function = function;
    entry.index = index;
    entry.eax = eax;
    entry.ebx = ebx;
    entry.ecx = ecx;
    entry.edx = edx;
    return entry;
}

const kvm_cpuid_entry2& find(const std::vector<kvm_cpuid_entry2>& entries, uint32_t function,
                             uint32_t index = 0) {
    const auto found = std::ranges::find_if(
        entries, [&](const auto& entry) { return entry.function == function && entry.index == index; });
    REQUIRE(found != entries.end());
    return *found;
}

bool has(const std::vector<kvm_cpuid_entry2>& entries, uint32_t function) {
    return std::ranges::count(entries, function, &kvm_cpuid_entry2::function) != 0;
}

const std::vector<kvm_cpuid_entry2> supported{
    leaf(0, 0xd, 0, 0, 0),
    leaf(1, 0, 0, ~0U, ~0U),
    leaf(4, 0x21, 0, 0, 0, 0),
    leaf(4, 0x63, 0, 0, 0, 3),
    leaf(5, 1, 1, 1, 1),
    leaf(6, ~0U, ~0U, ~0U, ~0U),
    leaf(7, 0, ~0U, 0, 0),
    leaf(0xa, 1, 1, 1, 1),
    leaf(0xb, 9, 9, 9, 9),
    leaf(0x1f, 1, 1, 1, 1),
    leaf(0x40000001, ~0U, 0, 0, 0),
    leaf(0x80000001, 0, 0, ~0U, 0),
    leaf(0x80000008, 0, 0, 0, 0),
    leaf(0x8000000a, 1, 1, 1, 1),
    leaf(0x8000001e, 9, 9, 9, 0),
};

TEST_CASE("every vCPU carries its own APIC id in each leaf that names one") {
    const auto entries = make_cpuid(supported, {.cpu = 5, .cpus = 8});
    CHECK((find(entries, 1).ebx >> 24) == 5);
    CHECK(((find(entries, 1).ebx >> 16) & 0xff) == 8);
    CHECK(find(entries, 0xb, 0).edx == 5);
    CHECK(find(entries, 0xb, 1).edx == 5);
    CHECK(find(entries, 0x8000001e).eax == 5);
}

TEST_CASE("the topology is one package of cores with one thread each") {
    for (const uint32_t cpus : {1U, 2U, 3U, 8U, 32U}) {
        CAPTURE(cpus);
        const auto entries = make_cpuid(supported, {.cpu = 0, .cpus = cpus});
        const auto& threads = find(entries, 0xb, 0);
        CHECK((threads.ecx >> 8) == 1);
        CHECK(threads.eax == 0);
        CHECK(threads.ebx == 1);
        const auto& cores = find(entries, 0xb, 1);
        CHECK((cores.ecx >> 8) == 2);
        CHECK((1U << cores.eax) >= cpus);
        CHECK((1U << cores.eax) < 2 * cpus);
        CHECK(cores.ebx == cpus);
        CHECK((find(entries, 0xb, 2).ecx >> 8) == 0);
        CHECK((find(entries, 1).edx >> 28 & 1) == (cpus > 1 ? 1U : 0U));
        CHECK((find(entries, 0x80000008).ecx & 0xff) == cpus - 1);
        // The first-level cache is each core's own, the third level everyone's.
        CHECK((find(entries, 4, 0).eax >> 14 & 0xfff) == 0);
        CHECK((find(entries, 4, 3).eax >> 14 & 0xfff) + 1 == (1U << cores.eax));
    }
}

TEST_CASE("what the machine does not have is not shown") {
    const auto entries = make_cpuid(supported, {.cpu = 0, .cpus = 1});
    for (const uint32_t absent : {0x5U, 0xaU, 0x1fU, 0x8000000aU})
        CHECK_FALSE(has(entries, absent));
    const uint32_t features = find(entries, 1).ecx;
    for (const unsigned absent : {3U, 5U, 24U})
        CHECK((features >> absent & 1) == 0);
    CHECK((features >> 21 & 1) == 1);
    CHECK((features >> 31 & 1) == 1);
    CHECK((features >> 2 & 1) == 0);              // DTES64
    CHECK((find(entries, 1).edx >> 21 & 1) == 0); // debug store
    CHECK((find(entries, 0x80000001).ecx >> 2 & 1) == 0);
    CHECK(find(entries, 6).eax == 4);
    CHECK((find(entries, 0x40000001).eax >> 15 & 1) == 0);
}

TEST_CASE("the deadline timer is shown when KVM has it") {
    const auto entries = make_cpuid(supported, {.cpu = 0, .cpus = 1, .tsc_deadline_timer = true});
    CHECK((find(entries, 1).ecx >> 24 & 1) == 1);
}

} // namespace
} // namespace casemate
