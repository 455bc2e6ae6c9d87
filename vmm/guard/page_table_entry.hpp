// SPDX-License-Identifier: Apache-2.0
// Page-table entries of 64 bits: PAE, 4-level and 5-level paging (SDM Vol. 3A, chapter "Paging"; APM Vol. 2,
// "Page Translation and Protection").
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>

namespace casemate {

constexpr uint64_t entry_present = 1ULL << 0;
constexpr uint64_t entry_writable = 1ULL << 1;
constexpr uint64_t entry_user = 1ULL << 2;
constexpr uint64_t entry_accessed = 1ULL << 5;
constexpr uint64_t entry_dirty = 1ULL << 6;
constexpr uint64_t entry_large = 1ULL << 7;
constexpr uint64_t entry_no_execute = 1ULL << 63;

// Bits `low` to `high`, inclusive.
constexpr uint64_t bits(unsigned high, unsigned low) {
    return (~0ULL >> (63 - high)) & (~0ULL << low);
}

// Where an entry of 64 bits holds an address. The physical address width is not known here: an address above
// it is outside RAM anyway.
constexpr uint64_t address_field = bits(51, 12);

constexpr size_t table_entries = 512;
using TableEntries = std::array<uint64_t, table_entries>;

// What decides where an entry leads and with which rights. Not A and D, which the CPU sets as it walks, nor
// 11:9 and 62:52, which it ignores (SDM Vol. 3A, "Use of Paging Structures..."; 62:59 are a protection key,
// which of supervisor pages means nothing without PKS, that KVM does not offer).
constexpr uint64_t relevant_bits = ~(entry_accessed | entry_dirty | bits(11, 9) | bits(62, 52));

// Entries that are both not present are equal: the CPU looks no further.
constexpr bool differ(uint64_t left, uint64_t right) {
    return ((left | right) & entry_present) != 0 && ((left ^ right) & relevant_bits) != 0;
}

// The first entry that differs. Both are copies: tables change as they are read.
template <size_t count>
std::optional<size_t> first_difference(std::span<const uint64_t, count> left,
                                       std::span<const uint64_t, count> right) {
    // Without a branch an entry, as most tables are equal: the compiler makes vectors of it.
    uint64_t any = 0;
    for (size_t i = 0; i < count; ++i)
        any |= left[i] ^ right[i];
    if ((any & relevant_bits) == 0)
        return std::nullopt;
    for (size_t i = 0; i < count; ++i)
        if (differ(left[i], right[i]))
            return i;
    return std::nullopt;
}

} // namespace casemate
