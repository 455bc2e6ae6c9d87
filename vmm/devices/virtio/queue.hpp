// SPDX-License-Identifier: Apache-2.0
// Queue: a split virtqueue as the device sees it (virtio 1.2, 2.7). Every descriptor is read once into host
// memory, checked, then used; a chain is bounded by the queue size. I/O thread only.
#pragma once

#include "base/little_endian.hpp"
#include "memory/guest_memory.hpp"

#include <cstddef>
#include <cstdint>
#include <optional>
#include <vector>

namespace casemate::virtio {

// What the driver set up through the transport. Addresses are the guest's: Queue::create checks them.
struct QueueSetup {
    uint16_t size = 0; // a power of two, at most the device's maximum
    GuestValue<uint64_t> descriptors;
    GuestValue<uint64_t> driver_area; // available ring
    GuestValue<uint64_t> device_area; // used ring
    bool event_index = false;         // VIRTIO_F_EVENT_IDX negotiated
    bool indirect = false;            // VIRTIO_F_INDIRECT_DESC negotiated
};

// One request: first what the device reads, then what it writes (virtio 1.2, 2.7.4.2), both bounded and
// inside the address space; whether it is RAM and unlocked is GuestMemory's answer at the time of use.
// Empty buffers are left out.
struct Chain {
    uint16_t head = 0;
    std::vector<GuestRange> readable;
    std::vector<GuestRange> writable;
    uint64_t readable_bytes = 0;
    uint64_t writable_bytes = 0;
};

class Queue {
public:
    // Fails with outside_ram or malformed (size, alignment) for a setup that can never work.
    static GuestResult<Queue> create(const GuestMemory& memory, const QueueSetup& setup);

    uint16_t size() const { return m_setup.size; }
    // Ever, for who bounds what a turn costs: a chain has up to size() of them.
    uint64_t descriptors_read() const { return m_descriptors_read; }

    // The next available chain; nullopt when there is none. A fault means that the driver broke the protocol
    // (loop, index past the queue, available index ahead of the published used index by more than the size,
    // chain longer than the queue or 4 GiB, a readable descriptor behind a writable one, indirect table
    // malformed): the device must be broken. Every popped chain is pushed or undone, or the ring runs dry; so
    // a device never holds more chains than size().
    GuestResult<std::optional<Chain>> pop();
    // Undoes the last pop(): the chain will come again. For a device that cannot take it yet.
    void undo_pop();
    // Puts a chain into the used ring: `written_bytes` as virtio 1.2, 2.7.8.
    GuestResult<void> push_used(uint16_t head, uint32_t written_bytes);
    // As push_used() but kept here until publish_staged(): receive buffers that belong together.
    void stage_used(uint16_t head, uint32_t written_bytes);
    GuestResult<void> publish_staged();

    // Whether the driver wants an interrupt for what was pushed since the last call (2.7.7, 2.7.10).
    GuestResult<bool> take_interrupt_due();
    // Asks the driver to ring (true) or not to (false) for new chains. After true, pop() must be tried once
    // more: the driver may have added one before it saw the change.
    GuestResult<void> set_doorbell_wanted(bool wanted);

private:
    // 2.7.8.
    struct UsedElement {
        Le32 head;
        Le32 length;
    };
    static_assert(sizeof(UsedElement) == 8 && offsetof(UsedElement, length) == 4);

    Queue(const GuestMemory& memory, const QueueSetup& setup);
    GuestResult<void> collect(uint16_t head, Chain& chain);

    const GuestMemory* m_memory;
    QueueSetup m_setup;
    GuestPhysical m_descriptors;
    GuestPhysical m_available;
    GuestPhysical m_used;
    uint64_t m_descriptors_read = 0;
    uint16_t m_next_available = 0;
    std::vector<UsedElement> m_staged; // at most size(), as are the chains a device holds
    uint16_t m_published_used = 0;     // what the driver sees
    uint16_t m_signalled_used = 0;     // as of the last take_interrupt_due()
};

} // namespace casemate::virtio
