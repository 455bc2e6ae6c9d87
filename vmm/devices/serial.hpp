// SPDX-License-Identifier: Apache-2.0
// Serial: a 16550A UART (National Semiconductor PC16550D data sheet, "PC16550D Universal Asynchronous
// Receiver/Transmitter with FIFOs"), eight 8-bit registers, as Linux's 8250 driver finds and drives it.
//
// Characters take no time: the baud rate is remembered and otherwise ignored. What a guest transmits goes on
// to the line at once, so the transmit FIFO always reads as empty, unless the line holds the guest back. What
// the line has for the guest waits on the line until the receive FIFO has room, so nothing overruns.
#pragma once

#include "devices/byte_device.hpp"
#include "devices/interrupt.hpp"

#include <array>
#include <cstddef>
#include <cstdint>
#include <mutex>
#include <span>

namespace casemate {

// The far end of the cable. A Serial calls these from vCPU threads while it holds its own lock: they return
// at once and do not call back. The line in turn holds no lock of its own when it calls the Serial.
class SerialLine {
public:
    SerialLine() = default;
    SerialLine(const SerialLine&) = delete;
    SerialLine& operator=(const SerialLine&) = delete;
    virtual ~SerialLine() = default;

    // Takes one character, also while can_send() is false: Linux's console waits 10 ms for the transmitter,
    // then sends regardless.
    virtual void send(std::byte character) = 0;
    // False holds the guest back, until the line calls Serial::resume_transmit().
    virtual bool can_send() = 0;
    // Comes once after Serial::receive() took less than it was offered: it will take more now.
    virtual void resume_receive() = 0;
};

class Serial final : public ByteDevice {
public:
    // Both must outlive the device.
    Serial(InterruptLine& interrupt, SerialLine& line);

    // Offers characters to the guest and returns how many it took, from the front. It takes none while the
    // guest does not assert RTS: before a driver has opened the port, as it would flush them, and when the
    // guest's terminal throttles. Any thread; never blocks.
    size_t receive(std::span<const std::byte> characters);
    // The line's can_send() turned true. Any thread.
    void resume_transmit();

private:
    static constexpr size_t fifo_bytes = 16;

    uint8_t read_register(uint64_t offset) override;
    void write_register(uint64_t offset, uint8_t value) override;

    uint8_t read_receiver();
    uint8_t read_interrupt_identification();
    uint8_t read_line_status();
    uint8_t read_modem_status();
    void write_transmitter(uint8_t value);
    void write_interrupt_enable(uint8_t value);
    void write_fifo_control(uint8_t value);
    void write_modem_control(uint8_t value);

    uint8_t pending_interrupt() const;
    uint8_t modem_inputs() const;
    bool accepts_characters() const;
    size_t receive_capacity() const;
    void push_received(uint8_t value);
    void ask_for_characters();
    void update_transmitter();
    void update_interrupt();

    std::mutex m_mutex; // guards all below; rank Device
    InterruptLine& m_interrupt;
    SerialLine& m_line;

    uint8_t m_interrupt_enable = 0;
    uint8_t m_fifo_control = 0;
    uint8_t m_line_control = 0;
    uint8_t m_modem_control = 0;
    uint8_t m_modem_status;
    uint8_t m_scratch = 0;
    uint16_t m_divisor;

    std::array<uint8_t, fifo_bytes> m_received{}; // a ring
    size_t m_first_received = 0;
    size_t m_received_count = 0;
    bool m_overrun = false;
    bool m_line_waits = false; // resume_receive() is owed

    bool m_transmitter_empty = true;
    bool m_transmitter_interrupt = false; // "THR empty" not yet acknowledged
    bool m_level = false;
};

} // namespace casemate
