// SPDX-License-Identifier: Apache-2.0
#include "guard/page_walk.hpp"

#include "guard/page_table_entry.hpp"

#include <array>
#include <span>

namespace casemate {

namespace {

constexpr uint64_t cr0_pg = 1ULL << 31;
constexpr uint64_t cr4_pse = 1ULL << 4;
constexpr uint64_t cr4_pae = 1ULL << 5;
constexpr uint64_t cr4_la57 = 1ULL << 12;
constexpr uint64_t efer_lma = 1ULL << 10;
constexpr uint64_t efer_nxe = 1ULL << 11;

struct Level {
    unsigned shift;          // of the linear address, for the index
    unsigned index_bits;     // entries in a table: two to this power
    bool may_be_large;       // PS ends the walk here
    bool has_permissions;    // PAE's PDPTEs have none
    uint64_t reserved;       // in every present entry
    uint64_t reserved_large; // in addition when PS is set
};

// SDM Vol. 3A, "4-Level Paging and 5-Level Paging": formats of the entries. Bit 7 of a PML5E and PML4E is
// reserved.
constexpr std::array<Level, 5> long_levels{
    Level{48, 9, false, true, entry_large, 0}, Level{39, 9, false, true, entry_large, 0},
    Level{30, 9, true, true, 0, bits(29, 13)}, Level{21, 9, true, true, 0, bits(20, 13)},
    Level{12, 9, false, true, 0, 0}};

// SDM Vol. 3A, "PAE Paging". The CPU may have loaded the PDPTEs earlier, with CR3; memory is all there is
// here.
constexpr std::array<Level, 3> pae_levels{
    Level{30, 2, false, false, bits(63, 52) | bits(8, 5) | bits(2, 1), 0},
    Level{21, 9, true, true, bits(62, 52), bits(20, 13)}, Level{12, 9, false, true, bits(62, 52), 0}};

// SDM Vol. 3A, "32-Bit Paging". KVM takes PSE-36 with 36 physical bits: bits 16:13 are address bits 35:32.
constexpr uint64_t pse36_reserved = bits(21, 17);
constexpr uint64_t pse36_address = bits(16, 13);
constexpr unsigned pse36_shift = 32 - 13;

Translation start(GuestPhysical address) {
    return {.address = address, .page_bytes = 4_GiB, .writable = true, .user = true, .no_execute = false};
}

void narrow(Translation& translation, uint64_t entry) {
    translation.writable = translation.writable && (entry & entry_writable) != 0;
    translation.user = translation.user && (entry & entry_user) != 0;
}

std::optional<Translation> walk_64_bit_entries(const GuestMemory& memory, uint64_t table,
                                               std::span<const Level> levels, bool no_execute_enabled,
                                               uint64_t linear, WalkedEntries* walked) {
    Translation result = start({0});
    for (const Level& level : levels) {
        const uint64_t index = (linear >> level.shift) & ((1ULL << level.index_bits) - 1);
        const GuestPhysical at{table + 8 * index};
        const auto entry = memory.fetch<uint64_t>(at);
        if (entry && walked != nullptr)
            walked->entries.at(walked->count++) = {.address = at, .value = *entry};
        if (!entry || (*entry & entry_present) == 0 || (*entry & level.reserved) != 0)
            return std::nullopt;
        if (level.has_permissions) {
            if (!no_execute_enabled && (*entry & entry_no_execute) != 0)
                return std::nullopt;
            narrow(result, *entry);
            result.no_execute = result.no_execute || (*entry & entry_no_execute) != 0;
        }
        const bool large = level.may_be_large && (*entry & entry_large) != 0;
        if (large && (*entry & level.reserved_large) != 0)
            return std::nullopt;
        table = *entry & address_field;
        if (large || level.shift == 12) {
            result.page_bytes = 1ULL << level.shift;
            const uint64_t offset = linear & (result.page_bytes - 1);
            // Of a large page's address field the low bits are PAT and reserved ones, not address.
            result.address = {(table & ~(result.page_bytes - 1)) | offset};
            return result;
        }
    }
    return std::nullopt;
}

std::optional<Translation> walk_32_bit_entries(const GuestMemory& memory, uint64_t table, bool large_pages,
                                               uint64_t linear) {
    Translation result = start({0});
    const auto directory_entry = memory.fetch<uint32_t>({table + 4 * (linear >> 22)});
    if (!directory_entry || (*directory_entry & entry_present) == 0)
        return std::nullopt;
    narrow(result, *directory_entry);
    if (large_pages && (*directory_entry & entry_large) != 0) {
        if ((*directory_entry & pse36_reserved) != 0)
            return std::nullopt;
        result.page_bytes = 4_MiB;
        result.address = {(*directory_entry & pse36_address) << pse36_shift |
                          (*directory_entry & bits(31, 22)) | (linear & bits(21, 0))};
        return result;
    }
    const uint64_t page_table = *directory_entry & bits(31, 12);
    const auto entry = memory.fetch<uint32_t>({page_table + 4 * ((linear >> 12) & bits(9, 0))});
    if (!entry || (*entry & entry_present) == 0)
        return std::nullopt;
    narrow(result, *entry);
    result.page_bytes = page_bytes;
    result.address = {(*entry & bits(31, 12)) | (linear & bits(11, 0))};
    return result;
}

bool is_canonical(uint64_t linear, unsigned width) {
    const uint64_t upper = linear >> (width - 1);
    return upper == 0 || upper == ~0ULL >> (width - 1);
}

} // namespace

std::optional<Translation> translate(const GuestMemory& memory, const kvm_sregs& state, GuestLinear address,
                                     WalkedEntries* walked) {
    if (walked != nullptr)
        walked->count = 0;
    const uint64_t linear = address.value;
    const bool long_mode = (state.efer & efer_lma) != 0;
    const bool paging = (state.cr0 & cr0_pg) != 0;
    if (!(paging && long_mode) && linear > bits(31, 0))
        return std::nullopt;
    if (!paging)
        return start({linear});
    const bool no_execute_enabled = (state.efer & efer_nxe) != 0;
    if (long_mode) {
        const bool five_levels = (state.cr4 & cr4_la57) != 0;
        if (!is_canonical(linear, five_levels ? 57 : 48))
            return std::nullopt;
        // The field leaves out the PCID (11:0), LAM_U57, LAM_U48 (61, 62) and the no-flush bit (63).
        return walk_64_bit_entries(memory, state.cr3 & address_field,
                                   std::span(long_levels).subspan(five_levels ? 0 : 1), no_execute_enabled,
                                   linear, walked);
    }
    if ((state.cr4 & cr4_pae) != 0)
        return walk_64_bit_entries(memory, state.cr3 & bits(31, 5), pae_levels, no_execute_enabled, linear,
                                   walked);
    return walk_32_bit_entries(memory, state.cr3 & bits(31, 12), (state.cr4 & cr4_pse) != 0, linear);
}

} // namespace casemate
