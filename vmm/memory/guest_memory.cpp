// SPDX-License-Identifier: Apache-2.0
#include "memory/guest_memory.hpp"

#include "base/fd.hpp"
#include "memory/layout.hpp"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <sys/mman.h>
#include <tuple>

namespace casemate {

void WriteGate::refused(const GuestRange& /*range*/) const {}

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

bool GuestMemory::drain_writes(const std::stop_token& ending) const {
    const std::stop_callback at_the_end(ending, [this] { abandon_drains(); });
    // Twice: a writer may have read the generation before a flip and counted itself after it.
    for (int flip = 0; flip < 2; ++flip) {
        const std::atomic<uint32_t>& writers = m_writers[m_generation.fetch_xor(1)];
        while (const uint32_t count = writers.load()) {
            if ((count & abandoned) != 0)
                return false;
            writers.wait(count);
        }
    }
    return true;
}

void GuestMemory::abandon_drains() const {
    for (std::atomic<uint32_t>& writers : m_writers) {
        writers.fetch_or(abandoned);
        writers.notify_all();
    }
}

GuestMemory::GuestMemory(GuestMemory&& other) noexcept
    : m_regions(std::move(other.m_regions))
    , m_size(other.m_size)
    , m_gate(other.m_gate)
    , m_unknown_read_only(other.m_unknown_read_only.load()) {}

Result<GuestMemory> GuestMemory::create(uint64_t size_bytes) {
    GuestMemory memory;
    memory.m_size = size_bytes;
    for (const layout::RamRange& range : layout::ram_ranges(size_bytes)) {
        if (range.bytes == 0)
            continue;
        Mapping mapping = TRY(Mapping::anonymous(range.bytes, 2_MiB));
        if (madvise(mapping.data(), mapping.size(), MADV_DONTFORK) != 0)
            return fail(Error::system("madvise MADV_DONTFORK of guest RAM", errno));
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

bool GuestMemory::may_write(const GuestRange& range) const {
    return !m_unknown_read_only.load() && (m_gate == nullptr || m_gate->may_write(range));
}

template <typename Write>
GuestResult<void> GuestMemory::write_with(const GuestRange& range, Write write) const {
    std::byte* const host = find(range);
    if (host == nullptr)
        return std::unexpected(GuestFault::outside_ram);
    {
        const WriteTicket ticket(*this);
        if (may_write(range)) {
            write(host);
            return {};
        }
    }
    if (m_gate != nullptr)
        m_gate->refused(range);
    return std::unexpected(GuestFault::locked);
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

GuestResult<void> GuestMemory::read_words(GuestPhysical address, std::span<uint64_t> words) const {
    if (!is_aligned(address.value, sizeof(uint64_t)))
        return std::unexpected(GuestFault::malformed);
    if (words.empty())
        return {};
    const auto range =
        GuestRange::from_guest(GuestValue(address.value), GuestValue(uint64_t{words.size_bytes()}));
    const std::byte* const host = range ? find(*range) : nullptr;
    if (host == nullptr)
        return std::unexpected(GuestFault::outside_ram);
    const auto* const source = reinterpret_cast<const uint64_t*>(host);
    for (size_t i = 0; i < words.size(); ++i)
        words[i] = __atomic_load_n(source + i, __ATOMIC_RELAXED);
    return {};
}

GuestResult<void> GuestMemory::write(GuestPhysical address, std::span<const std::byte> source) const {
    if (source.empty())
        return {};
    const auto range = GuestRange::from_guest(GuestValue(address.value), GuestValue(uint64_t{source.size()}));
    if (!range)
        return std::unexpected(range.error());
    return write_with(*range, [&](std::byte* host) { std::memcpy(host, source.data(), source.size()); });
}

GuestResult<void> GuestMemory::clear(GuestRange range) const {
    if (range.empty())
        return {};
    return write_with(range, [&](std::byte* host) { std::memset(host, 0, range.bytes()); });
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
    return write_with(GuestRange::of(address, sizeof(uint16_t)), [&](std::byte* host) {
        __atomic_store_n(reinterpret_cast<uint16_t*>(host), value, __ATOMIC_RELEASE);
    });
}

GuestResult<void> GuestMemory::restore(GuestPhysical address, uint64_t value) const {
    if (!is_aligned(address.value, sizeof(value)))
        return std::unexpected(GuestFault::malformed);
    std::byte* const host = find(GuestRange::of(address, sizeof(value)));
    if (host == nullptr)
        return std::unexpected(GuestFault::outside_ram);
    if (m_unknown_read_only.load())
        return std::unexpected(GuestFault::locked);
    __atomic_store_n(reinterpret_cast<uint64_t*>(host), value, __ATOMIC_SEQ_CST);
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
        if (direction == Direction::into_ram && !may_write(range)) {
            transfer = Transfer(); // its ticket too
            if (m_gate != nullptr)
                m_gate->refused(range);
            return std::unexpected(GuestFault::locked);
        }
        transfer.m_vectors.push_back({.iov_base = host, .iov_len = range.bytes()});
        transfer.m_bytes += range.bytes();
    }
    return transfer;
}

GuestMemory::Place GuestMemory::place_of(const GuestRange& range) {
    for (Region& region : m_regions)
        if (GuestRange::of(region.start, region.memory.size()).contains(range))
            return {&region.memory, range.start().value - region.start.value};
    return {};
}

Result<void> GuestMemory::deny_writes(std::span<const GuestRange> ranges, Sealing sealing) {
    const auto set_protection = [this](const GuestRange& range, int protection) -> Result<void> {
        const Place place = place_of(range);
        if (place.mapping == nullptr)
            return fail(Error("not RAM"));
        return place.mapping->set_protection(place.offset, range.bytes(), protection);
    };
    for (size_t i = 0; i < ranges.size(); ++i) {
        auto denied = set_protection(ranges[i], PROT_READ);
        if (denied)
            continue;
        // Backwards, and with the failed one, of which a part may be done: each step leads to a state that
        // there was, so the process has room for it.
        for (size_t back = i + 1; back-- != 0;)
            if (is_ram(ranges[back]) && !set_protection(ranges[back], PROT_READ | PROT_WRITE))
                m_unknown_read_only = true;
        Error error = Error("make guest RAM at " + to_string(ranges[i].start()) + ", " +
                            format_bytes(ranges[i].bytes()) + ", read-only")
                          .because_of(std::move(denied).error());
        if (error.number() == ENOMEM)
            return fail(std::move(error).hint("raise vm.max_map_count with sysctl"));
        return fail(std::move(error));
    }
    if (sealing == Sealing::never)
        return {};
    // Read-only they are, sealed or not: a seal that fails takes nothing from what the guest was promised.
    for (const GuestRange& range : ranges) {
        const Place place = place_of(range);
        if (place.mapping == nullptr || !place.mapping->seal(place.offset, range.bytes()))
            break;
    }
    return {};
}

Result<Mapping> GuestMemory::replace_pages(const GuestRange& range,
                                           const std::function<void(std::span<std::byte>)>& fill,
                                           Sealing sealing) {
    const auto failed = [&range](Error cause) {
        return fail(Error("put shared memory in the place of guest RAM at " + to_string(range.start()) +
                          ", " + format_bytes(range.bytes()))
                        .because_of(std::move(cause)));
    };
    const Place place = place_of(range);
    if (place.mapping == nullptr)
        return failed(Error("not RAM"));
    auto file = create_memory_file("casemate-pages", range.bytes());
    if (!file)
        return failed(std::move(file).error());
    auto view = Mapping::shared(file->get(), range.bytes(), PROT_READ | PROT_WRITE);
    if (!view)
        return failed(std::move(view).error());
    if (auto kept = view->keep_from_children(); !kept)
        return failed(std::move(kept).error());
    fill(view->bytes());
    if (auto sealed = seal_memory_file(*file); !sealed)
        return failed(std::move(sealed).error());
    auto replaced = place.mapping->replace(place.offset, range.bytes(), file->get(), PROT_READ);
    if (!replaced) {
        const bool no_room = replaced.error().number() == ENOMEM;
        auto error = failed(std::move(replaced).error());
        return no_room ? fail(std::move(error).error().hint("raise vm.max_map_count with sysctl"))
                       : std::move(error);
    }
    // Read-only it is, sealed or not.
    if (sealing == Sealing::where_possible)
        std::ignore = place.mapping->seal(place.offset, range.bytes());
    return std::move(*view);
}

std::span<std::byte> GuestMemory::bytes_behind(const GuestRange& range) const {
    return {find(range), range.bytes()};
}

uint64_t GuestMemory::sealed_bytes() const {
    uint64_t bytes = 0;
    for (const Region& region : m_regions)
        bytes += region.memory.sealed_bytes();
    return bytes;
}

} // namespace casemate
