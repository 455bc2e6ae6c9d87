// SPDX-License-Identifier: Apache-2.0
// Pvpanic: the one port on which a guest kernel tells that it panicked.
#pragma once

#include "devices/byte_device.hpp"
#include "devices/one_shot.hpp"

namespace casemate {

class Pvpanic final : public ByteDevice {
public:
    // `panicked` runs once, on a vCPU's thread.
    explicit Pvpanic(std::function<void()> panicked)
        : m_panicked(std::move(panicked)) {}

private:
    // QEMU docs/specs/pvpanic.rst, "ISA Interface": reads tell which events the monitor knows, writes report.
    static constexpr uint8_t guest_panicked = 1 << 0;
    // The guest's own crash kernel takes over. Offered, so that such a guest does not report a panic instead
    // and is not ended before it has written its dump.
    static constexpr uint8_t crash_kernel_loaded = 1 << 1;

    uint8_t read_register(uint64_t) override { return guest_panicked | crash_kernel_loaded; }
    void write_register(uint64_t, uint8_t events) override {
        if ((events & guest_panicked) != 0)
            m_panicked();
    }

    OneShot m_panicked;
};

} // namespace casemate
