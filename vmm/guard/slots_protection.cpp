// SPDX-License-Identifier: Apache-2.0
#include "guard/slots_protection.hpp"

#include <algorithm>
#include <fmt/core.h>
#include <utility>

namespace casemate {
namespace {

// While vCPUs are stopped, each range costs up to three slots that go and three that come.
constexpr size_t ranges_per_stop = 16;

Error no_more_slots(size_t needed, size_t limit) {
    return Error(fmt::format("lock by read-only memory slots: {} slots are needed, the limit is {}", needed,
                             limit))
        .hint("let the guest lock fewer, larger ranges, or use --protect mapping");
}

} // namespace

Result<std::unique_ptr<SlotsProtection>> SlotsProtection::create(Parts parts) {
    if (parts.vm.check_extension(KVM_CAP_READONLY_MEM) == 0)
        return fail(Error("this KVM has no read-only memory slots").hint("use --protect mapping"));
    // KVM's limit is one of numbers, and some are taken.
    const auto numbers = static_cast<size_t>(parts.vm.check_extension(KVM_CAP_NR_MEMSLOTS));
    const size_t free = numbers - std::min<size_t>(numbers, parts.first_free_slot);
    const size_t limit = std::min(most_slots, free + parts.memory.regions().size());
    return std::unique_ptr<SlotsProtection>(new SlotsProtection(std::move(parts), limit));
}

SlotsProtection::SlotsProtection(Parts parts, size_t limit)
    : m_parts(std::move(parts))
    , m_limit(limit)
    , m_next_number(m_parts.first_free_slot) {
    uint32_t number = 0;
    for (const GuestMemory::Region& region : m_parts.memory.regions())
        m_slots.emplace(region.start.value, Slot{.number = number++,
                                                 .range = GuestRange::of(region.start, region.memory.size()),
                                                 .read_only = false});
}

std::vector<SlotsProtection::Slot> SlotsProtection::slots() const {
    std::vector<Slot> slots;
    slots.reserve(m_slots.size());
    for (const auto& [start, slot] : m_slots)
        slots.push_back(slot);
    return slots;
}

// What is created has no numbers yet. Slots that touch were cut from one region, so they can be one again.
Result<SlotsProtection::Change> SlotsProtection::plan(std::span<const GuestRange> ranges) const {
    Change change;
    const auto add = [&change](uint64_t start, uint64_t end, bool read_only) {
        if (start == end)
            return;
        if (read_only && !change.created.empty()) {
            Slot& last = change.created.back();
            if (last.read_only && last.range.end() == start) {
                last.range = GuestRange::of(last.range.start(), end - last.range.start().value);
                return;
            }
        }
        change.created.push_back({.range = GuestRange::of({start}, end - start), .read_only = read_only});
    };
    const auto take_over = [&](const Slot& slot) {
        change.removed.push_back(slot);
        add(slot.range.start().value, slot.range.end(), true);
    };
    for (auto next = ranges.begin(); next != ranges.end();) {
        const auto behind = m_slots.upper_bound(next->start().value);
        const auto found = behind == m_slots.begin() ? m_slots.end() : std::prev(behind);
        if (found == m_slots.end() || found->second.read_only || !found->second.range.contains(*next) ||
            next->empty())
            return fail(Error(fmt::format("lock by read-only memory slots: {}, {} is not writable RAM",
                                          to_string(next->start()), format_bytes(next->bytes()))));
        const GuestRange& cut = found->second.range;
        if (next->start() == cut.start() && found != m_slots.begin()) {
            const Slot& before = std::prev(found)->second;
            const bool taken =
                !change.created.empty() && change.created.back().range.end() == before.range.end();
            if (before.read_only && before.range.end() == cut.start().value && !taken)
                take_over(before);
        }
        change.removed.push_back(found->second);
        uint64_t at = cut.start().value;
        for (; next != ranges.end() && cut.contains(*next) && at <= next->start().value; ++next) {
            add(at, next->start().value, false);
            add(next->start().value, next->end(), true);
            at = next->end();
        }
        add(at, cut.end(), false);
        if (at == cut.end() && behind != m_slots.end() && behind->second.read_only &&
            behind->second.range.start().value == at)
            take_over(behind->second);
    }
    if (const size_t needed = m_slots.size() - change.removed.size() + change.created.size();
        needed > m_limit)
        return fail(no_more_slots(needed, m_limit));
    return change;
}

// By the time a slot is created those that go are gone.
void SlotsProtection::number(Change& change) const {
    auto gone = change.removed.begin();
    auto free = m_free_numbers.begin();
    uint32_t next = m_next_number;
    for (Slot& slot : change.created) {
        if (gone != change.removed.end())
            slot.number = (gone++)->number;
        else if (free != m_free_numbers.end())
            slot.number = *free++;
        else
            slot.number = next++;
    }
}

Result<void> SlotsProtection::create(const Slot& slot) const {
    return m_parts.vm.set_memory_slot(slot.number, slot.range.start(), slot.range.bytes(),
                                      m_parts.memory.bytes_behind(slot.range).data(),
                                      slot.read_only ? KVM_MEM_READONLY : 0);
}

Result<void> SlotsProtection::remove(const Slot& slot) const {
    return m_parts.vm.set_memory_slot(slot.number, slot.range.start(), 0, nullptr);
}

// KVM changes the read-only flag of no slot that exists.
Result<void> SlotsProtection::try_to_make(const Change& change, Change& done) const {
    for (const Slot& slot : change.removed) {
        TRY(remove(slot));
        done.removed.push_back(slot);
    }
    for (const Slot& slot : change.created) {
        TRY(create(slot));
        done.created.push_back(slot);
    }
    return {};
}

// All of it or, on failure, nothing.
Result<void> SlotsProtection::make(const Change& change) {
    Result<void> made;
    m_parts.with_vcpus_stopped([&] {
        Change done;
        made = try_to_make(change, done);
        if (made)
            return;
        const Change back{.removed = std::move(done.created), .created = std::move(done.removed)};
        Change undone;
        if (const auto restored = try_to_make(back, undone); !restored)
            m_parts.broken(restored.error());
    });
    if (!made)
        return made;
    for (const Slot& slot : change.removed) {
        m_slots.erase(slot.range.start().value);
        m_free_numbers.insert(slot.number);
    }
    for (const Slot& slot : change.created) {
        m_slots.emplace(slot.range.start().value, slot);
        m_free_numbers.erase(slot.number);
        m_next_number = std::max(m_next_number, slot.number + 1);
    }
    return {};
}

Result<void> SlotsProtection::protect(std::span<const GuestRange> ranges) {
    std::vector<Change> made;
    const auto protect_few = [&](std::span<const GuestRange> few) -> Result<void> {
        Change change = TRY(plan(few));
        number(change);
        TRY(make(change));
        made.push_back(std::move(change));
        return {};
    };
    while (!ranges.empty()) {
        const auto few = ranges.first(std::min(ranges.size(), ranges_per_stop));
        ranges = ranges.subspan(few.size());
        if (m_parts.ending.stop_requested())
            return fail(Error("lock by read-only memory slots: the machine is ending"));
        const auto done = protect_few(few);
        if (done)
            continue;
        for (; !made.empty(); made.pop_back())
            if (const auto undone = make({.removed = made.back().created, .created = made.back().removed});
                !undone) {
                m_parts.broken(undone.error());
                break;
            }
        return done;
    }
    return {};
}

Result<std::span<std::byte>> SlotsProtection::replace(const GuestRange& range, const Fill& fill) {
    return replace_in_place(m_parts.memory, range, fill);
}

} // namespace casemate
