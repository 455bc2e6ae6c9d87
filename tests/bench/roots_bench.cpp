// SPDX-License-Identifier: Apache-2.0
// Prints what a root check costs, with and without page-table isolation, writing an entry of a root in an
// arena, and comparing tables with their golden copies.
#include "guard/golden_tables.hpp"
#include "guard/mapping_protection.hpp"
#include "guard/root_arena.hpp"
#include "guard/roots.hpp"

#include <chrono>
#include <cstdio>

namespace {

using namespace casemate;
using Clock = std::chrono::steady_clock;

constexpr uint64_t ram_bytes = 128_MiB;
constexpr uint64_t checks = 1'000'000;
constexpr uint64_t root_writes = 1'000'000;
constexpr uint64_t compared_pages = 1'000'000;
constexpr size_t first_slot = 273;
constexpr PagingMode mode{.paging = true, .pae = true, .long_mode = true, .no_execute = true};

double nanoseconds_each(Clock::time_point begin, uint64_t count) {
    const std::chrono::duration<double, std::nano> took = Clock::now() - begin;
    return took.count() / static_cast<double>(count);
}

// Roots as a guest of `ram_bytes` has them: a dozen slots in use.
Result<void> make_root(const GuestMemory& memory, uint64_t root) {
    for (const size_t slot : {273U, 274U, 300U, 301U, 420U, 508U, 509U, 510U, 511U})
        if (!memory.store(GuestPhysical{root + 8 * slot}, (1_MiB + slot * page_bytes) | 0x63))
            return fail(Error("write a root"));
    if (!memory.store(GuestPhysical{root}, 2_MiB | 0x67 | entry_no_execute))
        return fail(Error("write a root"));
    return {};
}

Result<double> measure(bool pair) {
    const GuestMemory memory = TRY(GuestMemory::create(ram_bytes));
    // Many, as checks come when another process gets its turn: its root is not in the first cache.
    constexpr uint64_t roots_bytes = uint64_t{64} * 2 * page_bytes;
    for (uint64_t root = 16_MiB; root < 16_MiB + roots_bytes; root += page_bytes)
        TRY(make_root(memory, root));
    Roots roots(memory);
    if (!roots.reference({.root = {16_MiB}, .pair = pair, .first_slot = first_slot}, mode, {},
                         [](GuestPhysical) { return true; }))
        return fail(Error("take a reference"));
    const auto begin = Clock::now();
    for (uint64_t i = 0; i < checks; ++i)
        if (roots.check(16_MiB + i * 2 * page_bytes % roots_bytes, mode))
            return fail(Error("check a root that matches"));
    return nanoseconds_each(begin, checks);
}

// Of tables that are full, a page.
Result<double> measure_golden(uint64_t pages) {
    const GuestMemory memory = TRY(GuestMemory::create(ram_bytes));
    for (uint64_t address = 16_MiB; address < 16_MiB + pages * page_bytes; address += 8)
        if (!memory.store(GuestPhysical{address}, (address << 12U) | 0x63))
            return fail(Error("write a table"));
    GoldenTables golden(memory);
    const GuestRange range = GuestRange::of({16_MiB}, pages * page_bytes);
    if (!golden.add({&range, 1}))
        return fail(Error("copy the tables"));
    const uint64_t rounds = compared_pages / pages;
    const auto begin = Clock::now();
    for (uint64_t i = 0; i < rounds; ++i)
        if (!golden.compare(pages).empty())
            return fail(Error("compare tables that are equal"));
    return nanoseconds_each(begin, rounds * pages);
}

// Links and takes out by turns, each slot of each root; without what shadow paging adds.
Result<double> measure_arena(bool pair) {
    GuestMemory memory = TRY(GuestMemory::create(ram_bytes));
    MappingProtection protection(memory, GuestMemory::Sealing::never);
    constexpr uint64_t arena_pages = 512;
    auto arena = TRY(RootArena::create(GuestRange::of({16_MiB}, arena_pages * page_bytes),
                                       {.pair = pair, .no_execute = true}, protection, nullptr));
    const auto begin = Clock::now();
    for (uint64_t i = 0; i < root_writes; ++i) {
        const uint64_t root = i / 2 % arena->roots();
        const uint64_t slot = i / 2 / arena->roots() % first_upper_slot;
        if (!(i % 2 == 0 ? arena->link(root, slot, {32_MiB}) : arena->take_out(root, slot)))
            return fail(Error("write an entry of a root"));
    }
    return nanoseconds_each(begin, root_writes);
}

bool print(const char* what, const Result<double>& nanoseconds) {
    if (!nanoseconds)
        std::fprintf(stderr, "roots_bench: %s\n", nanoseconds.error().message().c_str());
    else
        std::printf("%-32s %10.1f\n", what, *nanoseconds);
    return nanoseconds.has_value();
}

} // namespace

int main() {
    std::printf("%-32s %10s\n", "", "ns");
    const bool done = print("root check", measure(false)) &&
                      print("root check, with isolation", measure(true)) &&
                      print("an entry of a root", measure_arena(false)) &&
                      print("an entry of a pair", measure_arena(true)) &&
                      print("a table page, of 16", measure_golden(16)) &&
                      print("a table page, of 1024", measure_golden(1024));
    return done ? 0 : 1;
}
