// SPDX-License-Identifier: Apache-2.0
#include "base/mapping.hpp"

#include "base/units.hpp"

#include <algorithm>
#include <cerrno>
#include <sys/mman.h>
#include <unistd.h>
#include <utility>

namespace casemate {

Mapping::Mapping(Mapping&& other) noexcept
    : m_data(std::exchange(other.m_data, nullptr))
    , m_size(std::exchange(other.m_size, 0))
    , m_sealed(std::exchange(other.m_sealed, {})) {}

Mapping& Mapping::operator=(Mapping&& other) noexcept {
    std::swap(m_data, other.m_data);
    std::swap(m_size, other.m_size);
    std::swap(m_sealed, other.m_sealed);
    return *this;
}

Mapping::~Mapping() {
    if (m_data == nullptr)
        return;
    // munmap refuses a range that holds one sealed page, whole.
    uint64_t done = 0;
    for (const Extent& extent : m_sealed) {
        if (extent.start > done)
            munmap(m_data + done, extent.start - done);
        done = extent.end;
    }
    if (done < m_size)
        munmap(m_data + done, m_size - done);
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

Result<void> Mapping::set_protection(uint64_t offset, uint64_t size_bytes, int protection) {
    if (mprotect(m_data + offset, size_bytes, protection) != 0)
        return fail(Error::system("mprotect", errno));
    return {};
}

Result<void> Mapping::replace(uint64_t offset, uint64_t size_bytes, int descriptor, int protection,
                              uint64_t descriptor_offset) {
    std::byte* const start = m_data + offset;
    const bool mapped = mmap(start, size_bytes, protection, MAP_SHARED | MAP_FIXED, descriptor,
                             static_cast<off_t>(descriptor_offset)) != MAP_FAILED;
    if (mapped && madvise(start, size_bytes, MADV_DONTFORK) == 0)
        return {};
    const int error = errno;
    // What was there may be gone (linux v6.12 mm/mmap.c, __mmap_region), and a hole would end the process at
    // the next access.
    unsigned char resident = 0;
    if (mapped || mincore(start, page_bytes, &resident) != 0) {
        void* const zeroed = mmap(start, size_bytes, PROT_READ | PROT_WRITE,
                                  MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0);
        if (zeroed != MAP_FAILED)
            madvise(zeroed, size_bytes, MADV_DONTFORK);
    }
    return fail(Error::system("mmap " + format_bytes(size_bytes) + " shared over other memory", error));
}

Result<void> Mapping::keep_from_children() const {
    if (madvise(m_data, m_size, MADV_DONTFORK) != 0)
        return fail(Error::system("madvise MADV_DONTFORK", errno));
    return {};
}

Result<void> Mapping::seal(uint64_t offset, uint64_t size_bytes) {
    constexpr long mseal_number = 462; // Debian 12's headers do not name it
    if (syscall(mseal_number, m_data + offset, size_bytes, 0UL) != 0)
        return fail(Error::system("mseal", errno));
    const uint64_t end = offset + size_bytes;
    auto next = std::ranges::lower_bound(m_sealed, offset, {}, &Extent::end);
    // `next` is the first that ends at or behind the start: it touches the new extent or lies behind it.
    if (next == m_sealed.end() || next->start > end) {
        m_sealed.insert(next, {offset, end});
        return {};
    }
    auto last = next;
    while (last + 1 != m_sealed.end() && (last + 1)->start <= end)
        ++last;
    *next = {std::min(next->start, offset), std::max(last->end, end)};
    m_sealed.erase(next + 1, last + 1);
    return {};
}

uint64_t Mapping::sealed_bytes() const {
    uint64_t bytes = 0;
    for (const Extent& extent : m_sealed)
        bytes += extent.end - extent.start;
    return bytes;
}

} // namespace casemate
