// SPDX-License-Identifier: Apache-2.0
// The payload's own page tables: 4 GiB identity-mapped as the boot tables do, user access allowed, and room
// for 4 KiB mappings anywhere. Accessed and dirty bits are set from the start, unless asked otherwise.
#pragma once

#include "runtime.hpp"

namespace payload {

constexpr uint64_t entry_present = 1;
constexpr uint64_t entry_writable = 2;
constexpr uint64_t entry_user = 4;
constexpr uint64_t entry_accessed = 0x20;
constexpr uint64_t entry_dirty = 0x40;
constexpr uint64_t entry_large = 0x80;
constexpr uint64_t writable_page = entry_present | entry_writable | entry_accessed | entry_dirty;
constexpr uint64_t read_only_page = entry_present | entry_accessed | entry_dirty;

// An unused linear address for aliases, each a GiB.
constexpr uint64_t alias_area = 0x10000000000;

// Builds the tables once and loads CR3 of the CPU that calls.
void use_own_tables();
// Maps one 4 KiB page, replacing what was there.
void map_page(uint64_t linear, uint64_t physical, uint64_t flags);
// Maps 2 MiB; both addresses are multiples of it.
void map_large_page(uint64_t linear, uint64_t physical, uint64_t flags);
// The page of the lowest-level table that maps `linear`.
uint64_t table_of(uint64_t linear);

} // namespace payload
