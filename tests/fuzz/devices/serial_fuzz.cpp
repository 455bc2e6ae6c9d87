// SPDX-License-Identifier: Apache-2.0
// Fuzzes the serial port: guest accesses of any width against a line that stalls and feeds at any time.
#include "devices/serial.hpp"

#include <algorithm>
#include <array>
#include <cstdlib>

namespace {

using namespace casemate;

void require(bool holds) {
    if (!holds)
        std::abort();
}

struct Line : SerialLine {
    bool ready = true;
    bool asked = false;
    void send(std::byte) override {}
    bool can_send() override { return ready; }
    void resume_receive() override { asked = true; }
};

struct Pin : InterruptLine {
    bool level = false;
    void set_level(bool now) override {
        require(now != level); // each exit to the interrupt controller is a change
        level = now;
    }
};

} // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size);

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
    Line line;
    Pin pin;
    Serial serial(pin, line);
    std::array<std::byte, 8> access{};
    bool owed = false; // the line was refused, so it must be asked before the FIFO reads as empty and open
    uint8_t previous = 0;
    for (const uint8_t operation : std::span(data, size)) {
        const uint64_t offset = operation & 7;
        const size_t width = std::min<size_t>(size_t{1} << (operation >> 3 & 1), 8 - offset);
        access.fill(std::byte{static_cast<uint8_t>(operation * 37 + access.size())});
        switch (operation >> 5) {
        case 0:
        case 1:
        case 2:
            serial.read(offset, std::span(access).first(width));
            break;
        case 3:
        case 4:
            access[0] = std::byte{previous};
            serial.write(offset, std::span(access).first(width));
            break;
        case 5:
            line.ready = !line.ready;
            if (line.ready)
                serial.resume_transmit();
            break;
        default:
            line.asked = false;
            owed = serial.receive(access) < access.size();
            break;
        }
        if (line.asked)
            owed = false;
        previous = operation;
        // Bit 4 tells a read of LSR and MCR together with any operation.
        std::array<std::byte, 2> control_and_status{};
        if ((operation & 0x10) != 0) {
            serial.read(4, control_and_status);
            const bool open = (std::to_integer<uint8_t>(control_and_status[0]) & 0x12) == 0x02;
            const bool empty = (std::to_integer<uint8_t>(control_and_status[1]) & 0x01) == 0;
            require(!(owed && open && empty));
            if (line.ready)
                require((std::to_integer<uint8_t>(control_and_status[1]) & 0x60) == 0x60);
        }
    }
    return 0;
}
