// SPDX-License-Identifier: Apache-2.0
#include "devices/rtc.hpp"

#include "serial_fakes.hpp"

#include <doctest/doctest.h>

namespace casemate {
namespace {

using namespace std::chrono_literals;

// Sunday.
constexpr std::chrono::system_clock::time_point evening =
    std::chrono::sys_days{std::chrono::year{2023} / 12 / 31} + 23h + 58min + 47s;

uint8_t get(Rtc& rtc, unsigned index) {
    out(rtc, 0, index);
    return in(rtc, 1);
}
void set(Rtc& rtc, unsigned index, unsigned value) {
    out(rtc, 0, index);
    out(rtc, 1, value);
}

TEST_CASE("the clock starts in BCD and 24 hours") {
    Rtc rtc([] { return evening; });
    CHECK(get(rtc, 0x00) == 0x47);
    CHECK(get(rtc, 0x02) == 0x58);
    CHECK(get(rtc, 0x04) == 0x23);
    CHECK(get(rtc, 0x06) == 0x01);
    CHECK(get(rtc, 0x07) == 0x31);
    CHECK(get(rtc, 0x08) == 0x12);
    CHECK(get(rtc, 0x09) == 0x23);
    CHECK(get(rtc, Rtc::century_index) == 0x20);
}

TEST_CASE("register B chooses binary and 12 hours") {
    auto now = evening;
    Rtc rtc([&] { return now; });
    set(rtc, 0x0b, 0x06);
    CHECK(get(rtc, 0x00) == 47);
    CHECK(get(rtc, 0x04) == 23);
    set(rtc, 0x0b, 0x04);
    CHECK(get(rtc, 0x04) == (0x80 | 11));
    set(rtc, 0x0b, 0x00);
    CHECK(get(rtc, 0x04) == 0x91);
    now += 1h; // half past midnight is 12 am
    CHECK(get(rtc, 0x04) == 0x12);
    now += 12h;
    CHECK(get(rtc, 0x04) == 0x92);
}

TEST_CASE("an update is announced shortly before the second ends, unless the guest sets the clock") {
    auto now = evening + 999'800us;
    Rtc rtc([&] { return now; });
    CHECK((get(rtc, 0x0a) & 0x80) != 0);
    set(rtc, 0x0b, 0x82);
    CHECK((get(rtc, 0x0a) & 0x80) == 0);
    set(rtc, 0x0b, 0x02);
    now += 200us;
    CHECK(get(rtc, 0x0a) == 0x26);
    now += 900ms;
    CHECK(get(rtc, 0x0a) == 0x26);
}

TEST_CASE("the time cannot be set and interrupts cannot be enabled") {
    Rtc rtc([] { return evening; });
    set(rtc, 0x09, 0x99);
    CHECK(get(rtc, 0x09) == 0x23);
    set(rtc, 0x0b, 0x72);
    CHECK(get(rtc, 0x0b) == 0x02);
    CHECK(get(rtc, 0x0c) == 0);
    set(rtc, 0x0d, 0);
    CHECK(get(rtc, 0x0d) == 0x80);
}

TEST_CASE("the last byte of memory is kept and the NMI bit of the index is not part of it") {
    Rtc rtc([] { return evening; });
    set(rtc, 0x7f, 0x5a);
    CHECK(get(rtc, 0xff) == 0x5a);
    set(rtc, 0x80 | 0x0e, 0xa5);
    CHECK(get(rtc, 0x0e) == 0xa5);
    CHECK(in(rtc, 0) == 0xff);
}

TEST_CASE("a two-byte write is an index and a value") {
    Rtc rtc([] { return evening; });
    const std::array data{std::byte{0x40}, std::byte{0x77}};
    rtc.write(0, data);
    CHECK(get(rtc, 0x40) == 0x77);
}

} // namespace
} // namespace casemate
