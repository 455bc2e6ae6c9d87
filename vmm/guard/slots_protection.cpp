// SPDX-License-Identifier: Apache-2.0
#include "guard/slots_protection.hpp"

#include <algorithm>
#include <cstring>
#include <fmt/core.h>
#include <set>

namespace casemate {
namespace {

constexpr uint32_t no_number = ~uint32_t{0};

} // namespace

SlotsProtection::SlotsProtection(Parts parts)
    : m_parts(std::move(parts)) {
    for (const GuestMemory::Region& region : m_parts.memory.regions())
        m_slots.push_back({.number = static_cast<uint32_t>(m_slots.size()),
                           .range = GuestRange::of(region.start, region.memory.size()),
                           .read_only = false});
}

// Slots that stay as they are keep their numbers; the others have none.
SlotsProtection::Slots SlotsProtection::with_read_only(std::span<const GuestRange> ranges) const {
    Slots wanted;
    const auto add = [&wanted](uint64_t start, uint64_t end, bool read_only) {
        if (start == end)
            return;
        // Read-only neighbours are one slot: both were cut from one region.
        if (!wanted.empty() && read_only && wanted.back().read_only && wanted.back().range.end() == start) {
            Slot& last = wanted.back();
            last = {no_number, GuestRange::of(last.range.start(), end - last.range.start().value), true};
            return;
        }
        wanted.push_back({no_number, GuestRange::of({start}, end - start), read_only});
    };
    auto next = ranges.begin();
    for (const Slot& slot : m_slots) {
        const bool cut = !slot.read_only && next != ranges.end() && slot.range.contains(*next);
        const bool joins = slot.read_only && !wanted.empty() && wanted.back().read_only &&
                           wanted.back().range.end() == slot.range.start().value;
        if (!cut && !joins) {
            wanted.push_back(slot);
            continue;
        }
        uint64_t at = slot.range.start().value;
        for (; next != ranges.end() && slot.range.contains(*next); ++next) {
            add(at, next->start().value, slot.read_only);
            add(next->start().value, next->end(), true);
            at = next->end();
        }
        add(at, slot.range.end(), slot.read_only);
    }
    return wanted;
}

Result<void> SlotsProtection::number(Slots& wanted) const {
    const auto limit = static_cast<uint32_t>(m_parts.vm.check_extension(KVM_CAP_NR_MEMSLOTS));
    std::set<uint32_t> used;
    for (const Slot& slot : wanted)
        used.insert(slot.number);
    uint32_t next = m_parts.first_free_slot;
    for (Slot& slot : wanted) {
        if (slot.number != no_number)
            continue;
        while (used.contains(next))
            ++next;
        if (next >= limit)
            return fail(
                Error(fmt::format("lock by read-only slots: {} are needed, KVM has {}", wanted.size(), limit))
                    .hint("lock fewer, larger ranges, or use --protect mapping"));
        slot.number = next++;
    }
    return {};
}

Result<void> SlotsProtection::create(const Slot& slot) const {
    return m_parts.vm.set_memory_slot(slot.number, slot.range.start(), slot.range.bytes(),
                                      m_parts.memory.bytes_behind(slot.range).data(),
                                      slot.read_only ? KVM_MEM_READONLY : 0);
}

Result<void> SlotsProtection::remove(const Slot& slot) const {
    return m_parts.vm.set_memory_slot(slot.number, slot.range.start(), 0, nullptr);
}

// With vCPUs stopped. All of it or, on failure, nothing.
Result<void> SlotsProtection::change_to(const Slots& wanted) {
    const auto has = [](const Slots& slots, const Slot& slot) {
        const auto found = std::ranges::lower_bound(slots, slot.range.start(), {},
                                                    [](const Slot& other) { return other.range.start(); });
        return found != slots.end() && found->number == slot.number &&
               found->range.start() == slot.range.start() && found->range.bytes() == slot.range.bytes() &&
               found->read_only == slot.read_only;
    };
    Slots removed;
    Slots created;
    const auto apply = [&]() -> Result<void> {
        for (const Slot& slot : m_slots)
            if (!has(wanted, slot)) {
                TRY(remove(slot));
                removed.push_back(slot);
            }
        for (const Slot& slot : wanted)
            if (!has(m_slots, slot)) {
                TRY(create(slot));
                created.push_back(slot);
            }
        return {};
    };
    auto done = apply();
    if (done) {
        m_slots = wanted;
        return {};
    }
    const auto restore = [&]() -> Result<void> {
        for (const Slot& slot : created)
            TRY(remove(slot));
        for (const Slot& slot : removed)
            TRY(create(slot));
        return {};
    };
    if (const auto restored = restore(); !restored)
        m_parts.ram_lost(restored.error());
    return done;
}

Result<void> SlotsProtection::protect(std::span<const GuestRange> ranges) {
    Slots wanted = with_read_only(ranges);
    TRY(number(wanted));
    Result<void> done;
    m_parts.with_vcpus_stopped([&] { done = change_to(wanted); });
    return done;
}

Result<std::span<std::byte>> SlotsProtection::replace(const GuestRange& range, const Fill& fill) {
    TRY(protect({&range, 1}));
    const std::span<std::byte> bytes = m_parts.memory.bytes_behind(range);
    std::memset(bytes.data(), 0, bytes.size());
    fill(bytes);
    return bytes;
}

} // namespace casemate
