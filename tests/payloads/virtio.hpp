// SPDX-License-Identifier: Apache-2.0
// A driver for virtio 1.x PCI functions that is as honest or as hostile as its caller. Freestanding.
#pragma once

#include "runtime.hpp"

namespace payload {

// virtio 1.2, 4.1.4.3: offsets in the common configuration.
enum Common : uint64_t {
    device_feature_select = 0x00,
    device_feature = 0x04,
    driver_feature_select = 0x08,
    driver_feature = 0x0c,
    config_msix_vector = 0x10,
    num_queues = 0x12,
    device_status = 0x14,
    queue_select = 0x16,
    queue_size = 0x18,
    queue_msix_vector = 0x1a,
    queue_enable = 0x1c,
    queue_notify_off = 0x1e,
    queue_desc = 0x20,
    queue_driver = 0x28,
    queue_device = 0x30,
};

enum Status : uint8_t { acknowledge = 1, driver = 2, driver_ok = 4, features_ok = 8, needs_reset = 64 };
enum DescriptorFlags : uint16_t { has_next = 1, device_writes = 2, is_indirect = 4 };

struct Descriptor {
    uint64_t address;
    uint32_t length;
    uint16_t flags;
    uint16_t next;
};
static_assert(sizeof(Descriptor) == 16);

constexpr unsigned ring_size = 16;

// Rings of one queue. Plain volatile memory: the device reads it at any time.
struct alignas(4096) Rings {
    volatile Descriptor descriptors[ring_size];
    alignas(16) volatile uint16_t available[3 + ring_size]; // flags, index, ring, used_event
    alignas(16) volatile uint32_t used[2 + 2 * ring_size];  // flags and index, then id and length pairs
};

struct VirtioFunction {
    unsigned slot = 0;
    uint16_t type = 0; // 1 net, 2 block, 4 entropy
    uint64_t common = 0;
    uint64_t notify = 0;
    uint32_t notify_multiplier = 0;
    uint64_t device = 0;

    // Finds the capabilities and turns memory decoding on. False when slot holds no virtio 1.x function.
    bool probe(unsigned pci_slot);
    // Resets and waits for it, at most `patience` reads. False when the device does not come back.
    bool reset(unsigned patience = 1000000) const;
    // Reset, features VERSION_1 and `low_features`, one queue set up, DRIVER_OK.
    bool start(unsigned queue, Rings& rings, uint32_t low_features) const;
    // The same in steps, for rings in places of their own and several queues.
    bool negotiate(uint32_t low_features) const;
    void set_queue(unsigned queue, uint64_t descriptors, uint64_t available, uint64_t used,
                   uint16_t entries = ring_size) const;
    void go() const;
    void ring_doorbell(unsigned queue) const;
    uint8_t status() const { return load<uint8_t>(common + device_status); }
};

} // namespace payload
