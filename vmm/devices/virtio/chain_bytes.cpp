// SPDX-License-Identifier: Apache-2.0
#include "devices/virtio/chain_bytes.hpp"

#include <algorithm>

namespace casemate::virtio {
namespace {

// Hands to `visit` each part of the stream's `bytes` bytes from `offset` on, until it fails.
template <typename Visit>
GuestResult<void> for_each_part(std::span<const GuestRange> ranges, uint64_t offset, uint64_t bytes,
                                Visit visit) {
    for (const GuestRange& range : ranges) {
        if (bytes == 0)
            return {};
        if (offset >= range.bytes()) {
            offset -= range.bytes();
            continue;
        }
        const uint64_t count = std::min(bytes, range.bytes() - offset);
        const auto part = range.part(offset, count);
        if (!part)
            return std::unexpected(part.error());
        if (const GuestResult<void> done = visit(*part); !done)
            return done;
        offset = 0;
        bytes -= count;
    }
    if (bytes != 0)
        return std::unexpected(GuestFault::outside_ram);
    return {};
}

uint64_t bytes_from(std::span<const GuestRange> ranges, uint64_t offset) {
    uint64_t bytes = 0;
    for (const GuestRange& range : ranges)
        bytes += range.bytes();
    return bytes - std::min(bytes, offset);
}

} // namespace

GuestResult<std::vector<GuestRange>> slice(std::span<const GuestRange> ranges, uint64_t offset,
                                           uint64_t bytes) {
    std::vector<GuestRange> parts;
    parts.reserve(ranges.size());
    const auto done = for_each_part(ranges, offset, bytes, [&](const GuestRange& part) -> GuestResult<void> {
        parts.push_back(part);
        return {};
    });
    if (!done)
        return std::unexpected(done.error());
    return parts;
}

GuestResult<void> read_bytes(const GuestMemory& memory, std::span<const GuestRange> ranges, uint64_t offset,
                             std::span<std::byte> destination) {
    if (bytes_from(ranges, offset) < destination.size())
        return std::unexpected(GuestFault::outside_ram);
    return for_each_part(ranges, offset, destination.size(), [&](const GuestRange& part) {
        const auto here = destination.first(part.bytes());
        destination = destination.subspan(part.bytes());
        return memory.read(part, here);
    });
}

GuestResult<void> write_bytes(const GuestMemory& memory, std::span<const GuestRange> ranges, uint64_t offset,
                              std::span<const std::byte> source) {
    if (bytes_from(ranges, offset) < source.size())
        return std::unexpected(GuestFault::outside_ram);
    return for_each_part(ranges, offset, source.size(), [&](const GuestRange& part) {
        const auto here = source.first(part.bytes());
        source = source.subspan(part.bytes());
        return memory.write(part.start(), here);
    });
}

} // namespace casemate::virtio
