// SPDX-License-Identifier: Apache-2.0
#include "guard/protection.hpp"

#include <cstring>

namespace casemate {

Result<std::span<std::byte>> Protection::replace_in_place(const GuestMemory& memory, const GuestRange& range,
                                                          const Fill& fill) {
    TRY(protect({&range, 1}));
    const std::span<std::byte> bytes = memory.bytes_behind(range);
    std::memset(bytes.data(), 0, bytes.size());
    fill(bytes);
    return bytes;
}

} // namespace casemate
