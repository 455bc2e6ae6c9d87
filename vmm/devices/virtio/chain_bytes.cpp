// SPDX-License-Identifier: Apache-2.0
#include "devices/virtio/chain_bytes.hpp"

#include <algorithm>

namespace casemate::virtio {

GuestResult<std::vector<GuestRange>> slice(std::span<const GuestRange> ranges, uint64_t offset,
                                           uint64_t bytes) {
    std::vector<GuestRange> parts;
    for (const GuestRange& range : ranges) {
        if (bytes == 0)
            break;
        if (offset >= range.bytes()) {
            offset -= range.bytes();
            continue;
        }
        const uint64_t count = std::min(bytes, range.bytes() - offset);
        const auto part = range.part(offset, count);
        if (!part)
            return std::unexpected(part.error());
        parts.push_back(*part);
        offset = 0;
        bytes -= count;
    }
    if (bytes != 0)
        return std::unexpected(GuestFault::outside_ram);
    return parts;
}

GuestResult<void> read_bytes(const GuestMemory& memory, std::span<const GuestRange> ranges, uint64_t offset,
                             std::span<std::byte> destination) {
    const auto parts = slice(ranges, offset, destination.size());
    if (!parts)
        return std::unexpected(parts.error());
    for (const GuestRange& part : *parts) {
        if (const auto done = memory.read(part, destination.first(part.bytes())); !done)
            return done;
        destination = destination.subspan(part.bytes());
    }
    return {};
}

GuestResult<void> write_bytes(const GuestMemory& memory, std::span<const GuestRange> ranges, uint64_t offset,
                              std::span<const std::byte> source) {
    const auto parts = slice(ranges, offset, source.size());
    if (!parts)
        return std::unexpected(parts.error());
    for (const GuestRange& part : *parts) {
        if (const auto done = memory.write(part.start(), source.first(part.bytes())); !done)
            return done;
        source = source.subspan(part.bytes());
    }
    return {};
}

} // namespace casemate::virtio
