// SPDX-License-Identifier: Apache-2.0
// SyntheticTables: page tables as Linux lays them out: a direct map, vmalloc's area, a kernel image and, with
// page-table isolation, what user space has of it.
#pragma once

#include "guard/page_table_entry.hpp"
#include "guard/roots.hpp"
#include "memory/guest_memory.hpp"

#include <doctest/doctest.h>
#include <set>
#include <vector>

namespace casemate::synthetic {

constexpr uint64_t table_entry = entry_present | entry_writable | entry_accessed | entry_dirty;
constexpr uint64_t user_table_entry = table_entry | entry_user;

// Guest-physical addresses.
constexpr uint64_t text_start = 0x400000;
constexpr uint64_t text_bytes = 0x201000; // a large page and one of the next
constexpr uint64_t reference_root = 0x100000;
constexpr uint64_t direct_pud = 0x110000, direct_pmd = 0x111000, direct_pte = 0x112000;
constexpr uint64_t vmalloc_pud = 0x113000, vmalloc_pmd = 0x114000, vmalloc_pte = 0x115000;
constexpr uint64_t image_pud = 0x116000, image_pmd = 0x117000, image_pte = 0x118000;
constexpr uint64_t user_pud = 0x119000, user_pmd = 0x11a000;
constexpr uint64_t p4d_low = 0x11b000, p4d_high = 0x11c000, user_p4d = 0x11d000;
constexpr uint64_t process_root = 0x200000; // of its pair the first

struct Shape {
    size_t direct_slot = 273;
    size_t direct_pud_index = 0;
    bool pair = false;
    bool five_levels = false;
    uint64_t ram_bytes = 16_MiB;
};

class SyntheticTables {
public:
    explicit SyntheticTables(const Shape& shape = {})
        : memory(GuestMemory::create(shape.ram_bytes).value())
        , first_slot(shape.five_levels ? 273 : shape.direct_slot)
        , pair(shape.pair)
        , mode{.paging = true,
               .pae = true,
               .long_mode = true,
               .five_levels = shape.five_levels,
               .no_execute = true} {
        const uint64_t root = shape.five_levels ? p4d_low : reference_root;
        const uint64_t high = shape.five_levels ? p4d_high : reference_root;
        if (shape.five_levels) {
            put(reference_root, first_slot, p4d_low | table_entry);
            put(reference_root, 511, p4d_high | table_entry);
        }
        put(root, shape.direct_slot, direct_pud | table_entry);
        put(direct_pud, shape.direct_pud_index, direct_pmd | table_entry);
        put(direct_pmd, 0, direct_pte | table_entry);
        for (uint64_t i = 0; i < table_entries; ++i)
            put(direct_pte, i, i * page_bytes | table_entry | entry_no_execute);
        for (uint64_t i = 1; i < shape.ram_bytes / 2_MiB; ++i)
            put(direct_pmd, i, i * 2_MiB | entry_large | table_entry | entry_no_execute);
        put(root, shape.direct_slot + 9, vmalloc_pud | table_entry);
        put(vmalloc_pud, 3, vmalloc_pmd | table_entry);
        put(vmalloc_pmd, 4, vmalloc_pte | table_entry);
        put(vmalloc_pte, 5, 0x800000 | table_entry | entry_no_execute);
        put(high, 511, image_pud | table_entry);
        put(image_pud, 510, image_pmd | table_entry);
        put(image_pmd, 8, text_start | entry_large | entry_present | entry_accessed);
        put(image_pmd, 9, image_pte | table_entry);
        put(image_pte, 0, (text_start + 2_MiB) | entry_present | entry_accessed);
        if (pair) {
            const uint64_t user_root = reference_root + page_bytes;
            const uint64_t user_high = shape.five_levels ? user_p4d : user_root;
            if (shape.five_levels)
                put(user_root, 511, user_p4d | table_entry);
            put(user_high, 511, user_pud | table_entry);
            put(user_high, shape.direct_slot + 9, vmalloc_pud | table_entry); // as the CPU entry area is
            put(user_pud, 510, user_pmd | table_entry);
            put(user_pmd, 8, text_start | entry_large | entry_present | entry_accessed);
        }
        for (const uint64_t page : required())
            protected_pages.insert(page);
        make_process(process_root);
    }

    // The tables that text and the direct map need.
    std::vector<uint64_t> required() const {
        std::vector<uint64_t> pages{direct_pud, direct_pmd, direct_pte, image_pud, image_pmd, image_pte};
        if (mode.five_levels)
            pages.insert(pages.end(), {p4d_low, p4d_high});
        if (pair)
            pages.insert(pages.end(), {user_pud, user_pmd});
        if (pair && mode.five_levels)
            pages.push_back(user_p4d);
        return pages;
    }
    void put(uint64_t page, uint64_t index, uint64_t entry) const {
        REQUIRE(memory.store(GuestPhysical{page + 8 * index}, entry));
    }
    uint64_t at(uint64_t page, uint64_t index) const {
        return memory.fetch<uint64_t>({page + 8 * index}).value();
    }
    // As pgd_alloc() and a user mapping make it.
    void make_process(uint64_t root) const {
        for (size_t slot = first_slot; slot < table_entries; ++slot) {
            put(root, slot, at(reference_root, slot));
            if (pair)
                put(root + page_bytes, slot, at(reference_root + page_bytes, slot));
        }
        put(root, 0, 0x300000 | user_table_entry | (pair ? entry_no_execute : 0));
        if (pair)
            put(root + page_bytes, 0, 0x300000 | user_table_entry);
    }
    RootRequest request(LockPolicy policy = LockPolicy::read_only) const {
        return {.root = {reference_root}, .pair = pair, .first_slot = first_slot, .policy = policy};
    }
    std::vector<Lock> locks() const {
        return {{.range = GuestRange::of({text_start}, text_bytes),
                 .policy = LockPolicy::read_only,
                 .kind = LockKind::text}};
    }

    GuestMemory memory;
    size_t first_slot;
    bool pair;
    PagingMode mode;
    std::set<uint64_t> protected_pages;
};

} // namespace casemate::synthetic
