// SPDX-License-Identifier: Apache-2.0
// Fakes around byte devices: a counting interrupt line, a serial line, one-byte accesses.
#pragma once

#include "devices/serial.hpp"

#include <array>
#include <atomic>
#include <string>

namespace casemate {

struct CountingLine : InterruptLine {
    std::atomic<bool> level = false;
    std::atomic<int> rises = 0;
    void set_level(bool now) override {
        if (now && !level.exchange(true))
            ++rises;
        else if (!now)
            level = false;
        level.notify_all();
    }
};

struct FakeSerialLine : SerialLine {
    std::string sent;
    bool ready = true;
    int resumed = 0;
    void send(std::byte character) override { sent.push_back(std::to_integer<char>(character)); }
    bool can_send() override { return ready; }
    void resume_receive() override { ++resumed; }
};

inline uint8_t in(Device& device, uint64_t offset) {
    std::array<std::byte, 1> data{};
    device.read(offset, data);
    return std::to_integer<uint8_t>(data[0]);
}
inline void out(Device& device, uint64_t offset, unsigned value) {
    const std::array<std::byte, 1> data{static_cast<std::byte>(value)};
    device.write(offset, data);
}

} // namespace casemate
