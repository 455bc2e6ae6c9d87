// SPDX-License-Identifier: Apache-2.0
#include "memory/guest_memory.hpp"

#include "memory/layout.hpp"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <sys/mman.h>

namespace casemate {

WriteTicket::WriteTicket(const GuestMemory& memory)
    : m_memory(&memory)
    , m_generation(memory.m_generation.load()) {
    // Sequentially consistent, as is drain_writes(): counted before the gate is asked.
    memory.m_writers[m_generation].fetch_add(1);
}

WriteTicket::~WriteTicket() {
    if (m_memory == nullptr)
        return;
    std::atomic<uint32_t>& writers = m_memory->m_writers[m_generation];
    writers.fetch_sub(1);
    writers.notify_all();
}

void GuestMemory::drain_writes() const {
    // Twice: a writer may have read the generation before a flip and counted itself after it.
    for (int flip = 0; flip < 2; ++flip) {
        const std::atomic<uint32_t>& writers = m_writers[m_generation.fetch_xor(1)];
        while (const uint32_t count = writers.load())
            writers.wait(count);
    }
}

GuestMemory::GuestMemory(GuestMemory&& other) noexcept
    : m_regions(std::move(other.m_regions))
    , m_size(other.m_size)
    , m_gate(other.m_gate) {}

Result<GuestMemory> GuestMemory::create(uint64_t size_bytes) {
    GuestMemory memory;
    memory.m_size = size_bytes;
    for (const layout::RamRange& range : layout::ram_ranges(size_bytes)) {
        if (range.bytes == 0)
            continue;
        Mapping mapping = TRY(Mapping::anonymous(range.bytes, 2_MiB));
        // A host without huge pages still runs the guest, only slower.
        madvise(mapping.data(), mapping.size(), MADV_HUGEPAGE);
        memory.m_regions.push_back({range.start, std::move(mapping)});
    }
    return memory;
}

std::byte* GuestMemory::find(const GuestRange& range) const {
    if (range.empty())
        return nullptr;
    for (const Region& region : m_regions) {
        if (range.start() < region.start)
            continue;
        const uint64_t offset = range.start().value - region.start.value;
        if (offset < region.memory.size() && range.bytes() <= region.memory.size() - offset)
            return region.memory.data() + offset;
    }
    return nullptr;
}

GuestResult<std::byte*> GuestMemory::find_writable(const GuestRange& range) const {
    std::byte* const host = find(range);
    if (host == nullptr)
        return std::unexpected(GuestFault::outside_ram);
    if (m_gate != nullptr && !m_gate->may_write(range))
        return std::unexpected(GuestFault::locked);
    return host;
}

GuestResult<void> GuestMemory::read(GuestRange range, std::span<std::byte> destination) const {
    if (range.bytes() != destination.size())
        return std::unexpected(GuestFault::malformed);
    if (range.empty())
        return {};
    const std::byte* const host = find(range);
    if (host == nullptr)
        return std::unexpected(GuestFault::outside_ram);
    std::memcpy(destination.data(), host, destination.size());
    return {};
}

GuestResult<void> GuestMemory::write(GuestPhysical address, std::span<const std::byte> source) const {
    if (source.empty())
        return {};
    const auto range = GuestRange::from_guest(GuestValue(address.value), GuestValue(uint64_t{source.size()}));
    if (!range)
        return std::unexpected(range.error());
    const WriteTicket ticket(*this);
    const auto host = find_writable(*range);
    if (!host)
        return std::unexpected(host.error());
    std::memcpy(*host, source.data(), source.size());
    return {};
}

GuestResult<void> GuestMemory::clear(GuestRange range) const {
    if (range.empty())
        return {};
    const WriteTicket ticket(*this);
    const auto host = find_writable(range);
    if (!host)
        return std::unexpected(host.error());
    std::memset(*host, 0, range.bytes());
    return {};
}

GuestResult<uint16_t> GuestMemory::load_acquire(GuestPhysical address) const {
    if (!is_aligned(address.value, sizeof(uint16_t)))
        return std::unexpected(GuestFault::malformed);
    const std::byte* const host = find(GuestRange::of(address, sizeof(uint16_t)));
    if (host == nullptr)
        return std::unexpected(GuestFault::outside_ram);
    return __atomic_load_n(reinterpret_cast<const uint16_t*>(host), __ATOMIC_ACQUIRE);
}

GuestResult<void> GuestMemory::store_release(GuestPhysical address, uint16_t value) const {
    if (!is_aligned(address.value, sizeof(uint16_t)))
        return std::unexpected(GuestFault::malformed);
    const WriteTicket ticket(*this);
    const auto host = find_writable(GuestRange::of(address, sizeof(uint16_t)));
    if (!host)
        return std::unexpected(host.error());
    __atomic_store_n(reinterpret_cast<uint16_t*>(*host), value, __ATOMIC_RELEASE);
    return {};
}

GuestResult<Transfer> GuestMemory::begin_transfer(std::span<const GuestRange> ranges,
                                                  Direction direction) const {
    Transfer transfer;
    if (direction == Direction::into_ram)
        transfer.m_ticket = WriteTicket(*this);
    transfer.m_vectors.reserve(ranges.size());
    for (const GuestRange& range : ranges) {
        if (range.empty())
            continue;
        std::byte* host = find(range);
        if (host == nullptr)
            return std::unexpected(GuestFault::outside_ram);
        if (direction == Direction::into_ram && m_gate != nullptr && !m_gate->may_write(range))
            return std::unexpected(GuestFault::locked);
        transfer.m_vectors.push_back({.iov_base = host, .iov_len = range.bytes()});
        transfer.m_bytes += range.bytes();
    }
    return transfer;
}

} // namespace casemate
