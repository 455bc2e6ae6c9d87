// SPDX-License-Identifier: Apache-2.0
#include "devices/serial.hpp"

#include <algorithm>

namespace casemate {
namespace {

// PC16550D data sheet, table II, "Summary of Registers". Offsets 0 and 1 are the divisor latch while DLAB is
// set.
enum Register : uint8_t {
    receiver_transmitter = 0,
    interrupt_enable = 1,
    interrupt_identification_fifo_control = 2,
    line_control = 3,
    modem_control = 4,
    line_status = 5,
    modem_status = 6,
    scratch = 7,
};

constexpr uint8_t enable_received = 1 << 0;
constexpr uint8_t enable_transmitter_empty = 1 << 1;
constexpr uint8_t enable_line_status = 1 << 2;
constexpr uint8_t enable_modem_status = 1 << 3;
constexpr uint8_t enable_mask = 0x0f;

// Table IV, "Interrupt Control Functions", in falling priority.
constexpr uint8_t pending_line_status = 0x06;
constexpr uint8_t pending_received = 0x04;
constexpr uint8_t pending_character_timeout = 0x0c;
constexpr uint8_t pending_transmitter_empty = 0x02;
constexpr uint8_t pending_modem_status = 0x00;
constexpr uint8_t pending_none = 0x01;
constexpr uint8_t identification_fifos_enabled = 0xc0;

constexpr uint8_t fifo_enable = 1 << 0;
constexpr uint8_t fifo_reset_receiver = 1 << 1;
constexpr std::array<size_t, 4> fifo_trigger_levels{1, 4, 8, 14}; // by bits 7:6

constexpr uint8_t line_divisor_latch = 1 << 7;

constexpr uint8_t control_dtr = 1 << 0;
constexpr uint8_t control_rts = 1 << 1;
constexpr uint8_t control_out1 = 1 << 2;
constexpr uint8_t control_out2 = 1 << 3;
constexpr uint8_t control_loop = 1 << 4;
constexpr uint8_t control_mask = 0x1f;

constexpr uint8_t status_data_ready = 1 << 0;
constexpr uint8_t status_overrun = 1 << 1;
constexpr uint8_t status_transmitter_empty = 1 << 5 | 1 << 6; // THRE and TEMT

// Low nibble: changes of the high one since the last read.
constexpr uint8_t modem_cts = 1 << 4;
constexpr uint8_t modem_dsr = 1 << 5;
constexpr uint8_t modem_ri = 1 << 6;
constexpr uint8_t modem_dcd = 1 << 7;
constexpr uint8_t modem_inputs_mask = 0xf0;
constexpr uint8_t modem_changes_mask = 0x0f;
constexpr uint8_t modem_ri_ended = 1 << 2;

// A cable to a terminal that is switched on.
constexpr uint8_t terminal_present = modem_cts | modem_dsr | modem_dcd;

// 9600 baud, where PC firmware leaves the port: 1.8432 MHz / 16 / 12.
constexpr uint16_t initial_divisor = 12;

} // namespace

Serial::Serial(InterruptLine& interrupt, SerialLine& line)
    : m_interrupt(interrupt)
    , m_line(line)
    , m_modem_status(terminal_present)
    , m_divisor(initial_divisor) {}

size_t Serial::receive(std::span<const std::byte> characters) {
    const std::lock_guard lock(m_mutex);
    size_t taken = 0;
    if (accepts_characters())
        while (taken < characters.size() && m_received_count < receive_capacity())
            push_received(std::to_integer<uint8_t>(characters[taken++]));
    m_line_waits = taken < characters.size();
    update_interrupt();
    return taken;
}

void Serial::resume_transmit() {
    const std::lock_guard lock(m_mutex);
    update_transmitter();
    update_interrupt();
}

uint8_t Serial::read_register(uint64_t offset) {
    const std::lock_guard lock(m_mutex);
    const bool divisor_latch = (m_line_control & line_divisor_latch) != 0;
    switch (offset) {
    case receiver_transmitter:
        return divisor_latch ? static_cast<uint8_t>(m_divisor) : read_receiver();
    case interrupt_enable:
        return divisor_latch ? static_cast<uint8_t>(m_divisor >> 8) : m_interrupt_enable;
    case interrupt_identification_fifo_control:
        return read_interrupt_identification();
    case line_control:
        return m_line_control;
    case modem_control:
        return m_modem_control;
    case line_status:
        return read_line_status();
    case modem_status:
        return read_modem_status();
    case scratch:
        return m_scratch;
    default:
        return 0xff;
    }
}

void Serial::write_register(uint64_t offset, uint8_t value) {
    const std::lock_guard lock(m_mutex);
    const bool divisor_latch = (m_line_control & line_divisor_latch) != 0;
    switch (offset) {
    case receiver_transmitter:
        if (divisor_latch)
            m_divisor = static_cast<uint16_t>((m_divisor & 0xff00) | value);
        else
            write_transmitter(value);
        break;
    case interrupt_enable:
        if (divisor_latch)
            m_divisor = static_cast<uint16_t>((m_divisor & 0x00ff) | value << 8);
        else
            write_interrupt_enable(value);
        break;
    case interrupt_identification_fifo_control:
        write_fifo_control(value);
        break;
    case line_control:
        m_line_control = value;
        break;
    case modem_control:
        write_modem_control(value);
        break;
    case scratch:
        m_scratch = value;
        break;
    default:
        break; // the status registers are read-only
    }
    update_interrupt();
}

uint8_t Serial::read_receiver() {
    if (m_received_count == 0)
        return 0;
    const uint8_t value = m_received[m_first_received];
    m_first_received = (m_first_received + 1) % fifo_bytes;
    --m_received_count;
    // Asked for only when empty: once in 16 characters instead of once for each.
    if (m_received_count == 0)
        ask_for_characters();
    update_interrupt();
    return value;
}

uint8_t Serial::read_interrupt_identification() {
    const uint8_t pending = pending_interrupt();
    if (pending == pending_transmitter_empty) {
        m_transmitter_interrupt = false; // this read is the acknowledgement
        update_interrupt();
    }
    return pending | ((m_fifo_control & fifo_enable) != 0 ? identification_fifos_enabled : 0);
}

uint8_t Serial::read_line_status() {
    const auto status = static_cast<uint8_t>((m_received_count != 0 ? status_data_ready : 0) |
                                             (m_overrun ? status_overrun : 0) |
                                             (m_transmitter_empty ? status_transmitter_empty : 0));
    if (m_overrun) {
        m_overrun = false;
        update_interrupt();
    }
    return status;
}

uint8_t Serial::read_modem_status() {
    const uint8_t status = m_modem_status;
    if ((status & modem_changes_mask) != 0) {
        m_modem_status &= modem_inputs_mask;
        update_interrupt();
    }
    return status;
}

void Serial::write_transmitter(uint8_t value) {
    m_transmitter_interrupt = false;
    if ((m_modem_control & control_loop) != 0) {
        push_received(value);
        m_transmitter_interrupt = m_transmitter_empty;
        return;
    }
    m_line.send(std::byte{value});
    m_transmitter_empty = false; // for no time, when the line can take more
    update_transmitter();
}

void Serial::write_interrupt_enable(uint8_t value) {
    const auto enabled = static_cast<uint8_t>(value & ~m_interrupt_enable);
    m_interrupt_enable = value & enable_mask;
    // Linux tests for this: drivers start transmission by enabling the interrupt of an idle transmitter.
    if ((enabled & enable_transmitter_empty) != 0 && m_transmitter_empty)
        m_transmitter_interrupt = true;
}

void Serial::write_fifo_control(uint8_t value) {
    // Both FIFOs are cleared when they are switched on or off; the other bits count only with bit 0 set.
    const bool switched = ((value ^ m_fifo_control) & fifo_enable) != 0;
    m_fifo_control = (value & fifo_enable) != 0 ? value : 0;
    if (switched || (m_fifo_control & fifo_reset_receiver) != 0) {
        m_received_count = 0;
        ask_for_characters();
    }
}

void Serial::write_modem_control(uint8_t value) {
    m_modem_control = value & control_mask;
    const uint8_t before = m_modem_status & modem_inputs_mask;
    const uint8_t now = modem_inputs();
    auto changes = static_cast<uint8_t>((before ^ now) >> 4);
    if ((now & modem_ri) != 0)
        changes &= static_cast<uint8_t>(~modem_ri_ended); // the ring indicator tells its end only
    m_modem_status = now | (m_modem_status & modem_changes_mask) | changes;
    if (m_received_count == 0)
        ask_for_characters();
}

uint8_t Serial::pending_interrupt() const {
    if ((m_interrupt_enable & enable_line_status) != 0 && m_overrun)
        return pending_line_status;
    if ((m_interrupt_enable & enable_received) != 0 && m_received_count != 0) {
        // Characters take no time, so four character times have passed at once.
        const bool fifos = (m_fifo_control & fifo_enable) != 0;
        const bool triggered = m_received_count >= fifo_trigger_levels[m_fifo_control >> 6];
        return fifos && !triggered ? pending_character_timeout : pending_received;
    }
    if ((m_interrupt_enable & enable_transmitter_empty) != 0 && m_transmitter_interrupt)
        return pending_transmitter_empty;
    if ((m_interrupt_enable & enable_modem_status) != 0 && (m_modem_status & modem_changes_mask) != 0)
        return pending_modem_status;
    return pending_none;
}

uint8_t Serial::modem_inputs() const {
    if ((m_modem_control & control_loop) == 0)
        return terminal_present;
    // Section 8.7, "Modem Control Register": the outputs are wired to the inputs.
    return static_cast<uint8_t>(((m_modem_control & control_rts) != 0 ? modem_cts : 0) |
                                ((m_modem_control & control_dtr) != 0 ? modem_dsr : 0) |
                                ((m_modem_control & control_out1) != 0 ? modem_ri : 0) |
                                ((m_modem_control & control_out2) != 0 ? modem_dcd : 0));
}

bool Serial::accepts_characters() const {
    return (m_modem_control & (control_rts | control_loop)) == control_rts;
}

size_t Serial::receive_capacity() const {
    return (m_fifo_control & fifo_enable) != 0 ? fifo_bytes : 1;
}

void Serial::push_received(uint8_t value) {
    if (m_received_count >= receive_capacity()) {
        m_overrun = true; // the FIFO keeps what it has
        return;
    }
    m_received[(m_first_received + m_received_count) % fifo_bytes] = value;
    ++m_received_count;
}

void Serial::ask_for_characters() {
    if (m_line_waits && accepts_characters()) {
        m_line_waits = false;
        m_line.resume_receive();
    }
}

void Serial::update_transmitter() {
    if (!m_transmitter_empty && m_line.can_send()) {
        m_transmitter_empty = true;
        m_transmitter_interrupt = true;
    }
}

void Serial::update_interrupt() {
    const bool level = pending_interrupt() != pending_none;
    if (level == m_level)
        return;
    m_level = level;
    m_interrupt.set_level(level);
}

} // namespace casemate
