// SPDX-License-Identifier: Apache-2.0
#include "probe/tables.hpp"

#include "base/little_endian.hpp"

#include <doctest/doctest.h>
#include <optional>
#include <vector>

namespace casemate {
namespace {

// Walks as the CPU does (SDM volume 3A, "4-Level Paging"); checks on the way that no entry needs an update.
std::optional<uint64_t> walk(std::span<const std::byte> memory, uint64_t linear) {
    uint64_t table = probe_layout::tables.value;
    for (unsigned shift = 39; shift >= 12; shift -= 9) {
        const uint64_t offset = table + ((linear >> shift) & 0x1ffU) * 8;
        REQUIRE(offset + 8 <= probe_layout::tables.value + probe_layout::tables_bytes);
        Le64 entry;
        std::memcpy(&entry, memory.data() + offset, sizeof(entry));
        if ((entry & probe_layout::entry_present) == 0)
            return std::nullopt;
        CHECK((entry & ~0xfffULL & (page_bytes - 1)) == 0);
        CHECK((entry & probe_layout::entry_flags) == probe_layout::entry_flags);
        table = entry & ~0xfffULL;
    }
    return table + (linear & 0xfffU);
}

std::vector<std::byte> built() {
    std::vector<std::byte> memory(probe_layout::memory_bytes);
    build_probe_tables(std::span(memory).first<probe_layout::memory_bytes>());
    return memory;
}

TEST_CASE("a probe guest's tables map each page to itself, accessed and dirty") {
    const std::vector<std::byte> memory = built();
    for (uint64_t address = page_bytes; address < probe_layout::memory_bytes; address += page_bytes)
        CHECK(walk(memory, address) == address);
    CHECK(walk(memory, probe_layout::memory_bytes - 1) == probe_layout::memory_bytes - 1);
}

TEST_CASE("a probe guest's tables leave the null page and what follows its memory unmapped") {
    const std::vector<std::byte> memory = built();
    CHECK_FALSE(walk(memory, 0));
    CHECK_FALSE(walk(memory, probe_layout::memory_bytes));
    CHECK_FALSE(walk(memory, 2_MiB));
    CHECK_FALSE(walk(memory, 1_GiB));
    CHECK_FALSE(walk(memory, 512_GiB));
}

TEST_CASE("the last entry of the PML4, which the walk probe stores to, is unused") {
    const std::vector<std::byte> memory = built();
    const uint64_t offset = probe_layout::tables.value + page_bytes - 8;
    for (uint64_t i = 0; i < 8; ++i)
        CHECK(memory[offset + i] == std::byte{0});
}

} // namespace
} // namespace casemate
