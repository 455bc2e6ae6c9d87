// SPDX-License-Identifier: Apache-2.0
#include "page_tables.hpp"

namespace payload {
namespace {

constexpr uint64_t table_flags = entry_present | entry_writable | entry_user | entry_accessed;
constexpr uint64_t address_mask = 0x000ffffffffff000;
constexpr unsigned max_tables = 32;
constexpr uint64_t large_page_bytes = 0x200000;

alignas(4096) uint64_t tables[max_tables][512];
unsigned tables_used;

uint64_t* new_table() {
    if (tables_used == max_tables) {
        print("not ok out of page tables\n");
        power_off();
    }
    return tables[tables_used++];
}

uint64_t* root() {
    return tables[0];
}

uint64_t* entry_at(uint64_t linear, unsigned level) { // level 1: a 4 KiB page's
    uint64_t* table = root();
    for (unsigned at = 4;; --at) {
        uint64_t& entry = table[linear >> (3 + 9 * at) & 511];
        if (at == level)
            return &entry;
        if ((entry & entry_present) == 0)
            entry = reinterpret_cast<uint64_t>(new_table()) | table_flags;
        if ((entry & entry_large) != 0) {
            uint64_t* const split = new_table();
            for (uint64_t i = 0; i < 512; ++i)
                split[i] = (entry & ~entry_large) + i * page_bytes;
            entry = reinterpret_cast<uint64_t>(split) | table_flags;
        }
        table = reinterpret_cast<uint64_t*>(entry & address_mask);
    }
}

void flush() {
    if (read_cr3() == reinterpret_cast<uint64_t>(root()))
        write_cr3(read_cr3());
}

} // namespace

void use_own_tables() {
    if (tables_used == 0) {
        (void)new_table();
        for (uint64_t at = 0; at < 0x100000000; at += large_page_bytes)
            *entry_at(at, 2) = at | writable_page | entry_user | entry_large;
    }
    write_cr3(reinterpret_cast<uint64_t>(root()));
}

void map_page(uint64_t linear, uint64_t physical, uint64_t flags) {
    *entry_at(linear, 1) = physical | flags;
    flush();
}

void map_large_page(uint64_t linear, uint64_t physical, uint64_t flags) {
    *entry_at(linear, 2) = physical | flags | entry_large;
    flush();
}

uint64_t table_of(uint64_t linear) {
    return reinterpret_cast<uint64_t>(entry_at(linear, 1)) & address_mask;
}

} // namespace payload
