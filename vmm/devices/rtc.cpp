// SPDX-License-Identifier: Apache-2.0
#include "devices/rtc.hpp"

#include <utility>

namespace casemate {
namespace {

using namespace std::chrono_literals;

// Motorola MC146818A data sheet, "Address Map" and "Registers".
enum Index : uint8_t {
    seconds = 0x00,
    minutes = 0x02,
    hours = 0x04,
    day_of_week = 0x06,
    day_of_month = 0x07,
    month = 0x08,
    year = 0x09,
    register_a = 0x0a,
    register_b = 0x0b,
    register_c = 0x0c,
    register_d = 0x0d,
};

constexpr uint8_t a_update_in_progress = 1 << 7;
constexpr uint8_t a_divider_32khz_rate_1024hz = 0x26;
constexpr uint8_t b_set = 1 << 7;
constexpr uint8_t b_binary = 1 << 2;
constexpr uint8_t b_24_hours = 1 << 1;
constexpr uint8_t b_interrupt_enables = 0x70;
constexpr uint8_t d_valid_time = 1 << 7;
constexpr uint8_t hour_pm = 1 << 7;

// UIP rises this long before the time changes, so a guest that sees it clear has so long to read. It follows
// from the host's clock alone, hence never sticks.
constexpr auto update_notice = 244us;

// Bit 7 of the index port masks the NMI, which no device here raises.
constexpr uint8_t index_mask = 0x7f;

} // namespace

Rtc::Rtc(Clock now)
    : m_now(std::move(now)) {
    m_bytes[register_a] = a_divider_32khz_rate_1024hz;
    m_bytes[register_b] = b_24_hours;
}

uint8_t Rtc::encoded(unsigned value) const {
    const bool binary = (m_bytes[register_b] & b_binary) != 0;
    return static_cast<uint8_t>(binary ? value : (value / 10 << 4) + value % 10);
}

uint8_t Rtc::encoded_hour(unsigned hour) const {
    if ((m_bytes[register_b] & b_24_hours) != 0)
        return encoded(hour);
    const unsigned twelve = hour % 12 == 0 ? 12 : hour % 12;
    return encoded(twelve) | (hour >= 12 ? hour_pm : 0);
}

uint8_t Rtc::time_byte(uint8_t index) const {
    const auto now = m_now();
    const auto today = std::chrono::floor<std::chrono::days>(now);
    const std::chrono::year_month_day date(today);
    const std::chrono::hh_mm_ss time(std::chrono::floor<std::chrono::seconds>(now - today));
    const int full_year = static_cast<int>(date.year());
    switch (index) {
    case seconds:
        return encoded(static_cast<unsigned>(time.seconds().count()));
    case minutes:
        return encoded(static_cast<unsigned>(time.minutes().count()));
    case hours:
        return encoded_hour(static_cast<unsigned>(time.hours().count()));
    case day_of_week:
        return encoded(std::chrono::weekday(today).c_encoding() + 1);
    case day_of_month:
        return encoded(static_cast<unsigned>(date.day()));
    case month:
        return encoded(static_cast<unsigned>(date.month()));
    case year:
        return encoded(static_cast<unsigned>(full_year % 100));
    case century_index:
        return encoded(static_cast<unsigned>(full_year / 100));
    case register_a: {
        const bool updating = now - std::chrono::floor<std::chrono::seconds>(now) >= 1s - update_notice &&
                              (m_bytes[register_b] & b_set) == 0;
        return m_bytes[register_a] | (updating ? a_update_in_progress : 0);
    }
    case register_d:
        return d_valid_time;
    default:
        return m_bytes[index];
    }
}

uint8_t Rtc::read_register(uint64_t offset) {
    const std::lock_guard lock(m_mutex);
    return offset == 0 ? 0xff : time_byte(m_index); // the index port is write-only
}

void Rtc::write_register(uint64_t offset, uint8_t value) {
    const std::lock_guard lock(m_mutex);
    if (offset == 0) {
        m_index = value & index_mask;
        return;
    }
    switch (m_index) {
    case register_a:
        m_bytes[register_a] = value & static_cast<uint8_t>(~a_update_in_progress);
        break;
    case register_b:
        // Enables that cannot be set tell a driver that there is no interrupt.
        m_bytes[register_b] = value & static_cast<uint8_t>(~b_interrupt_enables);
        break;
    case register_c:
    case register_d:
        break; // read-only
    default:
        m_bytes[m_index] = value; // never read back where time_byte computes
        break;
    }
}

} // namespace casemate
