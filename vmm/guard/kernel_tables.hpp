// SPDX-License-Identifier: Apache-2.0
// KernelTableWalk: finds every page-table page that the kernel half of a root page leads to.
#pragma once

#include "base/units.hpp"
#include "guard/page_table_entry.hpp"
#include "memory/guest_memory.hpp"

#include <array>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <stop_token>
#include <vector>

namespace casemate {

constexpr size_t first_upper_slot = table_entries / 2; // of a root: where the upper half begins

// Tables have levels: 1 holds entries for 4 KiB each, 2 for 2 MiB, 3 for 1 GiB, 4 for 512 GiB; the root's is
// 4, or 5 with CR4.LA57.
constexpr unsigned root_level(bool five_levels) {
    return five_levels ? 5 : 4;
}

// A present entry that maps a page.
struct KernelLeaf {
    GuestLinear linear;
    GuestPhysical physical; // may lie outside RAM
    uint64_t bytes = 0;     // 4 KiB, 2 MiB, 1 GiB
};

struct KernelTable {
    GuestPhysical page;
    unsigned level = 0;  // 1 up to the root's, less one
    bool wanted = false; // maps a wanted page, itself or through a table below
};

// Not thread-safe. Any contents are walked: a table counts once at each level it is used at, so loops and
// self-maps end, and each page of RAM is read at most once a level. Reads what it needs once.
class KernelTableWalk {
public:
    // What a walk may do before it gives up. A present entry that is looked at is 1 of `work`, a table that
    // is read `table_work`.
    struct Bounds {
        uint64_t work = 0;
        std::stop_token ending;
    };
    static constexpr uint64_t table_work = 16;
    // Which leaves are wanted: asked until one of a table is. Where tables are shared, only the linear
    // address of the first way counts.
    using Wanted = std::function<bool(const KernelLeaf&)>;
    // Every table, after those below it; false ends the walk.
    using Found = std::function<bool(const KernelTable&)>;

    // `memory` outlives this.
    KernelTableWalk(const GuestMemory& memory, bool five_levels, Bounds bounds, Wanted wanted, Found found);

    // From the entries of a root's slots `first_slot` to 511, first_slot being in the upper half. False:
    // ended before all was seen. Again with another root: what was found before is not found again.
    bool walk(std::span<const uint64_t> entries, size_t first_slot);

    uint64_t tables() const { return m_tables; }
    uint64_t work() const { return m_work; }
    // Entries that lead nowhere: a reserved bit is set, or the table is not in RAM.
    uint64_t dead_entries() const { return m_dead_entries; }

private:
    // Of the pages of 128 MiB of RAM.
    struct Chunk {
        static constexpr size_t pages = 32768;
        std::array<uint64_t, pages / 64> found{};
        std::array<uint64_t, pages / 64> wanted{};
    };
    using LevelPages = std::vector<std::unique_ptr<Chunk>>;

    bool take(uint64_t work);
    bool visit_entries(std::span<const uint64_t> entries, unsigned level, uint64_t linear);
    bool visit_table(uint64_t page, unsigned level, uint64_t linear);
    Chunk& chunk_of(unsigned level, uint64_t page_number);

    const GuestMemory& m_memory;
    unsigned m_root_level;
    Bounds m_bounds;
    Wanted m_wanted;
    Found m_found;
    std::array<LevelPages, 4> m_pages; // index: level less one
    uint64_t m_tables = 0;
    uint64_t m_work = 0;
    uint64_t m_dead_entries = 0;
    bool m_stopped = false;
};

} // namespace casemate
