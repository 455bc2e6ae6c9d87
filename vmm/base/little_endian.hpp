// SPDX-License-Identifier: Apache-2.0
// Little-endian integers without alignment: the members of every structure shared with a guest or a file.
#pragma once

#include <bit>
#include <cstdint>
#include <cstring>
#include <type_traits>

namespace casemate {

static_assert(std::endian::native == std::endian::little, "x86-64 hosts only");

template <typename T>
    requires std::is_unsigned_v<T>
class LittleEndian {
public:
    LittleEndian() = default;
    constexpr LittleEndian(T value)
        : m_bytes(std::bit_cast<Bytes>(value)) {}
    constexpr operator T() const { return std::bit_cast<T>(m_bytes); }

private:
    struct Bytes {
        unsigned char data[sizeof(T)];
    };
    Bytes m_bytes;
};

using Le16 = LittleEndian<uint16_t>;
using Le32 = LittleEndian<uint32_t>;
using Le64 = LittleEndian<uint64_t>;

static_assert(sizeof(Le64) == 8 && alignof(Le64) == 1 && std::is_trivially_copyable_v<Le64>);

} // namespace casemate
