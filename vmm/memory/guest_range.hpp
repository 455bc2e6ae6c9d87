// SPDX-License-Identifier: Apache-2.0
// GuestValue and GuestRange: numbers a guest supplied, and the checked range that can be made of them.
#pragma once

#include "base/error.hpp"
#include "base/units.hpp"

#include <cstdint>
#include <expected>
#include <optional>

namespace casemate {

// What a guest's access or request can be refused for. Not an Error: the host did not fail.
enum class GuestFault {
    outside_ram, // some byte is not RAM, or the range wraps
    locked,      // the write gate refuses a write to some byte
    malformed,   // the request makes no sense in itself
};

template <typename T>
using GuestResult = std::expected<T, GuestFault>;

// A number that a guest chose. It cannot be computed with or compared until one of the checks lets it out.
template <typename T>
class GuestValue {
public:
    constexpr GuestValue() = default;
    constexpr explicit GuestValue(T value)
        : m_value(value) {}

    // The value when it is below `limit`.
    constexpr std::optional<T> index_below(T limit) const {
        return m_value < limit ? std::optional<T>(m_value) : std::nullopt;
    }
    // The value when it is at most `limit`.
    constexpr std::optional<T> at_most(T limit) const {
        return m_value <= limit ? std::optional<T>(m_value) : std::nullopt;
    }
    // Whether all bits of `mask` are set: for flag words.
    constexpr bool has(T mask) const { return (m_value & mask) == mask; }
    // The bare value, for messages and for handing back to the guest; never for an address or a length.
    constexpr T for_report() const { return m_value; }

private:
    friend class GuestRange;
    T m_value{};
};

// `bytes` bytes from `start`: start + bytes does not wrap. Says nothing about RAM being there.
class GuestRange {
public:
    static constexpr GuestResult<GuestRange> from_guest(GuestValue<uint64_t> address,
                                                        GuestValue<uint64_t> bytes) {
        if (address.m_value + bytes.m_value < address.m_value)
            return std::unexpected(GuestFault::outside_ram);
        return GuestRange(GuestPhysical{address.m_value}, bytes.m_value);
    }
    static constexpr GuestResult<GuestRange> from_guest(GuestValue<uint64_t> address,
                                                        GuestValue<uint32_t> bytes) {
        return from_guest(address, GuestValue<uint64_t>(bytes.m_value));
    }
    // For the monitor's own constants; the caller makes sure that the range does not wrap.
    static constexpr GuestRange of(GuestPhysical start, uint64_t bytes) { return GuestRange(start, bytes); }

    constexpr GuestPhysical start() const { return m_start; }
    constexpr uint64_t bytes() const { return m_bytes; }
    // One past the last byte.
    constexpr uint64_t end() const { return m_start.value + m_bytes; }
    constexpr bool empty() const { return m_bytes == 0; }
    constexpr bool overlaps(const GuestRange& other) const {
        return m_start.value < other.end() && other.m_start.value < end();
    }
    constexpr bool contains(const GuestRange& other) const {
        return m_start.value <= other.m_start.value && other.end() <= end();
    }
    // The part that starts `offset` bytes in and is `bytes` long, when it lies inside.
    constexpr GuestResult<GuestRange> part(uint64_t offset, uint64_t bytes) const {
        if (offset > m_bytes || bytes > m_bytes - offset)
            return std::unexpected(GuestFault::outside_ram);
        return GuestRange(GuestPhysical{m_start.value + offset}, bytes);
    }

private:
    constexpr GuestRange(GuestPhysical start, uint64_t bytes)
        : m_start(start)
        , m_bytes(bytes) {}

    GuestPhysical m_start;
    uint64_t m_bytes = 0;
};

} // namespace casemate
