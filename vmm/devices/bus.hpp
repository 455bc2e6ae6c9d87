// SPDX-License-Identifier: Apache-2.0
// Bus: routes port or memory accesses to devices. One for ports, one for memory.
#pragma once

#include "base/error.hpp"
#include "devices/device.hpp"

#include <atomic>
#include <cstdint>
#include <map>
#include <shared_mutex>
#include <span>
#include <string>

namespace casemate {

class Bus {
public:
    // Maps [start, start + bytes) to `device`, which must outlive the bus or be removed. The error names both
    // ranges when they overlap. Any thread.
    Result<void> add(uint64_t start, uint64_t bytes, Device& device, std::string name);
    // Removes the mapping that starts exactly at `start`; false when there is none. An access that another
    // thread has already routed may still reach the device.
    bool remove(uint64_t start);

    // Routes an access that lies wholly inside one range, without holding the bus while the device works.
    // Others are unclaimed: reads give all ones, writes go nowhere, both are counted.
    void read(uint64_t address, std::span<std::byte> data);
    void write(uint64_t address, std::span<const std::byte> data);

    uint64_t unclaimed() const { return m_unclaimed.load(std::memory_order_relaxed); }

private:
    struct Range {
        uint64_t last; // inclusive: a range may end at the top of the address space
        Device* device;
        std::string name;
    };
    struct Target {
        Device* device;
        uint64_t offset;
    };
    Target find(uint64_t address, size_t bytes);

    std::shared_mutex m_mutex; // guards m_ranges; rank Bus: taken before any device's own lock is
    std::map<uint64_t, Range> m_ranges;
    std::atomic<uint64_t> m_unclaimed = 0;
};

} // namespace casemate
