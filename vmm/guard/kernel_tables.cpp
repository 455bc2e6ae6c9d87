// SPDX-License-Identifier: Apache-2.0
#include "guard/kernel_tables.hpp"

#include <algorithm>
#include <cassert>
#include <utility>

namespace casemate {
namespace {

constexpr uint64_t bytes_of_entry(unsigned level) {
    return page_bytes << (9 * (level - 1));
}

// SDM Vol. 3A, "4-Level Paging and 5-Level Paging": PS is reserved in PML5 and PML4 entries; of a large page
// the address bits below its size are, but for PAT in bit 12.
constexpr bool may_be_large(unsigned level) {
    return level == 2 || level == 3;
}
constexpr uint64_t reserved_of_large(unsigned level) {
    return bytes_of_entry(level) - 1 - bits(12, 0);
}
static_assert(reserved_of_large(2) == bits(20, 13) && reserved_of_large(3) == bits(29, 13));

} // namespace

KernelTableWalk::KernelTableWalk(const GuestMemory& memory, bool five_levels, Bounds bounds, Wanted wanted,
                                 Found found)
    : m_memory(memory)
    , m_root_level(root_level(five_levels))
    , m_bounds(std::move(bounds))
    , m_wanted(std::move(wanted))
    , m_found(std::move(found)) {}

KernelTableWalk::Chunk& KernelTableWalk::chunk_of(unsigned level, uint64_t page_number) {
    LevelPages& pages = m_pages.at(level - 1);
    const size_t index = page_number / Chunk::pages;
    if (pages.size() <= index)
        pages.resize(index + 1);
    if (!pages[index])
        pages[index] = std::make_unique<Chunk>();
    return *pages[index];
}

bool KernelTableWalk::walk(std::span<const uint64_t> entries, size_t first_slot) {
    assert(first_slot >= first_upper_slot && first_slot + entries.size() == table_entries);
    // Slots of the upper half have the sign bit set, and so all bits above it.
    const uint64_t shift = 12 + 9 * (m_root_level - 1);
    visit_entries(entries, m_root_level, ~0ULL << (shift + 9) | uint64_t{first_slot} << shift);
    return !m_stopped;
}

// False, and the walk has stopped, when that is too much.
bool KernelTableWalk::take(uint64_t work) {
    if (work > m_bounds.work - m_work) {
        m_stopped = true;
        return false;
    }
    m_work += work;
    return true;
}

// Whether something wanted is mapped.
bool KernelTableWalk::visit_entries(std::span<const uint64_t> entries, unsigned level, uint64_t linear) {
    const uint64_t step = bytes_of_entry(level);
    bool wanted = false;
    for (size_t i = 0; i < entries.size() && !m_stopped; ++i) {
        const uint64_t entry = entries[i];
        if ((entry & entry_present) == 0)
            continue;
        const bool large = level > 1 && (entry & entry_large) != 0;
        if (large && (!may_be_large(level) || (entry & reserved_of_large(level)) != 0)) {
            ++m_dead_entries;
            continue;
        }
        const bool is_leaf = large || level == 1;
        if (wanted && is_leaf) // one is enough
            continue;
        if (!take(1))
            break;
        const uint64_t entry_linear = linear + i * step;
        if (is_leaf)
            wanted |= m_wanted(
                {.linear = {entry_linear}, .physical = {entry & address_field & ~(step - 1)}, .bytes = step});
        else
            wanted |= visit_table(entry & address_field, level - 1, entry_linear);
    }
    return wanted;
}

// At most four deep: each table is one level below the one that leads to it.
bool KernelTableWalk::visit_table(uint64_t page, unsigned level, uint64_t linear) {
    const GuestRange range = GuestRange::of({page}, page_bytes);
    if (!m_memory.is_ram(range)) {
        ++m_dead_entries;
        return false;
    }
    const uint64_t number = page / page_bytes;
    Chunk& chunk = chunk_of(level, number);
    const size_t word = number % Chunk::pages / 64;
    const uint64_t bit = 1ULL << (number % 64);
    if ((chunk.found.at(word) & bit) != 0)
        return (chunk.wanted.at(word) & bit) != 0;
    if (m_bounds.ending.stop_requested())
        m_stopped = true;
    if (m_stopped || !take(table_work))
        return false;
    ++m_tables;
    chunk.found.at(word) |= bit;
    TableEntries entries;
    if (!m_memory.read_words({page}, entries))
        return false;
    const bool wanted = visit_entries(entries, level, linear);
    if (wanted)
        chunk.wanted.at(word) |= bit;
    if (!m_stopped)
        m_stopped = !m_found({.page = {page}, .level = level, .wanted = wanted});
    return wanted;
}

} // namespace casemate
