// SPDX-License-Identifier: Apache-2.0
// GoldenTables: copies of page-table pages that must stay as they are, where the host cannot lock them
// because the CPU writes to tables as it walks. What is compared is what decides where an entry leads.
#pragma once

#include "base/units.hpp"
#include "guard/page_table_entry.hpp"
#include "memory/guest_memory.hpp"

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <shared_mutex>
#include <span>
#include <vector>

namespace casemate {

// A table page that is not what it was.
struct TableDifference {
    GuestPhysical page;
    size_t index = 0; // the first entry that differs
    uint64_t expected = 0;
    uint64_t found = 0;
    size_t entries = 0; // that differ

    GuestPhysical entry() const { return {page.value + index * sizeof(uint64_t)}; }
};

// Any thread; comparisons run side by side.
class GoldenTables {
public:
    // `memory` outlives this.
    explicit GoldenTables(const GuestMemory& memory)
        : m_memory(memory) {}
    GoldenTables(const GoldenTables&) = delete;
    GoldenTables& operator=(const GoldenTables&) = delete;
    ~GoldenTables() = default;

    // A copy costs the table's 4 KiB and an index entry. A direct map of small pages has a table for 2 MiB of
    // RAM, and the kernel image some; twice that is room enough: 1/256 of RAM and 4 MiB.
    size_t max_pages() const { return 1024 + m_memory.size() / 1_MiB; }
    // Copies the pages of the ranges (whole pages of RAM, none of them held yet): all, or none when they are
    // too many. Host-side writes to them have ended.
    bool add(std::span<const GuestRange> ranges);
    size_t pages() const;
    // Whether a page that the range overlaps is held.
    bool overlaps(const GuestRange& range) const;

    // Compares `count` pages, or all there are, beginning where the last call ended: few enough tables are
    // compared each time, the rest by turns. One difference a page.
    std::vector<TableDifference> compare(size_t count) const;
    // Writes the entries back that differ, with the A and D bits they had, and says how many those were.
    // Another vCPU may be changing them all the time: what it writes afterwards the next comparison finds.
    // Translations that CPUs have cached stay until they forget them.
    size_t repair(GuestPhysical page) const;

private:
    struct Page {
        uint64_t address;
        std::unique_ptr<const TableEntries> entries;
    };
    bool read(const Page& page, TableEntries& now) const;

    const GuestMemory& m_memory;
    mutable std::shared_mutex m_mutex; // guards m_pages
    std::vector<Page> m_pages;         // ascending
    mutable std::atomic<size_t> m_next = 0;
};

} // namespace casemate
