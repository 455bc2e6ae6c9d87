// SPDX-License-Identifier: Apache-2.0
#include "guard/golden_tables.hpp"

#include <algorithm>
#include <mutex>
#include <utility>

namespace casemate {

bool GoldenTables::read(const Page& page, TableEntries& now) const {
    return m_memory.read_words({page.address}, now).has_value();
}

bool GoldenTables::add(std::span<const GuestRange> ranges) {
    const std::lock_guard lock(m_mutex);
    const size_t room = max_pages() - m_pages.size();
    uint64_t wanted = 0;
    for (const GuestRange& range : ranges) {
        wanted += range.bytes() / page_bytes;
        if (wanted > room || !m_memory.is_ram(range))
            return false;
    }
    for (const GuestRange& range : ranges)
        for (uint64_t address = range.start().value; address < range.end(); address += page_bytes) {
            auto entries = std::make_unique_for_overwrite<TableEntries>();
            if (m_memory.read_words({address}, *entries))
                m_pages.push_back({address, std::move(entries)});
        }
    std::ranges::sort(m_pages, {}, &Page::address);
    return true;
}

size_t GoldenTables::pages() const {
    const std::shared_lock lock(m_mutex);
    return m_pages.size();
}

bool GoldenTables::overlaps(const GuestRange& range) const {
    const std::shared_lock lock(m_mutex);
    const auto page =
        std::ranges::lower_bound(m_pages, align_down(range.start().value, page_bytes), {}, &Page::address);
    return page != m_pages.end() && page->address < range.end();
}

std::vector<TableDifference> GoldenTables::compare(size_t count) const {
    const std::shared_lock lock(m_mutex);
    std::vector<TableDifference> differences;
    count = std::min(count, m_pages.size());
    if (count == 0)
        return differences;
    const size_t first = m_next.fetch_add(count, std::memory_order_relaxed);
    for (size_t i = 0; i < count; ++i) {
        const Page& page = m_pages[(first + i) % m_pages.size()];
        TableEntries now;
        if (!read(page, now))
            continue;
        const TableEntries& golden = *page.entries;
        const auto index = first_difference(std::span<const uint64_t, table_entries>(golden),
                                            std::span<const uint64_t, table_entries>(now));
        if (!index)
            continue;
        TableDifference difference{
            .page = {page.address}, .index = *index, .expected = golden[*index], .found = now[*index]};
        for (size_t entry = *index; entry < table_entries; ++entry)
            difference.entries += differ(golden.at(entry), now.at(entry)) ? 1U : 0U;
        differences.push_back(difference);
    }
    return differences;
}

size_t GoldenTables::repair(GuestPhysical address) const {
    const std::shared_lock lock(m_mutex);
    const auto page = std::ranges::lower_bound(m_pages, address.value, {}, &Page::address);
    TableEntries now;
    if (page == m_pages.end() || page->address != address.value || !read(*page, now))
        return 0;
    size_t repaired = 0;
    for (size_t entry = 0; entry < table_entries; ++entry) {
        const uint64_t golden = page->entries->at(entry);
        if (differ(golden, now.at(entry)) &&
            m_memory.restore({address.value + entry * sizeof(uint64_t)}, golden))
            ++repaired;
    }
    return repaired;
}

} // namespace casemate
