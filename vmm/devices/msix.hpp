// SPDX-License-Identifier: Apache-2.0
// Msix: the MSI-X table and pending bits of one PCI function (PCI 3.0, 6.8.2), in front of MessageInterrupts.
#pragma once

#include "base/little_endian.hpp"
#include "devices/interrupt.hpp"

#include <cstddef>
#include <cstdint>
#include <mutex>
#include <span>
#include <vector>

namespace casemate {

// Thread-safe.
class Msix {
public:
    static constexpr uint16_t max_vectors = 256;
    static constexpr uint8_t capability_id = 0x11;
    // Bits of the capability's message control word.
    static constexpr uint16_t control_enable = 1U << 15;
    static constexpr uint16_t control_mask = 1U << 14;

    // One vector for each that `interrupts` has, at most max_vectors.
    explicit Msix(MessageInterrupts& interrupts);

    uint16_t vectors() const { return static_cast<uint16_t>(m_entries.size()); }

    // The table: aligned dwords and qwords; other writes are ignored, as 6.8.2 leaves them undefined. Past
    // its end: zero.
    void read_table(uint64_t offset, std::span<std::byte> data) const;
    void write_table(uint64_t offset, std::span<const std::byte> data);
    // The pending bits, one per vector.
    void read_pending(uint64_t offset, std::span<std::byte> data) const;
    // The message control word, after the guest wrote it.
    void set_control(uint16_t control);

    // Delivers now, or once unmasked. Nothing happens while MSI-X is off or for a vector there is not.
    void raise(uint16_t vector);

private:
    // 6.8.2.6 to 6.8.2.9.
    struct Entry {
        Le64 address;
        Le32 data;
        Le32 control;
    };
    static_assert(sizeof(Entry) == 16 && offsetof(Entry, data) == 8 && offsetof(Entry, control) == 12);
    struct State {
        bool pending = false;
        bool routed = false; // `address` and `data` are what MessageInterrupts knows
        uint64_t address = 0;
        uint32_t data = 0;
    };

    bool deliverable(size_t vector) const;
    void update(size_t vector);

    MessageInterrupts& m_interrupts;
    mutable std::mutex m_mutex; // guards all below; inside a device's lock
    uint16_t m_control = 0;
    std::vector<Entry> m_entries;
    std::vector<State> m_states;
};

} // namespace casemate
