// SPDX-License-Identifier: Apache-2.0
// The bytes of a descriptor chain as one stream: drivers may cut a request anywhere (virtio 1.2, 2.7.4.1).
#pragma once

#include "memory/guest_memory.hpp"

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

namespace casemate::virtio {

// The `bytes` bytes from `offset` on; outside_ram when the ranges end before.
GuestResult<std::vector<GuestRange>> slice(std::span<const GuestRange> ranges, uint64_t offset,
                                           uint64_t bytes);

// Copy the stream from `offset` on. After a fault the parts before the bad one may have been copied.
GuestResult<void> read_bytes(const GuestMemory& memory, std::span<const GuestRange> ranges, uint64_t offset,
                             std::span<std::byte> destination);
GuestResult<void> write_bytes(const GuestMemory& memory, std::span<const GuestRange> ranges, uint64_t offset,
                              std::span<const std::byte> source);

} // namespace casemate::virtio
