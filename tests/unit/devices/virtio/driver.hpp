// SPDX-License-Identifier: Apache-2.0
// DriverQueue: the driver's side of a split virtqueue, for tests of what the device does with it. Honest by
// default; the raw setters below let a test lie.
#pragma once

#include "base/little_endian.hpp"
#include "devices/virtio/queue.hpp"

#include <cstdint>
#include <deque>
#include <doctest/doctest.h>
#include <map>
#include <optional>
#include <span>
#include <vector>

namespace casemate::virtio {

constexpr uint16_t flag_next = 1;
constexpr uint16_t flag_write = 2;
constexpr uint16_t flag_indirect = 4;

struct RawDescriptor {
    Le64 address;
    Le32 length;
    Le16 flags;
    Le16 next;
};
static_assert(sizeof(RawDescriptor) == 16);

struct Buffer {
    uint64_t address = 0;
    uint32_t length = 0;
    bool device_writes = false;
};

struct Used {
    uint32_t head = 0;
    uint32_t length = 0;
    bool operator==(const Used&) const = default;
};

class DriverQueue {
public:
    // The three areas start at `base`, each on its own pages; ring_bytes() past it is free for buffers.
    DriverQueue(const GuestMemory& memory, uint64_t base, uint16_t size)
        : m_memory(memory)
        , m_size(size)
        , m_descriptors(base)
        , m_available(base + align_up(16ULL * size, page_bytes))
        , m_used(m_available + align_up(6 + 2ULL * size, page_bytes)) {
        restart();
    }

    // Rings as a driver sets them up after a reset.
    void restart() {
        REQUIRE(m_memory.clear(GuestRange::of({m_descriptors}, ring_bytes())));
        m_free.clear();
        for (uint16_t i = 0; i < m_size; ++i)
            m_free.push_back(i);
        m_chains.clear();
        m_next_available = m_next_used = 0;
    }

    uint64_t ring_bytes() const { return m_used + align_up(6 + 8ULL * m_size, page_bytes) - m_descriptors; }
    uint16_t size() const { return m_size; }
    uint64_t descriptors() const { return m_descriptors; }
    uint64_t driver_area() const { return m_available; }
    uint64_t device_area() const { return m_used; }
    QueueSetup setup(bool event_index = false, bool indirect = true) const {
        return {.size = m_size,
                .descriptors = GuestValue(m_descriptors),
                .driver_area = GuestValue(m_available),
                .device_area = GuestValue(m_used),
                .event_index = event_index,
                .indirect = indirect};
    }

    // Offers one chain; its head.
    uint16_t add(std::span<const Buffer> buffers) {
        REQUIRE(!buffers.empty());
        REQUIRE(buffers.size() <= m_free.size());
        std::vector<uint16_t> indices(m_free.begin(),
                                      m_free.begin() + static_cast<ptrdiff_t>(buffers.size()));
        m_free.erase(m_free.begin(), m_free.begin() + static_cast<ptrdiff_t>(buffers.size()));
        for (size_t i = 0; i < buffers.size(); ++i) {
            const bool last = i + 1 == buffers.size();
            set_descriptor(indices[i], describe(buffers[i], last, last ? uint16_t{0} : indices[i + 1]));
        }
        const uint16_t head = indices[0];
        m_chains[head] = std::move(indices);
        offer(head);
        return head;
    }
    uint16_t add(std::initializer_list<Buffer> buffers) {
        return add(std::span(buffers.begin(), buffers.size()));
    }
    // Offers one chain through an indirect table at `table`.
    uint16_t add_indirect(uint64_t table, std::span<const Buffer> buffers) {
        for (size_t i = 0; i < buffers.size(); ++i) {
            const bool last = i + 1 == buffers.size();
            set_descriptor_at(table, i, describe(buffers[i], last, static_cast<uint16_t>(i + 1)));
        }
        REQUIRE(!m_free.empty());
        const uint16_t head = m_free.front();
        m_free.pop_front();
        const auto bytes = static_cast<uint32_t>(16 * buffers.size());
        set_descriptor(head,
                       {.address = table, .length = bytes, .flags = flag_indirect, .next = uint16_t{0}});
        m_chains[head] = {head};
        offer(head);
        return head;
    }

    // The next used element, whose descriptors become free again.
    std::optional<Used> take_used() {
        if (used_index() == m_next_used)
            return std::nullopt;
        const uint64_t place = m_used + 4 + 8ULL * (m_next_used++ % m_size);
        const Used used{m_memory.fetch<Le32>({place}).value(), m_memory.fetch<Le32>({place + 4}).value()};
        if (const auto chain = m_chains.find(static_cast<uint16_t>(used.head)); chain != m_chains.end()) {
            m_free.insert(m_free.end(), chain->second.begin(), chain->second.end());
            m_chains.erase(chain);
        }
        return used;
    }
    uint16_t used_index() const { return m_memory.load_acquire({m_used + 2}).value(); }
    size_t free_descriptors() const { return m_free.size(); }

    // What the device tells the driver.
    bool no_notify() const { return (m_memory.load_acquire({m_used}).value() & 1U) != 0; }
    uint16_t available_event() const { return m_memory.load_acquire({m_used + 4 + 8ULL * m_size}).value(); }
    // What the driver tells the device.
    void set_no_interrupt(bool off) { REQUIRE(m_memory.store_release({m_available}, off ? 1 : 0)); }
    void set_used_event(uint16_t index) {
        REQUIRE(m_memory.store_release({m_available + 4 + 2ULL * m_size}, index));
    }

    // Raw, unchecked writes.
    void set_descriptor_at(uint64_t table, size_t index, const RawDescriptor& descriptor) {
        REQUIRE(m_memory.store({table + 16ULL * index}, descriptor));
    }
    void set_descriptor(uint16_t index, const RawDescriptor& descriptor) {
        set_descriptor_at(m_descriptors, index, descriptor);
    }
    void offer(uint16_t head) {
        REQUIRE(m_memory.store({m_available + 4 + 2ULL * (m_next_available % m_size)}, Le16(head)));
        set_available_index(static_cast<uint16_t>(m_next_available + 1));
    }
    void set_available_index(uint16_t index) {
        m_next_available = index;
        REQUIRE(m_memory.store_release({m_available + 2}, index));
    }
    uint16_t available_index() const { return m_next_available; }

private:
    static RawDescriptor describe(const Buffer& buffer, bool last, uint16_t next) {
        const auto flags =
            static_cast<uint16_t>((last ? 0U : flag_next) | (buffer.device_writes ? flag_write : 0U));
        return {.address = buffer.address,
                .length = buffer.length,
                .flags = flags,
                .next = last ? uint16_t{0} : next};
    }

    const GuestMemory& m_memory;
    uint16_t m_size;
    uint64_t m_descriptors;
    uint64_t m_available;
    uint64_t m_used;
    std::deque<uint16_t> m_free;
    std::map<uint16_t, std::vector<uint16_t>> m_chains; // by head: all descriptors of the main table
    uint16_t m_next_available = 0;
    uint16_t m_next_used = 0;
};

} // namespace casemate::virtio
