// SPDX-License-Identifier: Apache-2.0
// Rtc: an MC146818 real-time clock that tells the host's time in UTC. It has no interrupt line: alarms,
// periodic and update-ended interrupts do not exist, and the alarm registers are mere memory. Guest writes to
// the time are ignored, as the host's clock is the truth.
#pragma once

#include "devices/byte_device.hpp"

#include <array>
#include <chrono>
#include <functional>
#include <mutex>

namespace casemate {

class Rtc final : public ByteDevice {
public:
    using Clock = std::function<std::chrono::system_clock::time_point()>;

    // The index of the century byte, for the CENTURY field of the FADT.
    static constexpr uint8_t century_index = 0x32;

    explicit Rtc(Clock now = std::chrono::system_clock::now);

private:
    uint8_t read_register(uint64_t offset) override;
    void write_register(uint64_t offset, uint8_t value) override;
    uint8_t time_byte(uint8_t index) const;
    uint8_t encoded(unsigned value) const;
    uint8_t encoded_hour(unsigned hour) const;

    const Clock m_now;
    std::mutex m_mutex; // guards all below; rank Device
    uint8_t m_index = 0;
    // Registers A to D and the battery-backed bytes; those that tell the time are computed instead.
    std::array<uint8_t, 128> m_bytes{};
};

} // namespace casemate
