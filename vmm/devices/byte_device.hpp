// SPDX-License-Identifier: Apache-2.0
// ByteDevice: a device of 8-bit registers. Wider accesses are taken apart in ascending order, as the ISA bus
// controller does for 8-bit devices.
#pragma once

#include "devices/device.hpp"

namespace casemate {

class ByteDevice : public Device {
public:
    void read(uint64_t offset, std::span<std::byte> data) final {
        for (std::byte& byte : data)
            byte = std::byte{read_register(offset++)};
    }
    void write(uint64_t offset, std::span<const std::byte> data) final {
        for (const std::byte byte : data)
            write_register(offset++, std::to_integer<uint8_t>(byte));
    }

private:
    // Called from any vCPU thread, also concurrently.
    virtual uint8_t read_register(uint64_t offset) = 0;
    virtual void write_register(uint64_t offset, uint8_t value) = 0;
};

} // namespace casemate
