// SPDX-License-Identifier: Apache-2.0
// LockTable: which guest-physical pages are locked. Grows and is raised, never shrinks or is lowered. Two
// arrays by turns: lookups read the current one while the next state is written to the other, and look again
// when a change was published meanwhile, so they never wait and nothing old is kept.
#pragma once

#include "guard/lock.hpp"

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <expected>
#include <memory>
#include <optional>
#include <span>
#include <vector>

namespace casemate {

enum class LockRefusal {
    lowers_policy,   // some page is die_on_write and read_only was asked for
    too_many_ranges, // more than max_ranges separate ranges would be needed, or max_new_ranges in one go
};

// Lookups from any thread, without waiting; add() and undo() from one thread at a time (the caller's mutex).
class LockTable {
public:
    // Each separate range costs the host up to two memory areas of the 65,530 a process has by default
    // (linux Documentation/admin-guide/sysctl/vm.rst, max_map_count).
    static constexpr size_t max_ranges = 16384;
    // Of one add(), between what is locked already: each costs a change of the host's mappings or of KVM's
    // slots, which may take a millisecond, while the guest's other calls and the machine's end wait.
    static constexpr size_t max_new_ranges = CASEMATE_LOCK_MAX_PIECES;

    LockTable() = default;
    LockTable(const LockTable&) = delete;
    LockTable& operator=(const LockTable&) = delete;
    ~LockTable() = default;

    // What an add() changed.
    struct Change {
        std::vector<GuestRange> newly_locked; // whole pages, ascending, merged, that were not locked before
        uint64_t sequence = 0;                // for undo(); 0 when the table is as it was
    };
    // Adds a lock of whole pages below 2^52: all of it, or nothing. Pages already locked keep their kind and
    // take the higher policy; adjacent ranges of one policy and kind merge. Visible to lookups when it
    // returns: a WriteTicket taken later, or missed by a later drain_writes(), guards a lookup that sees it.
    std::expected<Change, LockRefusal> add(const Lock& lock);
    // Takes back the last add(), before any other, for when its pages could not be protected: the guest was
    // never told.
    void undo(const Change& change);

    // Whether no byte of the range is locked. Called for every host-side write: O(log ranges), no allocation.
    bool may_write(const GuestRange& range) const;
    // Of the locks that overlap the range, whole: the one of the highest policy, the lowest among equals.
    std::optional<Lock> find(const GuestRange& range) const;
    // A copy, ascending.
    std::vector<Lock> locks() const;
    size_t count() const;
    uint64_t locked_bytes() const;

private:
    // A range of one policy and kind as two words, so that each can be read while the writer is at work:
    // `first` is the start with policy and kind in the bits below a page.
    struct Entry {
        uint64_t first;
        uint64_t end;
    };
    struct Side {
        // Not touched before they are needed: an unused table costs no memory.
        std::unique_ptr<Entry[]> entries = std::make_unique_for_overwrite<Entry[]>(max_ranges);
        std::atomic<size_t> count = 0;
        std::atomic<uint64_t> locked_bytes = 0;

        Entry load(size_t index) const;
        void store(size_t index, const Entry& entry);
    };

    static Entry pack(uint64_t start, uint64_t end, LockPolicy policy, LockKind kind);
    static Lock unpack(const Entry& entry);
    static size_t first_ending_behind(const Side& side, size_t count, uint64_t address);
    template <typename Read>
    auto consistent(Read read) const;
    void publish(std::span<const Entry> pieces, size_t from, size_t to, uint64_t added_bytes);

    // The side in use is m_sides[m_sequence % 2].
    std::array<Side, 2> m_sides;
    std::atomic<uint64_t> m_sequence = 0;
    // Leading entries that both sides have alike: locks taken in ascending order need no copying.
    size_t m_equal_entries = 0;
};

} // namespace casemate
