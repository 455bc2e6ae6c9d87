// SPDX-License-Identifier: Apache-2.0
// Mapping: the owner of one mmap(2) region. Parts of it may be made read-only, and sealed so for as long as
// the process lives; parts may be replaced.
#pragma once

#include "base/error.hpp"

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

namespace casemate {

class Mapping {
public:
    Mapping() = default;
    Mapping(Mapping&& other) noexcept;
    Mapping& operator=(Mapping&& other) noexcept;
    Mapping(const Mapping&) = delete;
    Mapping& operator=(const Mapping&) = delete;
    // Unmaps all but what is sealed, which nothing can unmap any more.
    ~Mapping();

    // Private anonymous memory, zeroed, readable and writable, not reserved against swap; `alignment` (a
    // power of two, at least a page) lets huge pages in.
    static Result<Mapping> anonymous(uint64_t size_bytes, uint64_t alignment);
    // MAP_SHARED view of a descriptor from offset 0; the descriptor may be closed afterwards.
    static Result<Mapping> shared(int descriptor, uint64_t size_bytes, int protection);

    std::byte* data() const { return m_data; }
    uint64_t size() const { return m_size; }
    std::span<std::byte> bytes() const { return {m_data, m_size}; }

    // mprotect(2) of whole pages inside. On failure any part may have changed.
    Result<void> set_protection(uint64_t offset, uint64_t size_bytes, int protection);
    // Whole pages inside become a MAP_SHARED view of a descriptor from `descriptor_offset`, which no child
    // inherits; the descriptor may be closed afterwards. Accesses that are under way wait. On failure the
    // pages are what they were, or zeroed ones.
    Result<void> replace(uint64_t offset, uint64_t size_bytes, int descriptor, int protection,
                         uint64_t descriptor_offset = 0);
    // madvise(2) of all of it.
    Result<void> keep_from_children() const;
    // mseal(2) of whole pages inside: from now on no system call of this process changes their protection,
    // drops their contents, unmaps or replaces them. Linux 6.10 or later.
    Result<void> seal(uint64_t offset, uint64_t size_bytes);
    uint64_t sealed_bytes() const;

private:
    struct Extent {
        uint64_t start; // offset
        uint64_t end;
    };

    Mapping(std::byte* data, uint64_t size)
        : m_data(data)
        , m_size(size) {}

    std::byte* m_data = nullptr;
    uint64_t m_size = 0;
    std::vector<Extent> m_sealed; // ascending, merged
};

} // namespace casemate
