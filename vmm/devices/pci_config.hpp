// SPDX-License-Identifier: Apache-2.0
// PciConfig: the configuration space of one type-0 function (PCI 3.0, 6.1): what reads give and which bits
// writes change. What follows from a write is for others to see and do.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>

namespace casemate {

struct PciIdentity {
    uint16_t vendor = 0;
    uint16_t device = 0;
    uint8_t revision = 0;
    uint32_t class_code = 0; // base class, subclass, interface: 24 bits
    uint16_t subsystem_vendor = 0;
    uint16_t subsystem = 0;
};

class PciConfig {
public:
    static constexpr unsigned max_bars = 6;
    static constexpr size_t size_bytes = 256;

    explicit PciConfig(const PciIdentity& identity);

    // A 32-bit memory BAR, not prefetchable; `bytes` is a power of two, at least 4 KiB. At address 0 for now.
    void add_bar(unsigned index, uint32_t bytes);
    // Appends to the capability list (PCI 3.0, 6.7). `body` starts behind the id and next bytes; `writable`
    // has a set bit for each that the guest may change, and may be shorter. Returns where the capability
    // starts.
    uint8_t add_capability(uint8_t id, std::span<const std::byte> body,
                           std::span<const std::byte> writable = {});

    // Any offset and width. What is not implemented reads as zero and ignores writes, as does all past the
    // first size_bytes: a zero there means that there are no extended capabilities.
    void read(uint32_t offset, std::span<std::byte> data) const;
    void write(uint32_t offset, std::span<const std::byte> data);
    // As write(), but changes read-only bits too: for the device itself.
    void set(uint32_t offset, std::span<const std::byte> data);

    bool memory_enabled() const;
    uint32_t bar_bytes(unsigned index) const { return m_bar_bytes.at(index); } // 0: no such BAR
    uint32_t bar_address(unsigned index) const;
    void set_bar_address(unsigned index, uint32_t address);

private:
    std::array<std::byte, size_bytes> m_bytes{};
    std::array<std::byte, size_bytes> m_writable{};
    std::array<uint32_t, max_bars> m_bar_bytes{};
    uint8_t m_last_link = 0; // offset of the byte that will point to the next capability
    uint16_t m_next_capability = 0;
};

} // namespace casemate
