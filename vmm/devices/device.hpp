// SPDX-License-Identifier: Apache-2.0
// Device: what answers accesses routed to it by a bus. It knows neither its address nor KVM nor the machine.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

namespace casemate {

class Device {
public:
    Device() = default;
    Device(const Device&) = delete;
    Device& operator=(const Device&) = delete;
    virtual ~Device() = default;

    // `offset` from the start of the mapped range; data is 1, 2, 4 or 8 bytes and lies wholly inside the
    // range. Called from any vCPU thread, also concurrently: the device locks for itself. It answers every
    // access and never waits for the guest or for I/O. A read fills all of `data`.
    virtual void read(uint64_t offset, std::span<std::byte> data) = 0;
    virtual void write(uint64_t offset, std::span<const std::byte> data) = 0;
};

// Little-endian values out of and into an access of any width up to 8; longer values are cut.
inline uint64_t value_of(std::span<const std::byte> data) {
    uint64_t value = 0;
    for (size_t i = 0; i < data.size() && i < sizeof(value); ++i)
        value |= static_cast<uint64_t>(data[i]) << (8 * i);
    return value;
}
inline void put_value(std::span<std::byte> data, uint64_t value) {
    for (size_t i = 0; i < data.size(); ++i)
        data[i] = static_cast<std::byte>(i < sizeof(value) ? value >> (8 * i) : 0);
}

} // namespace casemate
