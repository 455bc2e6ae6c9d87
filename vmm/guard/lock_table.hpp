// SPDX-License-Identifier: Apache-2.0
// LockTable: which guest-physical pages are locked. Grows and is raised, never shrinks or is lowered.
#pragma once

#include "guard/lock.hpp"

#include <atomic>
#include <cstddef>
#include <expected>
#include <memory>
#include <optional>
#include <span>
#include <vector>

namespace casemate {

enum class LockRefusal {
    lowers_policy,   // some page is die_on_write and read_only was asked for
    too_many_ranges, // more than max_ranges separate ranges would be needed
};

// Lookups from any thread, without waiting; add() and undo() from one thread at a time (the caller's mutex).
class LockTable {
public:
    // Each separate range costs the host up to two memory areas of the 65,530 a process has by default
    // (linux Documentation/admin-guide/sysctl/vm.rst, max_map_count).
    static constexpr size_t max_ranges = 16384;

    LockTable();
    LockTable(const LockTable&) = delete;
    LockTable& operator=(const LockTable&) = delete;
    ~LockTable();

    // What an add() changed; the table before it is kept until this dies.
    struct Change {
        std::vector<GuestRange> newly_locked; // whole pages, ascending, that were not locked before
        // ... whatever undo() needs
    };
    // Adds a lock of whole pages: all of it, or nothing. Pages already locked keep their kind and take the
    // higher policy; adjacent ranges of one policy and kind merge. Visible to lookups when it returns.
    std::expected<Change, LockRefusal> add(const Lock& lock);
    // Takes back the last add(), for when its pages could not be protected: the guest was never told.
    void undo(Change change);

    // Whether no byte of the range is locked. Called for every host-side write: O(log ranges), no allocation.
    bool may_write(const GuestRange& range) const;
    // The locked parts that overlap the range: the one of the highest policy, the lowest address among
    // equals.
    std::optional<Lock> find(const GuestRange& range) const;
    // A copy, ascending.
    std::vector<Lock> locks() const;
    size_t count() const;
    uint64_t locked_bytes() const;

private:
};

} // namespace casemate
