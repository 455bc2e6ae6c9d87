// SPDX-License-Identifier: Apache-2.0
// Mapping: the owner of one mmap(2) region.
#pragma once

#include "base/error.hpp"

#include <cstddef>
#include <cstdint>
#include <span>

namespace casemate {

class Mapping {
public:
    Mapping() = default;
    Mapping(Mapping&& other) noexcept;
    Mapping& operator=(Mapping&& other) noexcept;
    Mapping(const Mapping&) = delete;
    Mapping& operator=(const Mapping&) = delete;
    ~Mapping();

    // Private anonymous memory, zeroed, readable and writable, not reserved against swap; `alignment` (a
    // power of two, at least a page) lets huge pages in.
    static Result<Mapping> anonymous(uint64_t size_bytes, uint64_t alignment);
    // MAP_SHARED view of a descriptor from offset 0; the descriptor may be closed afterwards.
    static Result<Mapping> shared(int descriptor, uint64_t size_bytes, int protection);

    std::byte* data() const { return m_data; }
    uint64_t size() const { return m_size; }
    std::span<std::byte> bytes() const { return {m_data, m_size}; }

private:
    Mapping(std::byte* data, uint64_t size)
        : m_data(data)
        , m_size(size) {}

    std::byte* m_data = nullptr;
    uint64_t m_size = 0;
};

} // namespace casemate
