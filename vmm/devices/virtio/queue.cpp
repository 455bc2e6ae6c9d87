// SPDX-License-Identifier: Apache-2.0
#include "devices/virtio/queue.hpp"

#include "base/little_endian.hpp"

#include <algorithm>
#include <atomic>
#include <bit>
#include <cstddef>
#include <span>

namespace casemate::virtio {
namespace {

// virtio 1.2, 2.7.5.
struct Descriptor {
    Le64 address;
    Le32 length;
    Le16 flags;
    Le16 next;
};
static_assert(sizeof(Descriptor) == 16 && offsetof(Descriptor, length) == 8 &&
              offsetof(Descriptor, flags) == 12 && offsetof(Descriptor, next) == 14);
constexpr uint16_t descriptor_next = 1;
constexpr uint16_t descriptor_write = 2;
constexpr uint16_t descriptor_indirect = 4;

// Offsets in both rings, 2.7.6 and 2.7.8: flags, index, the ring, then the event word of the other side.
constexpr uint64_t index_offset = 2;
constexpr uint64_t ring_offset = 4;
constexpr uint16_t available_no_interrupt = 1;
constexpr uint16_t used_no_notify = 1;

constexpr uint64_t available_event_offset(uint16_t size) {
    return ring_offset + uint64_t{sizeof(Le16)} * size;
}
constexpr uint64_t used_element_bytes = 8; // 2.7.8
constexpr uint64_t used_event_offset(uint16_t size) {
    return ring_offset + used_element_bytes * size;
}

// 2.7.5.2: no chain carries more than this.
constexpr uint64_t max_chain_bytes = 4_GiB;

constexpr std::unexpected<GuestFault> malformed(GuestFault::malformed);

GuestResult<GuestPhysical> check_area(const GuestMemory& memory, GuestValue<uint64_t> address, uint64_t bytes,
                                      uint64_t alignment) {
    const GuestRange range = TRY(GuestRange::from_guest(address, GuestValue(bytes)));
    if (!is_aligned(range.start().value, alignment))
        return malformed;
    if (!memory.is_ram(range))
        return std::unexpected(GuestFault::outside_ram);
    return range.start();
}

// Only for offsets inside an area that check_area() let through.
constexpr GuestPhysical at(GuestPhysical area, uint64_t offset) {
    return {area.value + offset};
}

} // namespace

Queue::Queue(const GuestMemory& memory, const QueueSetup& setup)
    : m_memory(&memory)
    , m_setup(setup) {}

GuestResult<Queue> Queue::create(const GuestMemory& memory, const QueueSetup& setup) {
    const uint16_t size = setup.size;
    if (!std::has_single_bit(size))
        return malformed;
    // 2.7: sizes and alignments of the three areas.
    Queue queue(memory, setup);
    queue.m_descriptors = TRY(check_area(memory, setup.descriptors, uint64_t{sizeof(Descriptor)} * size, 16));
    queue.m_available =
        TRY(check_area(memory, setup.driver_area, available_event_offset(size) + sizeof(Le16), 2));
    queue.m_used = TRY(check_area(memory, setup.device_area, used_event_offset(size) + sizeof(Le16), 4));
    return queue;
}

GuestResult<std::optional<Chain>> Queue::pop() {
    // Acquire: the ring entry and descriptors below were written before the driver's index (2.7.13.3.1).
    const uint16_t available = TRY(m_memory->load_acquire(at(m_available, index_offset)));
    if (available == m_next_available)
        return std::nullopt;
    // Against what the driver got back, not against what was popped: also bounds the chains a device holds.
    const auto outstanding = static_cast<uint16_t>(available - m_published_used);
    if (outstanding > size() || static_cast<uint16_t>(available - m_next_available) > outstanding)
        return malformed;
    const uint32_t slot = m_next_available & (size() - 1U);
    Chain chain;
    chain.head = TRY(m_memory->fetch<Le16>(at(m_available, ring_offset + sizeof(Le16) * slot)));
    TRY(collect(chain.head, chain));
    ++m_next_available;
    return chain;
}

GuestResult<void> Queue::collect(uint16_t head, Chain& chain) {
    GuestRange table = GuestRange::of(m_descriptors, uint64_t{sizeof(Descriptor)} * size());
    bool in_indirect_table = false;
    uint32_t index = head;
    // The descriptor that refers to an indirect table is not part of the chain's length: a driver may fill a
    // table with as many descriptors as the queue has (2.7.5.3.1).
    for (uint32_t length = 0; length < size();) {
        const auto place = table.part(uint64_t{sizeof(Descriptor)} * index, sizeof(Descriptor));
        if (!place)
            return malformed;
        ++m_descriptors_read;
        const auto descriptor = TRY(m_memory->fetch<Descriptor>(place->start()));
        const uint16_t flags = descriptor.flags;
        const GuestRange buffer = TRY(GuestRange::from_guest(GuestValue<uint64_t>(descriptor.address),
                                                             GuestValue<uint32_t>(descriptor.length)));
        if ((flags & descriptor_indirect) != 0) {
            // 2.7.5.3.1: negotiated, last of its chain, not nested; its write flag means nothing.
            if (!m_setup.indirect || in_indirect_table || (flags & descriptor_next) != 0 || buffer.empty() ||
                buffer.bytes() % sizeof(Descriptor) != 0)
                return malformed;
            table = buffer;
            in_indirect_table = true;
            index = 0;
            continue;
        }
        ++length;
        const bool writable = (flags & descriptor_write) != 0;
        if (!writable && !chain.writable.empty())
            return malformed; // 2.7.4.2
        // No rule forbids empty buffers; they carry nothing.
        if (!buffer.empty()) {
            (writable ? chain.writable : chain.readable).push_back(buffer);
            (writable ? chain.writable_bytes : chain.readable_bytes) += buffer.bytes();
        }
        if (chain.readable_bytes + chain.writable_bytes > max_chain_bytes)
            return malformed;
        if ((flags & descriptor_next) == 0)
            return {};
        index = descriptor.next;
    }
    return malformed; // a loop, or longer than the queue
}

void Queue::undo_pop() {
    --m_next_available;
}

void Queue::stage_used(uint16_t head, uint32_t written_bytes) {
    m_staged.push_back({.head = uint32_t{head}, .length = written_bytes});
}

GuestResult<void> Queue::publish_staged() {
    static_assert(sizeof(UsedElement) == used_element_bytes);
    // Whole runs, as each write asks the lock table: two where the ring ends in between.
    for (std::span<const UsedElement> left(m_staged); !left.empty();) {
        const uint32_t slot = m_published_used & (size() - 1U);
        const auto run = left.first(std::min<size_t>(left.size(), size() - slot));
        TRY(m_memory->write(at(m_used, ring_offset + used_element_bytes * slot), std::as_bytes(run)));
        m_published_used = static_cast<uint16_t>(m_published_used + run.size());
        left = left.subspan(run.size());
    }
    m_staged.clear();
    // Release: the driver that acquires this index sees the elements and the buffers' bytes.
    return m_memory->store_release(at(m_used, index_offset), m_published_used);
}

GuestResult<void> Queue::push_used(uint16_t head, uint32_t written_bytes) {
    stage_used(head, written_bytes);
    return publish_staged();
}

GuestResult<bool> Queue::take_interrupt_due() {
    const uint16_t since = m_signalled_used;
    m_signalled_used = m_published_used;
    if (since == m_published_used)
        return false;
    // Partner: the driver's full barrier between writing used_event or its flags and looking at the used
    // index once more (linux v6.12 drivers/virtio/virtio_ring.c: virtqueue_enable_cb_prepare_split). Without
    // both, each side could miss the other's store.
    std::atomic_thread_fence(std::memory_order_seq_cst);
    if (!m_setup.event_index)
        return (TRY(m_memory->load_acquire(m_available)) & available_no_interrupt) == 0;
    const uint16_t event = TRY(m_memory->load_acquire(at(m_available, available_event_offset(size()))));
    // 2.7.7.2: due when the index moved past used_event.
    return static_cast<uint16_t>(m_published_used - event - 1) <
           static_cast<uint16_t>(m_published_used - since);
}

GuestResult<void> Queue::set_doorbell_wanted(bool wanted) {
    // With the event index the flags stay 0 (2.7.10.1) and an event left behind already means "do not ring".
    if (!m_setup.event_index)
        TRY(m_memory->store_release(m_used, wanted ? uint16_t{0} : used_no_notify));
    else if (wanted)
        TRY(m_memory->store_release(at(m_used, used_event_offset(size())), m_next_available));
    // Partner: the driver's full barrier between writing the available index and reading avail_event or our
    // flags (linux v6.12 drivers/virtio/virtio_ring.c: virtqueue_kick_prepare_split). The caller's pop() that
    // follows cannot be satisfied before our store is visible.
    if (wanted)
        std::atomic_thread_fence(std::memory_order_seq_cst);
    return {};
}

} // namespace casemate::virtio
