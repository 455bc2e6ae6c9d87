// SPDX-License-Identifier: Apache-2.0
#include "guard/lock_table.hpp"

#include "base/units.hpp"

#include <algorithm>
#include <cassert>

namespace casemate {
namespace {

constexpr uint64_t policy_bit = 1;
constexpr unsigned kind_shift = 1;
constexpr uint64_t attributes_mask = page_bytes - 1;
static_assert(CASEMATE_POLICY_DIE_ON_WRITE == policy_bit && CASEMATE_POLICY_READ_ONLY == 0);
static_assert((CASEMATE_KIND_DATA << kind_shift) < page_bytes);

} // namespace

LockTable::Entry LockTable::pack(uint64_t start, uint64_t end, LockPolicy policy, LockKind kind) {
    return {start | static_cast<uint64_t>(policy) | static_cast<uint64_t>(kind) << kind_shift, end};
}

Lock LockTable::unpack(const Entry& entry) {
    const uint64_t start = entry.first & ~attributes_mask;
    return {.range = GuestRange::of(GuestPhysical{start}, entry.end - start),
            .policy = static_cast<LockPolicy>(entry.first & policy_bit),
            .kind = static_cast<LockKind>((entry.first & attributes_mask) >> kind_shift)};
}

// Acquire and release: a lookup that reads a word of a state not yet published then also sees that the state
// it began with is no longer the current one.
LockTable::Entry LockTable::Side::load(size_t index) const {
    Entry& entry = entries[index];
    return {std::atomic_ref(entry.first).load(std::memory_order_acquire),
            std::atomic_ref(entry.end).load(std::memory_order_acquire)};
}

void LockTable::Side::store(size_t index, const Entry& entry) {
    std::atomic_ref(entries[index].first).store(entry.first, std::memory_order_release);
    std::atomic_ref(entries[index].end).store(entry.end, std::memory_order_release);
}

// Any garbage may come of words that are being written, but no index outside the array: `count` was stored
// once, so it is within bounds.
size_t LockTable::first_ending_behind(const Side& side, size_t count, uint64_t address) {
    size_t low = 0;
    size_t high = count;
    while (low < high) {
        const size_t middle = low + (high - low) / 2;
        if (side.load(middle).end <= address)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

// The side being read is written again only after the next change is published.
template <typename Read>
auto LockTable::consistent(Read read) const {
    for (;;) {
        const uint64_t sequence = m_sequence.load();
        auto value = read(m_sides[sequence % 2]);
        if (m_sequence.load() == sequence) [[likely]]
            return value;
    }
}

// Replaces the current entries [from, to) by `pieces`.
void LockTable::publish(std::span<const Entry> pieces, size_t from, size_t to, uint64_t added_bytes) {
    const uint64_t sequence = m_sequence.load(std::memory_order_relaxed);
    const Side& now = m_sides[sequence % 2];
    Side& next = m_sides[(sequence + 1) % 2];
    const size_t old_count = now.count.load(std::memory_order_relaxed);
    size_t count = std::min(from, m_equal_entries);
    while (count < from) {
        next.store(count, now.load(count));
        ++count;
    }
    for (const Entry& piece : pieces)
        next.store(count++, piece);
    for (size_t i = to; i < old_count; ++i)
        next.store(count++, now.load(i));
    next.locked_bytes.store(now.locked_bytes.load(std::memory_order_relaxed) + added_bytes,
                            std::memory_order_release);
    next.count.store(count, std::memory_order_release);
    m_equal_entries = from;
    // Sequentially consistent, as are lookups and write tickets: see GuestMemory::drain_writes().
    m_sequence.store(sequence + 1);
}

std::expected<LockTable::Change, LockRefusal> LockTable::add(const Lock& lock) {
    const uint64_t start = lock.range.start().value;
    const uint64_t end = lock.range.end();
    assert(is_aligned(start, page_bytes) && is_aligned(end, page_bytes));
    if (lock.range.empty())
        return Change{};
    const Side& now = m_sides[m_sequence.load(std::memory_order_relaxed) % 2];
    const size_t count = now.count.load(std::memory_order_relaxed);

    std::vector<Entry> pieces;
    const auto append = [&](uint64_t from, uint64_t to, LockPolicy policy, LockKind kind) {
        if (from >= to)
            return;
        const Entry piece = pack(from, to, policy, kind);
        if (!pieces.empty() && pieces.back().end == from &&
            ((pieces.back().first ^ piece.first) & attributes_mask) == 0)
            pieces.back().end = to;
        else
            pieces.push_back(piece);
    };
    Change change;
    uint64_t added_bytes = 0;
    bool raised = false;
    uint64_t done = start; // everything before it is in `pieces`
    const auto append_unlocked_until = [&](uint64_t to) {
        if (done >= to)
            return;
        append(done, to, lock.policy, lock.kind);
        change.newly_locked.push_back(GuestRange::of(GuestPhysical{done}, to - done));
        added_bytes += to - done;
        done = to;
    };

    // From the first entry that overlaps or touches the range to the last.
    const size_t from = start == 0 ? 0 : first_ending_behind(now, count, start - 1);
    size_t to = from;
    for (; to < count; ++to) {
        const Lock other = unpack(now.load(to));
        const uint64_t other_start = other.range.start().value;
        const uint64_t other_end = other.range.end();
        if (other_start > end)
            break;
        append(other_start, std::min(other_end, start), other.policy, other.kind);
        append_unlocked_until(std::min(other_start, end));
        const uint64_t overlap_start = std::max(other_start, start);
        const uint64_t overlap_end = std::min(other_end, end);
        if (overlap_start < overlap_end) {
            if (other.policy > lock.policy)
                return std::unexpected(LockRefusal::lowers_policy);
            raised = raised || other.policy < lock.policy;
            append(overlap_start, overlap_end, lock.policy, other.kind);
            done = overlap_end;
        }
        append(std::max(other_start, end), other_end, other.policy, other.kind);
    }
    append_unlocked_until(end);

    if (added_bytes == 0 && !raised)
        return Change{};
    if (count - (to - from) + pieces.size() > max_ranges || change.newly_locked.size() > max_new_ranges)
        return std::unexpected(LockRefusal::too_many_ranges);
    publish(pieces, from, to, added_bytes);
    change.sequence = m_sequence.load(std::memory_order_relaxed);
    return change;
}

void LockTable::undo(const Change& change) {
    if (change.sequence == 0)
        return;
    const uint64_t sequence = m_sequence.load(std::memory_order_relaxed);
    assert(change.sequence == sequence);
    // The other side has what add() began with.
    m_sequence.store(sequence + 1);
}

bool LockTable::may_write(const GuestRange& range) const {
    if (range.empty())
        return true;
    return consistent([&](const Side& side) {
        const size_t count = side.count.load(std::memory_order_acquire);
        const size_t index = first_ending_behind(side, count, range.start().value);
        return index == count || (side.load(index).first & ~attributes_mask) >= range.end();
    });
}

std::optional<Lock> LockTable::find(const GuestRange& range) const {
    if (range.empty())
        return std::nullopt;
    return consistent([&](const Side& side) {
        std::optional<Lock> found;
        const size_t count = side.count.load(std::memory_order_acquire);
        for (size_t i = first_ending_behind(side, count, range.start().value); i < count; ++i) {
            const Lock lock = unpack(side.load(i));
            if (lock.range.start().value >= range.end())
                break;
            if (!found || lock.policy > found->policy)
                found = lock;
            if (found->policy == LockPolicy::die_on_write)
                break;
        }
        return found;
    });
}

std::vector<Lock> LockTable::locks() const {
    return consistent([](const Side& side) {
        const size_t count = side.count.load(std::memory_order_acquire);
        std::vector<Lock> all;
        all.reserve(count);
        for (size_t i = 0; i < count; ++i)
            all.push_back(unpack(side.load(i)));
        return all;
    });
}

size_t LockTable::count() const {
    return consistent([](const Side& side) { return side.count.load(std::memory_order_acquire); });
}

uint64_t LockTable::locked_bytes() const {
    return consistent([](const Side& side) { return side.locked_bytes.load(std::memory_order_acquire); });
}

} // namespace casemate
