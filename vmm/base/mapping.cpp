// SPDX-License-Identifier: Apache-2.0
#include "base/mapping.hpp"

#include "base/units.hpp"

#include <cerrno>
#include <sys/mman.h>
#include <utility>

namespace casemate {

Mapping::Mapping(Mapping&& other) noexcept
    : m_data(std::exchange(other.m_data, nullptr))
    , m_size(std::exchange(other.m_size, 0)) {}

Mapping& Mapping::operator=(Mapping&& other) noexcept {
    std::swap(m_data, other.m_data);
    std::swap(m_size, other.m_size);
    return *this;
}

Mapping::~Mapping() {
    if (m_data != nullptr)
        munmap(m_data, m_size);
}

Result<Mapping> Mapping::anonymous(uint64_t size_bytes, uint64_t alignment) {
    // Room for the alignment is mapped too and cut off again: mmap itself only promises a page.
    const uint64_t padded = size_bytes + (alignment > page_bytes ? alignment : 0);
    void* const raw =
        mmap(nullptr, padded, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (raw == MAP_FAILED)
        return fail(Error::system("mmap " + format_bytes(size_bytes) + " of anonymous memory", errno));
    const uint64_t start = reinterpret_cast<uint64_t>(raw);
    const uint64_t aligned = align_up(start, alignment);
    const uint64_t tail = start + padded - (aligned + size_bytes);
    auto* const data = static_cast<std::byte*>(raw) + (aligned - start);
    if (aligned != start)
        munmap(raw, aligned - start);
    if (tail != 0)
        munmap(data + size_bytes, tail);
    return Mapping(data, size_bytes);
}

Result<Mapping> Mapping::shared(int descriptor, uint64_t size_bytes, int protection) {
    void* const data = mmap(nullptr, size_bytes, protection, MAP_SHARED, descriptor, 0);
    if (data == MAP_FAILED)
        return fail(Error::system("mmap " + format_bytes(size_bytes) + " shared", errno));
    return Mapping(static_cast<std::byte*>(data), size_bytes);
}

} // namespace casemate
