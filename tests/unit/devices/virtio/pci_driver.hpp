// SPDX-License-Identifier: Apache-2.0
// PciDriver: the driver's side of one virtio PCI function, by accesses to config space and the memory bus as
// a guest makes them.
#pragma once

#include "devices/bus.hpp"
#include "devices/pci_host.hpp"
#include "driver.hpp"

#include <array>
#include <cstdint>
#include <doctest/doctest.h>
#include <span>

namespace casemate::virtio {

// Offsets in the common configuration, virtio 1.2, 4.1.4.3.
namespace common {
enum : uint64_t {
    device_feature_select = 0,
    device_feature = 4,
    driver_feature_select = 8,
    driver_feature = 12,
    config_msix_vector = 16,
    num_queues = 18,
    device_status = 20,
    config_generation = 21,
    queue_select = 22,
    queue_size = 24,
    queue_msix_vector = 26,
    queue_enable = 28,
    queue_notify_off = 30,
    queue_desc = 32,
    queue_driver = 40,
    queue_device = 48,
};
} // namespace common

constexpr uint64_t feature_event_index = 1ULL << 29;
constexpr uint64_t feature_indirect = 1ULL << 28;
constexpr uint64_t feature_version_1 = 1ULL << 32;

class PciDriver {
public:
    PciDriver(PciHost& host, Bus& bus, unsigned slot)
        : m_host(host)
        , m_bus(bus)
        , m_config(slot * 0x8000ULL) {
        set_config(4, 6, 2); // memory space, bus master
        m_bar = get_config(0x10) & ~0xfULL;
        for (uint64_t at = get_config(0x34, 1); at != 0; at = get_config(at + 1, 1)) {
            if (get_config(at, 1) == 0x11)
                m_msix = at;
            if (get_config(at, 1) != 9)
                continue;
            const uint64_t type = get_config(at + 3, 1);
            if (type == 5)
                m_window = at;
            else if (type < m_regions.size())
                m_regions[type] = get_config(at + 8);
            if (type == 2)
                m_multiplier = get_config(at + 16);
        }
    }

    uint64_t get_config(uint64_t offset, size_t width = 4) {
        std::array<std::byte, 8> data{};
        m_host.read(m_config + offset, std::span(data).first(width));
        return value_of(data);
    }
    void set_config(uint64_t offset, uint64_t value, size_t width = 4) {
        std::array<std::byte, 8> data{};
        put_value(data, value);
        m_host.write(m_config + offset, std::span(data).first(width));
    }
    // Anything in the BAR.
    uint64_t get(uint64_t offset, size_t width) {
        std::array<std::byte, 8> data{};
        m_bus.read(m_bar + offset, std::span(data).first(width));
        return value_of(data);
    }
    void set(uint64_t offset, uint64_t value, size_t width) {
        std::array<std::byte, 8> data{};
        put_value(data, value);
        m_bus.write(m_bar + offset, std::span(data).first(width));
    }
    // A field of the common configuration.
    uint64_t get_common(uint64_t field, size_t width) { return get(m_regions[1] + field, width); }
    void set_common(uint64_t field, uint64_t value, size_t width) { set(m_regions[1] + field, value, width); }

    uint8_t status() { return static_cast<uint8_t>(get_common(common::device_status, 1)); }
    void set_status(uint8_t value) { set_common(common::device_status, value, 1); }
    uint64_t offered_features() {
        set_common(common::device_feature_select, 0, 4);
        const uint64_t low = get_common(common::device_feature, 4);
        set_common(common::device_feature_select, 1, 4);
        return low | get_common(common::device_feature, 4) << 32;
    }
    // Up to FEATURES_OK; whether the device accepted.
    bool negotiate(uint64_t features) {
        set_status(1);
        set_status(1 | 2);
        for (unsigned half = 0; half < 2; ++half) {
            set_common(common::driver_feature_select, half, 4);
            set_common(common::driver_feature, features >> (32 * half) & 0xffffffff, 4);
        }
        set_status(1 | 2 | 8);
        return (status() & 8) != 0;
    }
    // Whether the queue is enabled afterwards.
    bool enable(uint16_t index, const DriverQueue& queue, uint16_t vector) {
        set_common(common::queue_select, index, 2);
        set_common(common::queue_size, queue.size(), 2);
        set_common(common::queue_msix_vector, vector, 2);
        set_common(common::queue_desc, queue.descriptors(), 8);
        set_common(common::queue_driver, queue.driver_area() & 0xffffffff, 4);
        set_common(common::queue_driver + 4, queue.driver_area() >> 32, 4);
        set_common(common::queue_device, queue.device_area(), 8);
        set_common(common::queue_enable, 1, 2);
        return get_common(common::queue_enable, 2) == 1;
    }
    void driver_ok() { set_status(static_cast<uint8_t>(status() | 4U)); }

    uint64_t doorbell(uint16_t index) const { return m_regions[2] + m_multiplier * index; }
    // As a store that KVM gave to user space.
    void kick(uint16_t index, size_t width = 2) { set(doorbell(index), index, width); }
    uint8_t take_interrupt_status() { return static_cast<uint8_t>(get(m_regions[3], 1)); }
    uint64_t get_device(uint64_t offset, size_t width) { return get(m_regions[4] + offset, width); }

    // Enables MSI-X with vectors 0 to `count` unmasked.
    void enable_interrupts(unsigned count) {
        const uint64_t table = get_config(m_msix + 4) & ~7ULL;
        for (uint64_t i = 0; i < count; ++i) {
            set(table + 16 * i, 0xfee00000, 8);
            set(table + 16 * i + 8, 0x20 + i, 8);
        }
        set_config(m_msix + 2, 0x8000, 2);
    }

    uint64_t bar() const { return m_bar; }
    void set_bar(uint64_t address) {
        m_bar = address;
        set_config(0x10, address);
    }
    uint64_t window() const { return m_window; } // VIRTIO_PCI_CAP_PCI_CFG in config space
    uint64_t msix() const { return m_msix; }
    uint64_t region(unsigned type) const { return m_regions.at(type); }

private:
    PciHost& m_host;
    Bus& m_bus;
    uint64_t m_config;
    uint64_t m_bar = 0;
    uint64_t m_msix = 0;
    uint64_t m_window = 0;
    uint64_t m_multiplier = 0;
    std::array<uint64_t, 5> m_regions{}; // by capability type
};

} // namespace casemate::virtio
