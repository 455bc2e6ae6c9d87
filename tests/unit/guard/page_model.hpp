// SPDX-License-Identifier: Apache-2.0
// PageModel: what LockTable promises, page by page and without thought for speed; tests compare the two.
#pragma once

#include "base/units.hpp"
#include "guard/lock_table.hpp"

#include <array>
#include <cstddef>
#include <expected>
#include <optional>
#include <vector>

namespace casemate {

inline bool same(const GuestRange& left, const GuestRange& right) {
    return left.start() == right.start() && left.bytes() == right.bytes();
}

inline bool same(const Lock& left, const Lock& right) {
    return same(left.range, right.range) && left.policy == right.policy && left.kind == right.kind;
}

class PageModel {
public:
    static constexpr size_t pages = 64;
    // Not zero, so that addresses before the first page exist too.
    static constexpr uint64_t base = 4_GiB - 16 * page_bytes;

    static GuestRange page_range(size_t first, size_t count) {
        return GuestRange::of(GuestPhysical{base + first * page_bytes}, count * page_bytes);
    }

    // The newly locked pages; nothing changed when refused.
    std::expected<std::vector<bool>, LockRefusal> add(size_t first, size_t count, LockPolicy policy,
                                                      LockKind kind) {
        for (size_t i = first; i < first + count; ++i)
            if (const auto& page = m_pages.at(i); page && page->policy > policy)
                return std::unexpected(LockRefusal::lowers_policy);
        std::vector<bool> added(pages);
        for (size_t i = first; i < first + count; ++i) {
            std::optional<State>& page = m_pages.at(i);
            added[i] = !page;
            page = State{policy, page ? page->kind : kind};
        }
        return added;
    }

    std::vector<Lock> locks() const {
        std::vector<Lock> all;
        for (size_t i = 0; i < pages;) {
            size_t next = i + 1;
            while (next < pages && m_pages[next] == m_pages[i])
                ++next;
            if (const auto& page = m_pages[i])
                all.push_back({page_range(i, next - i), page->policy, page->kind});
            i = next;
        }
        return all;
    }

    std::optional<Lock> find(const GuestRange& range) const {
        std::optional<Lock> found;
        for (const Lock& lock : locks())
            if (!range.empty() && lock.range.overlaps(range) && (!found || lock.policy > found->policy))
                found = lock;
        return found;
    }

    // Whether the table says the same of everything but single ranges.
    bool matches(const LockTable& table) const {
        const std::vector<Lock> expected = locks();
        const std::vector<Lock> actual = table.locks();
        uint64_t bytes = 0;
        for (const Lock& lock : expected)
            bytes += lock.range.bytes();
        if (actual.size() != expected.size() || table.count() != expected.size() ||
            table.locked_bytes() != bytes)
            return false;
        for (size_t i = 0; i < actual.size(); ++i)
            if (!same(actual[i], expected[i]))
                return false;
        return true;
    }

    // Whether the table says the same of the range, which may be any.
    bool matches(const LockTable& table, const GuestRange& range) const {
        const std::optional<Lock> expected = find(range);
        const std::optional<Lock> actual = table.find(range);
        return table.may_write(range) == !expected && actual.has_value() == expected.has_value() &&
               (!actual || same(*actual, *expected));
    }

    // Whether `ranges` are these pages: ascending, merged, none empty.
    static bool are_pages(const std::vector<GuestRange>& ranges, const std::vector<bool>& wanted) {
        size_t index = 0;
        for (size_t i = 0; i < pages;) {
            size_t next = i + 1;
            while (next < pages && wanted[next] == wanted[i])
                ++next;
            if (wanted[i]) {
                if (index == ranges.size() || !same(ranges[index], page_range(i, next - i)))
                    return false;
                ++index;
            }
            i = next;
        }
        return index == ranges.size();
    }

private:
    struct State {
        LockPolicy policy;
        LockKind kind;
        bool operator==(const State&) const = default;
    };
    std::array<std::optional<State>, pages> m_pages{};
};

} // namespace casemate
