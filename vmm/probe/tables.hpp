// SPDX-License-Identifier: Apache-2.0
// The memory of a probe guest: where its pages are, and the page tables that map them.
#pragma once

#include "base/units.hpp"

#include <cstddef>
#include <cstdint>
#include <span>

namespace casemate::probe_layout {

// Linear address = guest-physical address. Page 0 is left unmapped: a stray null pointer then ends the probe.
constexpr GuestPhysical tables{0x1000}; // PML4, PDPT, PD, PT: one page each
constexpr uint64_t tables_bytes = 4 * page_bytes;
constexpr GuestPhysical code{0x5000};
constexpr GuestPhysical stack_end{0x7000}; // grows down into page 0x6000
constexpr GuestPhysical target{0x7000};    // what stores aim at
constexpr uint64_t memory_bytes = target.value + page_bytes;

// Page-table entry bits: SDM volume 3A, "4-Level Paging and 5-Level Paging".
constexpr uint64_t entry_present = 1U << 0U;
constexpr uint64_t entry_writable = 1U << 1U;
constexpr uint64_t entry_accessed = 1U << 5U;
constexpr uint64_t entry_dirty = 1U << 6U;
// Accessed and dirty are set beforehand, so that a walk has no reason of its own to write to the tables.
constexpr uint64_t entry_flags = entry_present | entry_writable | entry_accessed | entry_dirty;

} // namespace casemate::probe_layout

namespace casemate {

// Writes the tables at probe_layout::tables of `memory`, which is the guest's memory from address 0 on.
void build_probe_tables(std::span<std::byte, probe_layout::memory_bytes> memory);

} // namespace casemate
