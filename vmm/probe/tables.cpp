// SPDX-License-Identifier: Apache-2.0
#include "probe/tables.hpp"

#include "base/little_endian.hpp"

namespace casemate {

namespace layout_of = probe_layout;

void build_probe_tables(std::span<std::byte, probe_layout::memory_bytes> memory) {
    const auto set_entry = [&](uint64_t table, uint64_t index, uint64_t address) {
        const Le64 entry = address | layout_of::entry_flags;
        std::memcpy(memory.data() + table + index * sizeof(entry), &entry, sizeof(entry));
    };
    const uint64_t pml4 = layout_of::tables.value;
    const uint64_t pdpt = pml4 + page_bytes;
    const uint64_t directory = pdpt + page_bytes;
    const uint64_t table = directory + page_bytes;
    set_entry(pml4, 0, pdpt);
    set_entry(pdpt, 0, directory);
    set_entry(directory, 0, table);
    for (uint64_t page = 1; page < layout_of::memory_bytes / page_bytes; ++page)
        set_entry(table, page, page * page_bytes);
}

} // namespace casemate
