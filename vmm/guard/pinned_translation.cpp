// SPDX-License-Identifier: Apache-2.0
#include "guard/pinned_translation.hpp"

#include "guard/page_table_entry.hpp"
#include "guard/page_walk.hpp"

#include <algorithm>
#include <cassert>
#include <cstring>

namespace casemate {
namespace {

// SDM Vol. 3A, 2.2.1
constexpr uint64_t efer_sce = 1 << 0;
constexpr uint64_t efer_lma = 1 << 10;

constexpr uint64_t vectors = 256;
constexpr uint64_t long_gate_bytes = 16;
constexpr uint64_t legacy_gate_bytes = 8;

uint64_t msr_of(const AuditedState& state, uint32_t index) {
    for (size_t i = 0; i < entry_msrs.size(); ++i)
        if (entry_msrs.at(i).index == index)
            return state.msrs.at(i);
    return 0;
}

constexpr GuestLinear page_of(uint64_t linear) {
    return {linear & ~(page_bytes - 1)};
}

// SDM Vol. 3A, "64-Bit Mode IDT". Empty: the CPU does not take it.
std::optional<uint64_t> gate_target(uint64_t low, uint64_t high) {
    constexpr uint64_t present = 1ULL << 47;
    const uint64_t type = low >> 40 & 0x1f;
    if ((low & present) == 0 || (type != 0xe && type != 0xf))
        return std::nullopt;
    return (low & 0xffff) | (low >> 32 & 0xffff0000) | high << 32;
}

// The table's bytes that lie in locked pages, in order; the others are zero, and so are gates that end there.
struct LockedTable {
    std::array<uint8_t, vectors * long_gate_bytes> bytes{};
    std::array<bool, vectors * long_gate_bytes> locked{};
};

} // namespace

struct PinnedTranslations::Walk {
    const GuestMemory& memory;
    const kvm_sregs& system;
    RootPages roots;

    Way along(GuestPhysical root, GuestLinear linear, WalkedEntries& walked) const {
        kvm_sregs state = system;
        state.cr3 = root.value;
        const auto found = translate(memory, state, linear, &walked);
        Way way{.count = walked.count};
        for (size_t i = 0; i < walked.count; ++i)
            way.entries.at(i) = walked.entries.at(i).value;
        if (found) {
            way.page = GuestPhysical{found->address.value & ~(page_bytes - 1)};
            way.writable = found->writable;
            way.user = found->user;
            way.no_execute = found->no_execute;
        }
        return way;
    }
};

bool PinnedTranslations::leads_elsewhere(const Way& pinned, const Way& now) {
    if (!pinned.page || !now.page)
        return pinned.page.has_value() != now.page.has_value();
    return pinned.page != now.page || pinned.writable != now.writable || pinned.user != now.user ||
           pinned.no_execute != now.no_execute;
}

void PinnedTranslations::add(const Walk& walk, GuestLinear address, const char* pinned_by,
                             std::optional<uint32_t> gate) {
    const GuestLinear linear = page_of(address.value);
    if (std::ranges::any_of(m_pages, [&](const Page& page) { return page.linear == linear; }))
        return;
    Page page{.linear = linear, .pinned_by = pinned_by, .gate = gate};
    WalkedEntries walked;
    for (size_t i = 0; i < walk.roots.size(); ++i)
        page.ways.at(i) = walk.along(walk.roots[i], linear, walked);
    const bool is_lower = (linear.value >> 63U) == 0;
    if (is_lower && std::ranges::none_of(page.ways, [](const Way& way) { return way.page.has_value(); }))
        return;
    m_pages.push_back(page);
}

void PinnedTranslations::add_table(const Walk& walk, const IsLocked& is_locked) {
    const kvm_dtable& idt = walk.system.idt;
    const bool long_mode = (walk.system.efer & efer_lma) != 0;
    const uint64_t bytes =
        std::min(idt.limit + uint64_t{1}, vectors * (long_mode ? long_gate_bytes : legacy_gate_bytes));
    LockedTable table;
    WalkedEntries walked;
    for (uint64_t at = 0; at < bytes;) {
        const GuestLinear linear{idt.base + at};
        const uint64_t part = std::min(bytes - at, page_bytes - linear.value % page_bytes);
        add(walk, linear, "IDTR", std::nullopt);
        const auto page = walk.along(walk.roots[0], linear, walked).page;
        if (page && is_locked(*page)) {
            const auto range = GuestRange::of({page->value + linear.value % page_bytes}, part);
            const std::span target(table.bytes.data() + at, part);
            if (walk.memory.read(range, std::as_writable_bytes(target)))
                std::fill_n(table.locked.begin() + static_cast<ptrdiff_t>(at), part, true);
        }
        at += part;
    }
    if (!long_mode)
        return;
    for (uint32_t vector = 0; (vector + 1) * long_gate_bytes <= bytes; ++vector) {
        const size_t at = vector * long_gate_bytes;
        uint64_t low = 0;
        uint64_t high = 0;
        std::memcpy(&low, table.bytes.data() + at, sizeof(low));
        std::memcpy(&high, table.bytes.data() + at + sizeof(low), sizeof(high));
        const auto target = gate_target(low, high);
        if (target && table.locked.at(at) && table.locked.at(at + long_gate_bytes - 1))
            add(walk, {*target}, "IDTR", vector);
    }
}

void PinnedTranslations::pin(const GuestMemory& memory, const AuditedState& state, RootPages roots,
                             const IsLocked& is_locked) {
    assert(!roots.empty() && roots.size() <= max_roots && m_pages.empty());
    const Walk walk{.memory = memory, .system = state.system, .roots = roots};
    add_table(walk, is_locked);
    if ((state.system.efer & efer_sce) != 0) {
        add(walk, {msr_of(state, 0xc0000082)}, "LSTAR", std::nullopt);
        add(walk, {msr_of(state, 0xc0000083)}, "CSTAR", std::nullopt);
    }
    // SDM Vol. 2B, "SYSENTER": a null selector raises #GP.
    if ((msr_of(state, 0x174) & 0xfffc) != 0)
        add(walk, {msr_of(state, 0x176)}, "SYSENTER_EIP", std::nullopt);
}

std::optional<TranslationDifference>
PinnedTranslations::compare(const GuestMemory& memory, const kvm_sregs& system, RootPages roots) const {
    assert(!roots.empty() && roots.size() <= max_roots);
    const Walk walk{.memory = memory, .system = system, .roots = roots};
    for (const Page& page : m_pages)
        for (size_t i = 0; i < roots.size(); ++i) {
            const Way& pinned = page.ways.at(i);
            WalkedEntries walked;
            const Way now = walk.along(roots[i], page.linear, walked);
            if (!leads_elsewhere(pinned, now))
                continue;
            TranslationDifference difference{.pinned_by = page.pinned_by,
                                             .gate = page.gate,
                                             .linear = page.linear,
                                             .root = roots[i],
                                             .entry = {},
                                             .state = {}};
            // Tables below an entry that differs are others too: the first tells.
            for (size_t level = 0; level < now.count; ++level) {
                const uint64_t expected = level < pinned.count ? pinned.entries.at(level) : 0;
                const uint64_t found = now.entries.at(level);
                if (!differ(expected, found) && level + 1 < now.count)
                    continue;
                const bool five = (system.cr4 & 1ULL << 12U) != 0;
                difference.level = (five ? 5U : 4U) - static_cast<unsigned>(level);
                difference.entry = walked.entries.at(level).address;
                difference.expected = expected;
                difference.found = found;
                break;
            }
            return difference;
        }
    return std::nullopt;
}

} // namespace casemate
