// SPDX-License-Identifier: Apache-2.0
// Prints what separate one-page locks cost: memory of table and process, time of a lookup and of a lock.
#include "guard/lock_table.hpp"
#include "guard/mapping_protection.hpp"

#include <array>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>

namespace {

using namespace casemate;
using Clock = std::chrono::steady_clock;

constexpr uint64_t ram_bytes = 128_MiB;
constexpr uint64_t lookups = 2'000'000;

double nanoseconds_each(Clock::time_point begin, uint64_t count) {
    const std::chrono::duration<double, std::nano> took = Clock::now() - begin;
    return took.count() / static_cast<double>(count);
}

uint64_t lines_of(const char* path) {
    const std::unique_ptr<FILE, int (*)(FILE*)> file(std::fopen(path, "re"), std::fclose);
    uint64_t lines = 0;
    std::array<char, 4096> line{};
    while (file && std::fgets(line.data(), static_cast<int>(line.size()), file.get()) != nullptr)
        ++lines;
    return lines;
}

// A "Name:  123 kB" line of /proc/self/status.
uint64_t status_kib(const char* name) {
    const std::unique_ptr<FILE, int (*)(FILE*)> file(std::fopen("/proc/self/status", "re"), std::fclose);
    std::array<char, 4096> line{};
    while (file && std::fgets(line.data(), static_cast<int>(line.size()), file.get()) != nullptr)
        if (std::strncmp(line.data(), name, std::strlen(name)) == 0)
            return std::strtoull(line.data() + std::strlen(name), nullptr, 10);
    return 0;
}

Result<void> measure(uint64_t locks) {
    GuestMemory memory = TRY(GuestMemory::create(ram_bytes));
    const GuestRange ram = GuestRange::of(GuestPhysical{0}, ram_bytes);
    // Every second page, from the top down: the order that copies most.
    const auto page_of = [&](uint64_t index) {
        return GuestRange::of(GuestPhysical{(2 * (locks - index) - 1) * page_bytes}, page_bytes);
    };
    for (uint64_t address = 0; address < ram.end(); address += page_bytes)
        if (!memory.store(GuestPhysical{address}, address))
            return fail(Error("fill guest RAM"));

    const uint64_t rss_before = status_kib("RssAnon:");
    LockTable table;
    auto begin = Clock::now();
    for (uint64_t i = 0; i < locks; ++i)
        if (!table.add({page_of(i)}))
            return fail(Error("add a lock"));
    const double add_ns = nanoseconds_each(begin, locks);
    const uint64_t table_kib = status_kib("RssAnon:") - rss_before;

    uint64_t address = 0;
    uint64_t allowed = 0;
    begin = Clock::now();
    for (uint64_t i = 0; i < lookups; ++i) {
        address = (address * 6364136223846793005 + 1442695040888963407); // Knuth's MMIX generator
        const uint64_t page = (address >> 33) % (ram_bytes / page_bytes);
        allowed += table.may_write(GuestRange::of(GuestPhysical{page * page_bytes}, 64)) ? 1U : 0U;
    }
    const double lookup_ns = nanoseconds_each(begin, lookups);
    if (allowed == 0 || allowed == lookups)
        return fail(Error("look up locked and free pages alike"));

    const uint64_t areas_before = lines_of("/proc/self/maps");
    MappingProtection protection(memory, GuestMemory::Sealing::never);
    begin = Clock::now();
    for (uint64_t i = 0; i < locks; ++i) {
        const GuestRange page = page_of(i);
        TRY(protection.protect({&page, 1}));
    }
    const double protect_ns = nanoseconds_each(begin, locks);
    std::printf("%7llu %10.1f %10.0f %11llu %12.0f %8llu\n", static_cast<unsigned long long>(locks),
                lookup_ns, add_ns, static_cast<unsigned long long>(table_kib), protect_ns,
                static_cast<unsigned long long>(lines_of("/proc/self/maps") - areas_before));
    return {};
}

} // namespace

int main() {
    std::printf("%7s %10s %10s %11s %12s %8s\n", "locks", "lookup ns", "add ns", "table KiB", "mprotect ns",
                "areas");
    for (const uint64_t locks : {uint64_t{1}, uint64_t{100}, uint64_t{10000}})
        if (const auto measured = measure(locks); !measured) {
            std::fprintf(stderr, "lock_bench: %s\n", measured.error().message().c_str());
            return 1;
        }
    return 0;
}
