// SPDX-License-Identifier: Apache-2.0
#include "devices/power.hpp"

#include "serial_fakes.hpp"

#include <doctest/doctest.h>
#include <thread>

namespace casemate {
namespace {

constexpr uint8_t soft_off = 5;

TEST_CASE("only the soft-off type with the enable bit powers off, and once") {
    int offs = 0;
    SleepRegisters sleep(soft_off, [&] { ++offs; });
    out(sleep, 0, soft_off << 2);
    out(sleep, 0, 3 << 2 | 0x20);
    out(sleep, 1, soft_off << 2 | 0x20);
    CHECK(offs == 0);
    out(sleep, 0, soft_off << 2 | 0x20);
    out(sleep, 0, soft_off << 2 | 0x20);
    CHECK(offs == 1);
    CHECK(in(sleep, 0) == soft_off << 2); // the enable bit is write-only
    CHECK(in(sleep, 1) == 0);
}

TEST_CASE("a two-byte write reaches sleep control and status in order") {
    int offs = 0;
    SleepRegisters sleep(soft_off, [&] { ++offs; });
    const std::array data{std::byte{soft_off << 2 | 0x20}, std::byte{0x80}};
    sleep.write(0, data);
    CHECK(offs == 1);
}

TEST_CASE("two vCPUs that power off at once do so once") {
    std::atomic<int> offs = 0;
    SleepRegisters sleep(soft_off, [&] { ++offs; });
    {
        const std::jthread other([&] { out(sleep, 0, soft_off << 2 | 0x20); });
        out(sleep, 0, soft_off << 2 | 0x20);
    }
    CHECK(offs == 1);
}

TEST_CASE("the reset register resets when its CPU bit is written") {
    int resets = 0;
    ResetControl control([&] { ++resets; });
    out(control, 0, 0x02);
    CHECK(in(control, 0) == 0x02);
    CHECK(resets == 0);
    out(control, 0, 0x06);
    out(control, 0, 0x06);
    CHECK(resets == 1);
}

TEST_CASE("the keyboard controller looks idle and resets on command 0xfe") {
    int resets = 0;
    KeyboardController keyboard([&] { ++resets; });
    CHECK((in(keyboard, 0) & 0x03) == 0);
    out(keyboard, 0, 0xd1);
    CHECK(resets == 0);
    out(keyboard, 0, 0xfe);
    out(keyboard, 0, 0xfe);
    CHECK(resets == 1);
}

TEST_CASE("the power button pulses its line at each press") {
    CountingLine line;
    PowerButton button(line);
    button.press();
    button.press();
    CHECK(line.rises == 2);
    CHECK_FALSE(line.level);
}

} // namespace
} // namespace casemate
