// SPDX-License-Identifier: Apache-2.0
#include "devices/serial.hpp"

#include "serial_fakes.hpp"

#include <algorithm>
#include <doctest/doctest.h>
#include <thread>
#include <vector>

namespace casemate {
namespace {

constexpr uint64_t data = 0, ier = 1, iir = 2, fcr = 2, lcr = 3, mcr = 4, lsr = 5, msr = 6, scr = 7;

std::span<const std::byte> bytes(std::string_view text) {
    return std::as_bytes(std::span(text));
}

struct Port {
    CountingLine interrupt;
    FakeSerialLine line;
    Serial serial{interrupt, line};

    // As Linux leaves an open port.
    void open(unsigned interrupts = 0x05) {
        out(serial, fcr, 0x81);
        out(serial, mcr, 0x0b);
        out(serial, ier, interrupts);
    }
};

TEST_CASE("Linux's autoconfig finds a 16550A") {
    // linux v6.12 drivers/tty/serial/8250/8250_port.c: autoconfig, autoconfig_16550a, size_fifo
    Port port;
    Serial& uart = port.serial;
    const uint8_t saved_ier = in(uart, ier);
    out(uart, ier, 0);
    CHECK((in(uart, ier) & 0x0f) == 0);
    out(uart, ier, 0x0f);
    CHECK((in(uart, ier) & 0x0f) == 0x0f);
    out(uart, ier, saved_ier);
    const uint8_t saved_mcr = in(uart, mcr);
    const uint8_t saved_lcr = in(uart, lcr);
    out(uart, mcr, 0x10 | 0x08 | 0x02);
    CHECK((in(uart, msr) & 0xf0) == (0x80 | 0x10));
    out(uart, mcr, saved_mcr);
    out(uart, lcr, 0xbf);
    out(uart, 2, 0); // EFR
    out(uart, lcr, 0);
    out(uart, fcr, 0x01);
    REQUIRE((in(uart, iir) & 0xc0) == 0xc0);

    out(uart, lcr, 0x80);
    CHECK(in(uart, 2) != 0); // no EFR, version 1
    out(uart, lcr, 0xbf);
    CHECK(in(uart, 2) != 0); // no EFR, version 2
    out(uart, lcr, 0);
    const uint8_t status1 = in(uart, mcr);
    out(uart, lcr, 0xe0);
    const uint8_t bank2 = in(uart, 2);
    if (((bank2 ^ status1) & 0x10) == 0) { // no National SuperIO, whose bank 2 shows LOOP
        out(uart, lcr, 0);
        out(uart, mcr, status1 ^ 0x10);
        out(uart, lcr, 0xe0);
        CHECK(((in(uart, 2) ^ status1) & 0x10) == 0);
        out(uart, lcr, 0);
        out(uart, mcr, status1);
    }
    out(uart, lcr, 0);
    out(uart, fcr, 0x21);
    CHECK((in(uart, iir) & 0xe0) == 0xc0); // no 16750
    out(uart, fcr, 0x01);
    out(uart, lcr, 0x80);
    out(uart, fcr, 0x21);
    CHECK((in(uart, iir) & 0xe0) == 0xc0);
    out(uart, fcr, 0x01);
    out(uart, lcr, 0);
    out(uart, ier, 0x40);
    CHECK((in(uart, ier) & 0x40) == 0); // no XScale
    out(uart, ier, 0);

    out(uart, fcr, 0x07);
    out(uart, mcr, 0x10);
    out(uart, lcr, 0x80);
    out(uart, 0, 1);
    out(uart, 1, 0);
    out(uart, lcr, 0x03);
    for (unsigned i = 0; i < 256; ++i)
        out(uart, data, i);
    unsigned count = 0;
    while ((in(uart, lsr) & 0x01) != 0 && count < 256) {
        CHECK(in(uart, data) == count);
        ++count;
    }
    CHECK(count == 16);
    out(uart, mcr, saved_mcr);
    out(uart, lcr, saved_lcr);
    CHECK(port.line.sent.empty()); // nothing of the probe reaches the user
    CHECK(in(uart, lsr) != 0xff);
}

TEST_CASE("Linux's startup sees the transmitter interrupt reasserted") {
    // linux v6.12 drivers/tty/serial/8250/8250_port.c: serial8250_do_startup
    Port port;
    for (int i = 0; i < 2; ++i) {
        out(port.serial, ier, 0x02);
        CHECK(port.interrupt.level);
        CHECK(in(port.serial, iir) == 0x02);
        CHECK_FALSE(port.interrupt.level);
        CHECK(in(port.serial, iir) == 0x01);
        out(port.serial, ier, 0);
    }
    out(port.serial, ier, 0x02);
    CHECK((in(port.serial, lsr) & 0x40) != 0);
    CHECK((in(port.serial, iir) & 0x01) == 0);
}

TEST_CASE("IRQ probing raises the line") {
    // linux v6.12 drivers/tty/serial/8250/8250_port.c: autoconfig_irq
    Port port;
    out(port.serial, mcr, 0x0b);
    out(port.serial, ier, 0x0f);
    in(port.serial, lsr);
    in(port.serial, data);
    in(port.serial, iir);
    in(port.serial, msr);
    const int before = port.interrupt.rises;
    out(port.serial, data, 0xff);
    CHECK(port.interrupt.rises > before);
}

TEST_CASE("a burst of 16 goes out whole and empties the transmitter again") {
    Port port;
    port.open(0x07);
    for (int burst = 0; burst < 3; ++burst) {
        CHECK(in(port.serial, lsr) == 0x60);
        for (int i = 0; i < 16; ++i)
            out(port.serial, data, 'a');
        CHECK(port.interrupt.level);
        CHECK(in(port.serial, iir) == 0xc2);
    }
    CHECK(port.line.sent == std::string(48, 'a'));
}

TEST_CASE("a line that holds the guest back clears THRE until it resumes") {
    Port port;
    port.open(0x02);
    in(port.serial, iir);
    port.line.ready = false;
    out(port.serial, data, 'x');
    CHECK(in(port.serial, lsr) == 0);
    CHECK_FALSE(port.interrupt.level);
    out(port.serial, data, 'y'); // as Linux's console does after 10 ms
    CHECK(port.line.sent == "xy");
    port.serial.resume_transmit();
    CHECK(in(port.serial, lsr) == 0);
    port.line.ready = true;
    port.serial.resume_transmit();
    CHECK(in(port.serial, lsr) == 0x60);
    CHECK(port.interrupt.level);
    CHECK(in(port.serial, iir) == 0xc2);
}

TEST_CASE("nothing is received before the guest asserts RTS, and a flush loses nothing that waits") {
    Port port;
    CHECK(port.serial.receive(bytes("hello")) == 0);
    out(port.serial, fcr, 0x07);
    CHECK(port.line.resumed == 0);
    port.open();
    CHECK(port.line.resumed == 1);
    CHECK(port.serial.receive(bytes("hello")) == 5);
    CHECK(port.interrupt.level);
    std::string got;
    while ((in(port.serial, lsr) & 0x01) != 0)
        got.push_back(static_cast<char>(in(port.serial, data)));
    CHECK(got == "hello");
    CHECK_FALSE(port.interrupt.level);
    CHECK(port.line.resumed == 1); // the line had nothing left
}

TEST_CASE("the receive FIFO takes 16 and the line is asked again once it is empty") {
    Port port;
    port.open();
    const std::string paste(100, 'p');
    CHECK(port.serial.receive(bytes(paste)) == 16);
    CHECK(port.serial.receive(bytes(paste)) == 0);
    for (int i = 0; i < 15; ++i)
        in(port.serial, data);
    CHECK(port.line.resumed == 0);
    in(port.serial, data);
    CHECK(port.line.resumed == 1);
    in(port.serial, data);
    CHECK(port.line.resumed == 1);
    CHECK((in(port.serial, lsr) & 0x02) == 0); // no overrun
    CHECK(port.serial.receive(bytes("16")) == 2);
}

TEST_CASE("without FIFOs the receiver holds one character") {
    Port port;
    out(port.serial, mcr, 0x02);
    CHECK(port.serial.receive(bytes("ab")) == 1);
    CHECK(in(port.serial, data) == 'a');
    CHECK(port.line.resumed == 1);
}

TEST_CASE("interrupts are identified in the order of their priority") {
    Port port;
    port.open(0x0f);
    out(port.serial, fcr, 0xc1); // trigger at 14
    in(port.serial, iir);
    CHECK(in(port.serial, iir) == 0xc1);
    port.serial.receive(bytes("1234567890123"));
    CHECK(in(port.serial, iir) == 0xcc); // character timeout
    port.serial.receive(bytes("4"));
    CHECK(in(port.serial, iir) == 0xc4);

    out(port.serial, mcr, 0x13); // loop
    for (int i = 0; i < 3; ++i)
        out(port.serial, data, '!');
    CHECK(in(port.serial, iir) == 0xc6); // overrun
    CHECK((in(port.serial, lsr) & 0x02) != 0);
    CHECK((in(port.serial, lsr) & 0x02) == 0);
    CHECK(in(port.serial, iir) == 0xc4);
    out(port.serial, fcr, 0xc3);
    CHECK(in(port.serial, iir) == 0xc2);
    CHECK(in(port.serial, iir) == 0xc0); // DCD fell with the loop
    CHECK((in(port.serial, msr) & 0x0f) == 0x08);
    CHECK(in(port.serial, iir) == 0xc1);
    CHECK_FALSE(port.interrupt.level);
}

TEST_CASE("modem inputs show a terminal, or the outputs in loopback; RI tells its end only") {
    Port port;
    CHECK(in(port.serial, msr) == 0xb0);
    out(port.serial, mcr, 0x1f);
    CHECK(in(port.serial, msr) == 0xf0);
    out(port.serial, mcr, 0x10);
    CHECK(in(port.serial, msr) == 0x0f);
    CHECK(in(port.serial, msr) == 0x00);
}

TEST_CASE("scratch, divisor and line control keep what is written, status registers do not") {
    Port port;
    out(port.serial, scr, 0x5a);
    CHECK(in(port.serial, scr) == 0x5a);
    out(port.serial, lcr, 0x83);
    out(port.serial, 0, 0x34);
    out(port.serial, 1, 0x12);
    CHECK(in(port.serial, 0) == 0x34);
    CHECK(in(port.serial, 1) == 0x12);
    out(port.serial, lcr, 0x03);
    CHECK(in(port.serial, 1) == 0);
    CHECK(port.line.sent.empty());
    out(port.serial, lsr, 0);
    CHECK(in(port.serial, lsr) == 0x60);
}

TEST_CASE("wide accesses are taken apart into ascending registers") {
    Port port;
    out(port.serial, scr, 0x77);
    std::array<std::byte, 8> all{};
    port.serial.read(0, all);
    CHECK(all[5] == std::byte{0x60});
    CHECK(all[7] == std::byte{0x77});
    std::array<std::byte, 2> last{};
    port.serial.read(6, last);
    CHECK(last[1] == std::byte{0x77});
    std::array<std::byte, 4> quad{};
    port.serial.read(4, quad);
    CHECK(quad[1] == std::byte{0x60});
    const std::array word{std::byte{'W'}, std::byte{0x01}};
    port.serial.write(0, word);
    CHECK(port.line.sent == "W");
    CHECK(in(port.serial, ier) == 0x01);
}

TEST_CASE("a guest and a line on two threads lose nothing") {
    struct Feeder : FakeSerialLine {
        std::atomic<int> resumes = 0;
        void resume_receive() override {
            ++resumes;
            resumes.notify_all();
        }
    };
    CountingLine interrupt;
    Feeder line;
    Serial serial(interrupt, line);
    out(serial, fcr, 0x01);
    out(serial, mcr, 0x03);
    out(serial, ier, 0x01);
    std::string paste(100'000, '\0');
    for (size_t i = 0; i < paste.size(); ++i)
        paste[i] = static_cast<char>('a' + i % 23);
    const std::jthread feeder([&] {
        for (size_t done = 0; done < paste.size();) {
            const int seen = line.resumes;
            done += serial.receive(bytes(std::string_view(paste).substr(done)));
            if (done < paste.size())
                line.resumes.wait(seen);
        }
    });
    std::string got;
    while (got.size() < paste.size()) {
        interrupt.level.wait(false);
        while ((in(serial, lsr) & 0x01) != 0) {
            got.push_back(static_cast<char>(in(serial, data)));
            out(serial, data, 'e');
        }
    }
    CHECK(got == paste);
    CHECK(line.sent.size() == paste.size());
}

} // namespace
} // namespace casemate
