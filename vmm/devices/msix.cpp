// SPDX-License-Identifier: Apache-2.0
#include "devices/msix.hpp"

#include "base/units.hpp"

#include <algorithm>

namespace casemate {
namespace {

constexpr uint32_t vector_masked = 1;

} // namespace

Msix::Msix(MessageInterrupts& interrupts)
    : m_interrupts(interrupts)
    , m_entries(std::min<uint32_t>(interrupts.count(), max_vectors), Entry{0, 0, vector_masked})
    , m_states(m_entries.size()) {}

void Msix::read_table(uint64_t offset, std::span<std::byte> data) const {
    const std::lock_guard lock(m_mutex);
    const auto table = std::as_bytes(std::span(m_entries));
    for (size_t i = 0; i < data.size(); ++i)
        data[i] = offset + i < table.size() ? table[offset + i] : std::byte{0};
}

void Msix::write_table(uint64_t offset, std::span<const std::byte> data) {
    const std::lock_guard lock(m_mutex);
    const auto table = std::as_writable_bytes(std::span(m_entries));
    if ((data.size() != 4 && data.size() != 8) || !is_aligned(offset, data.size()) || offset >= table.size())
        return;
    std::ranges::copy(data, table.begin() + static_cast<ptrdiff_t>(offset)); // aligned: inside one entry
    Entry& entry = m_entries[offset / sizeof(Entry)];
    entry.control = entry.control & vector_masked;
    update(offset / sizeof(Entry));
}

void Msix::read_pending(uint64_t offset, std::span<std::byte> data) const {
    const std::lock_guard lock(m_mutex);
    for (size_t i = 0; i < data.size(); ++i) {
        data[i] = std::byte{0};
        for (size_t bit = 0; bit < 8; ++bit) {
            const size_t vector = (offset + i) * 8 + bit;
            if (vector < m_states.size() && m_states[vector].pending)
                data[i] |= std::byte{1} << bit;
        }
    }
}

void Msix::set_control(uint16_t control) {
    const std::lock_guard lock(m_mutex);
    if (m_control == control)
        return;
    m_control = control;
    for (size_t vector = 0; vector < m_entries.size(); ++vector)
        update(vector);
}

void Msix::raise(uint16_t vector) {
    const std::lock_guard lock(m_mutex);
    if ((m_control & control_enable) == 0 || vector >= m_states.size())
        return;
    m_states[vector].pending = true;
    update(vector);
}

bool Msix::deliverable(size_t vector) const {
    return (m_control & (control_enable | control_mask)) == control_enable &&
           (m_entries[vector].control & vector_masked) == 0;
}

void Msix::update(size_t vector) {
    if (!deliverable(vector))
        return;
    // A message may only change while masked (6.8.2), so it is looked at when it is needed: a driver's three
    // writes cost one change of routes.
    const Entry& entry = m_entries[vector];
    State& state = m_states[vector];
    if (!state.routed || state.address != entry.address || state.data != entry.data) {
        state.routed = true;
        state.address = entry.address;
        state.data = entry.data;
        m_interrupts.route(static_cast<uint32_t>(vector), state.address, state.data);
    }
    if (state.pending) {
        state.pending = false;
        m_interrupts.raise(static_cast<uint32_t>(vector));
    }
}

} // namespace casemate
