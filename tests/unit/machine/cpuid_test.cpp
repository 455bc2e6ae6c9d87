// SPDX-License-Identifier: Apache-2.0
#include "machine/cpuid.hpp"

#include "guard/casemate_abi.h"
#include "recorded_cpuid.hpp"

#include <algorithm>
#include <bit>
#include <cstring>
#include <doctest/doctest.h>
#include <set>
#include <string>
#include <utility>

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
    leaf(0, 0xd, 0x68747541, 0x444d4163, 0x69746e65),
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
    CHECK((find(entries, 7).ebx & 0x02009004) == 0); // SGX, resource monitoring and allocation, trace
}

TEST_CASE("the deadline timer is shown when KVM has it") {
    const auto entries = make_cpuid(supported, {.cpu = 0, .cpus = 1, .tsc_deadline_timer = true});
    CHECK((find(entries, 1).ecx >> 24 & 1) == 1);
}

struct Host {
    const char* name;
    std::span<const kvm_cpuid_entry2> supported;
    bool amd;
    bool constant_tsc;
};
const std::array hosts{Host{"EPYC 9005", epyc_9005, true, true}, Host{"EPYC 7001", epyc_7001, true, false},
                       Host{"Core M-5Y70", core_5y70, false, true}};

// For each number of CPUs each of them.
template <typename Check>
void on_each_cpu(const Host& host, CpuidOptions options, Check check) {
    for (options.cpus = 1; options.cpus <= 32; ++options.cpus)
        for (options.cpu = 0; options.cpu < options.cpus; ++options.cpu) {
            CAPTURE(host.name);
            CAPTURE(options.cpus);
            CAPTURE(options.cpu);
            check(make_cpuid(host.supported, options), options);
        }
}

TEST_CASE("no leaf is there twice or beyond the largest of its kind") {
    for (const Host& host : hosts)
        for (const bool locks : {false, true})
            on_each_cpu(host, {.locks = locks, .tsc_khz = 2000000}, [](const auto& entries, const auto&) {
                std::set<std::pair<uint32_t, uint32_t>> seen;
                for (const kvm_cpuid_entry2& entry : entries) {
                    CAPTURE(entry.function);
                    CHECK(seen.emplace(entry.function, entry.index).second);
                    if (entry.function <= 0x4000ffff || entry.function >= 0x80000000)
                        CHECK(entry.function <= find(entries, entry.function & 0xffffff00).eax);
                }
            });
}

TEST_CASE("the processor has the name it was given") {
    for (const Host& host : hosts) {
        const auto entries = make_cpuid(
            host.supported, {.brand = make_brand("Some Processor, 47 characters long, the last #")});
        std::string name;
        for (const uint32_t i : {0x80000002U, 0x80000003U, 0x80000004U}) {
            const auto& entry = find(entries, i);
            for (const uint32_t four : {entry.eax, entry.ebx, entry.ecx, entry.edx})
                name.append(reinterpret_cast<const char*>(&four), sizeof(four));
        }
        CHECK(std::string(name.c_str()) == "Some Processor, 47 characters long, the last #");
    }
}

// SDM Vol. 2A and APM Vol. 3: leaf 0x4 and 0x8000001d count the APIC ids that share a cache, less one.
TEST_CASE("each core has its own first two levels of cache, and the third is everyone's") {
    for (const Host& host : hosts)
        on_each_cpu(host, {}, [&](const auto& entries, const CpuidOptions& options) {
            unsigned caches = 0;
            for (const kvm_cpuid_entry2& entry : entries) {
                if (entry.function != (host.amd ? 0x8000001d : 4))
                    continue;
                CAPTURE(entry.index);
                REQUIRE((entry.eax & 0x1f) != 0);
                ++caches;
                const uint32_t ids = (entry.eax >> 14 & 0xfff) + 1;
                CHECK(ids == ((entry.eax >> 5 & 7) < 3 ? 1 : std::bit_ceil(options.cpus)));
                // Its size is the host's.
                const auto original = std::ranges::find_if(host.supported, [&](const auto& other) {
                    return other.function == entry.function && other.index == entry.index;
                });
                CHECK(original->ebx == entry.ebx);
                CHECK(original->ecx == entry.ecx);
                if (!host.amd)
                    CHECK((entry.eax >> 26) + 1 == std::bit_ceil(options.cpus));
            }
            CHECK(caches == 4);
        });
}

TEST_CASE("the end of a list of caches stays one") {
    const std::vector list{leaf(0, 0x1f, 0, 0, 0), leaf(4, 0, 0, 0, 0, 4), leaf(0x8000001d, 0, 0, 0, 0, 4)};
    const auto entries = make_cpuid(list, {.cpus = 8});
    CHECK(find(entries, 4, 4).eax == 0);
    CHECK(find(entries, 0x8000001d, 4).eax == 0);
}

TEST_CASE("a fourth level of cache is everyone's as well") {
    const auto entries = make_cpuid(std::array{leaf(4, 0x83, 0, 0, 0, 4)}, {.cpus = 8});
    CHECK((find(entries, 4, 4).eax >> 14 & 0xfff) == 7);
}

TEST_CASE("an AMD processor counts its cores in leaves of its own, which others reserve") {
    for (const Host& host : hosts)
        on_each_cpu(host, {}, [&](const auto& entries, const CpuidOptions& options) {
            const uint32_t sizes = find(entries, 0x80000008).ecx;
            const bool legacy = (find(entries, 0x80000001).ecx & 2) != 0;
            CHECK(legacy == (host.amd && options.cpus > 1));
            if (!host.amd) {
                CHECK(sizes == 0);
                return;
            }
            CHECK((sizes & 0xff) + 1 == options.cpus);
            CHECK((1U << (sizes >> 12 & 0xf)) == std::bit_ceil(options.cpus));
        });
}

TEST_CASE("the time stamp counter's pace is constant where KVM says so and knows its frequency") {
    for (const Host& host : hosts)
        for (const std::optional<uint32_t> khz : {std::optional<uint32_t>(), std::optional(2596120U)}) {
            CAPTURE(host.name);
            const auto entries = make_cpuid(host.supported, {.tsc_khz = khz});
            const bool known = khz && host.constant_tsc;
            const auto power = std::ranges::find(entries, 0x80000007, &kvm_cpuid_entry2::function);
            CHECK((power != entries.end() && power->edx == 0x100) == known);
            CHECK(find(entries, 0x40000000).eax == (known ? 0x40000010 : 0x40000001));
            CHECK(has(entries, 0x40000010) == known);
            if (known) {
                CHECK(find(entries, 0x40000010).eax == 2596120);
                CHECK(find(entries, 0x40000010).ebx == 1000000);
            }
            CHECK_FALSE(has(entries, 0x15)); // AMD has none, and the Intel processor no such leaf
        }
}

TEST_CASE("an Intel processor with a leaf for it tells the counter's ratio to its crystal") {
    std::vector list(core_5y70.begin(), core_5y70.end());
    list.front().eax = 0x16;
    list.push_back(leaf(0x15, 9, 9, 9, 9));
    list.push_back(leaf(0x16, 9, 9, 9, 9));
    const auto entries = make_cpuid(list, {.tsc_khz = 2596120});
    const auto& ratio = find(entries, 0x15);
    CHECK(uint64_t{ratio.ecx} * ratio.ebx / ratio.eax == 2596120000);
    CHECK(ratio.ecx == 1000000000);
    CHECK_FALSE(has(entries, 0x16));
    CHECK_FALSE(has(make_cpuid(list, {}), 0x15));
}

TEST_CASE("of KVM's own features only known ones are offered, whatever KVM adds") {
    auto list = supported;
    list.push_back(leaf(0x40000000, 0x40000005, 0x4b4d564b, 0x564b4d56, 0x4d));
    list.push_back(leaf(0x40000002, ~0U, ~0U, ~0U, ~0U));
    list.push_back(leaf(0x40000100, ~0U, ~0U, ~0U, ~0U));
    for (kvm_cpuid_entry2& entry : list)
        if (entry.function == 0x40000001)
            entry = leaf(0x40000001, ~0U, ~0U, ~0U, ~0U);
    const auto entries = make_cpuid(list, {});
    // Linux's include/uapi/asm/kvm_para.h: 0, 1, 3 to 7, 9 to 14 and 24.
    CHECK(find(entries, 0x40000001).eax == 0x01007efb);
    CHECK(find(entries, 0x40000001).ebx == 0);
    CHECK(find(entries, 0x40000001).ecx == 0);
    CHECK(find(entries, 0x40000001).edx == 0);
    CHECK(find(entries, 0x40000000).eax == 0x40000001);
    CHECK_FALSE(has(entries, 0x40000002));
    CHECK_FALSE(has(entries, 0x40000100));
    // Nothing of what Linux 6.12 offers is lost.
    for (const Host& host : hosts)
        CHECK(find(make_cpuid(host.supported, {}), 0x40000001).eax == 0x01007efb);
}

// guard/casemate_abi.h, "Discovery".
TEST_CASE("a guest finds the lock interface beside KVM's leaves") {
    for (const Host& host : hosts)
        for (const bool locks : {false, true}) {
            const auto entries = make_cpuid(host.supported, {.locks = locks, .tsc_khz = 2000000});
            uint32_t found = 0;
            for (uint32_t base = 0x40000000; base <= 0x4000ff00; base += 0x100) {
                if (!has(entries, base))
                    continue;
                const auto& entry = find(entries, base);
                const std::array words{entry.ebx, entry.ecx, entry.edx};
                if (std::memcmp(words.data(), CASEMATE_CPUID_SIGNATURE, sizeof(words)) == 0)
                    found = base;
            }
            CHECK(found == (locks ? 0x40000100U : 0U));
            if (locks)
                CHECK(find(entries, found + 1).eax == CASEMATE_ABI_VERSION);
        }
}

TEST_CASE("the state components of XSAVE are those KVM names") {
    for (const Host& host : hosts) {
        const auto entries = make_cpuid(host.supported, {.cpus = 4});
        for (const kvm_cpuid_entry2& entry : host.supported)
            if (entry.function == 0xd)
                CHECK(std::memcmp(&find(entries, 0xd, entry.index), &entry, sizeof(entry)) == 0);
    }
}

} // namespace
} // namespace casemate
