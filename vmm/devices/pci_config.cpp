// SPDX-License-Identifier: Apache-2.0
#include "devices/pci_config.hpp"

#include "base/little_endian.hpp"
#include "base/units.hpp"

#include <algorithm>
#include <bit>
#include <cassert>

namespace casemate {
namespace {

// PCI 3.0, figure 6-1.
struct Type0Header {
    Le16 vendor;
    Le16 device;
    Le16 command;
    Le16 status;
    uint8_t revision;
    uint8_t class_code[3];
    uint8_t cache_line_size;
    uint8_t latency_timer;
    uint8_t header_type;
    uint8_t self_test;
    Le32 bars[PciConfig::max_bars];
    Le32 cardbus;
    Le16 subsystem_vendor;
    Le16 subsystem;
    Le32 rom;
    uint8_t capabilities;
    uint8_t reserved[7];
    uint8_t interrupt_line;
    uint8_t interrupt_pin;
    uint8_t min_grant;
    uint8_t max_latency;
};
static_assert(sizeof(Type0Header) == 64 && offsetof(Type0Header, command) == 4 &&
              offsetof(Type0Header, class_code) == 9 && offsetof(Type0Header, bars) == 0x10 &&
              offsetof(Type0Header, subsystem_vendor) == 0x2c &&
              offsetof(Type0Header, capabilities) == 0x34 && offsetof(Type0Header, interrupt_line) == 0x3c);

constexpr uint16_t command_memory = 1U << 1;
constexpr uint16_t command_bus_master = 1U << 2;
constexpr uint16_t command_no_intx = 1U << 10;
constexpr uint16_t status_capabilities = 1U << 4;

constexpr size_t bar_offset(unsigned index) {
    return offsetof(Type0Header, bars) + 4UL * index;
}

template <typename T>
void put(std::span<std::byte> bytes, size_t offset, const T& value) {
    std::ranges::copy(std::as_bytes(std::span(&value, 1)), bytes.subspan(offset).begin());
}

} // namespace

PciConfig::PciConfig(const PciIdentity& identity)
    : m_last_link(offsetof(Type0Header, capabilities))
    , m_next_capability(sizeof(Type0Header)) {
    Type0Header header{};
    header.vendor = identity.vendor;
    header.device = identity.device;
    header.revision = identity.revision;
    for (unsigned i = 0; i < 3; ++i)
        header.class_code[i] = static_cast<uint8_t>(identity.class_code >> (8 * i));
    header.subsystem_vendor = identity.subsystem_vendor;
    header.subsystem = identity.subsystem;
    put<Type0Header>(m_bytes, 0, header);

    Type0Header writable{};
    writable.command = uint16_t{command_memory | command_bus_master | command_no_intx};
    writable.cache_line_size = 0xff; // for software's use, PCI 3.0, 6.2.4
    writable.interrupt_line = 0xff;
    put<Type0Header>(m_writable, 0, writable);
}

void PciConfig::add_bar(unsigned index, uint32_t bytes) {
    assert(std::has_single_bit(bytes) && bytes >= page_bytes);
    m_bar_bytes.at(index) = bytes;
    // The read-only low bits answer sizing by all-ones, PCI 3.0, 6.2.5.1.
    put(m_writable, bar_offset(index), Le32(~(bytes - 1)));
}

uint8_t PciConfig::add_capability(uint8_t id, std::span<const std::byte> body,
                                  std::span<const std::byte> writable) {
    const auto start = static_cast<uint8_t>(m_next_capability);
    assert(writable.size() <= body.size() && m_next_capability + 2 + body.size() <= m_bytes.size());
    put(m_bytes, offsetof(Type0Header, status), Le16(status_capabilities));
    m_bytes.at(m_last_link) = std::byte{start};
    m_bytes.at(start) = std::byte{id};
    m_last_link = static_cast<uint8_t>(start + 1);
    std::ranges::copy(body, m_bytes.begin() + start + 2);
    std::ranges::copy(writable, m_writable.begin() + start + 2);
    m_next_capability = static_cast<uint16_t>(align_up(start + 2 + body.size(), 4));
    return start;
}

void PciConfig::read(uint32_t offset, std::span<std::byte> data) const {
    for (size_t i = 0; i < data.size(); ++i)
        data[i] = offset + i < m_bytes.size() ? m_bytes[offset + i] : std::byte{0};
}

void PciConfig::write(uint32_t offset, std::span<const std::byte> data) {
    for (size_t i = 0; i < data.size() && offset + i < m_bytes.size(); ++i) {
        std::byte& byte = m_bytes[offset + i];
        const std::byte mask = m_writable[offset + i];
        byte = (byte & ~mask) | (data[i] & mask);
    }
}

void PciConfig::set(uint32_t offset, std::span<const std::byte> data) {
    for (size_t i = 0; i < data.size() && offset + i < m_bytes.size(); ++i)
        m_bytes[offset + i] = data[i];
}

bool PciConfig::memory_enabled() const {
    return (m_bytes[offsetof(Type0Header, command)] & std::byte{command_memory}) != std::byte{0};
}

uint32_t PciConfig::bar_address(unsigned index) const {
    Le32 value;
    read(static_cast<uint32_t>(bar_offset(index)), std::as_writable_bytes(std::span(&value, 1)));
    return value; // its low bits are zero: 32-bit memory, not prefetchable
}

void PciConfig::set_bar_address(unsigned index, uint32_t address) {
    const Le32 value = address;
    write(static_cast<uint32_t>(bar_offset(index)), std::as_bytes(std::span(&value, 1)));
}

} // namespace casemate
