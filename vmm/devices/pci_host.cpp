// SPDX-License-Identifier: Apache-2.0
#include "devices/pci_host.hpp"

#include <algorithm>
#include <fmt/core.h>

namespace casemate {
namespace {

constexpr uint64_t function_bytes = ConfigImage::function_bytes;
constexpr uint64_t functions_per_slot = ConfigImage::slot_bytes / function_bytes;

// Calls `access(offset, part)` for each part of `data` that lies in one aligned dword: config space has no
// wider accesses, and a part that leaves a function's space belongs to the next function.
template <typename Byte, typename Access>
void for_each_dword(uint64_t offset, std::span<Byte> data, Access access) {
    while (!data.empty()) {
        const size_t length = std::min<size_t>(data.size(), 4 - offset % 4);
        access(offset, data.first(length));
        offset += length;
        data = data.subspan(length);
    }
}

} // namespace

// Red Hat's number for a generic PCI Express host bridge: no driver and no quirk of a real chipset knows it,
// as they do Intel's and AMD's.
PciHost::HostBridge::HostBridge()
    : PciFunction({.vendor = 0x1b36, .device = 0x0008, .class_code = 0x060000}) {}

PciHost::PciHost(Bus& memory, const GuestRange& window)
    : m_memory(memory)
    , m_window(window)
    , m_next_address(window.start().value) {
    m_slots[0].function = &m_bridge;
}

PciHost::~PciHost() {
    for (Slot& slot : m_slots)
        for (unsigned bar = 0; bar < PciConfig::max_bars; ++bar)
            if (const auto mapped = slot.mapped[bar]) {
                slot.function->bar_moved(bar, std::nullopt);
                m_memory.remove(mapped->value);
            }
}

Result<uint8_t> PciHost::add(PciFunction& function) {
    const std::lock_guard lock(m_mutex);
    const auto slot = std::ranges::find(m_slots, nullptr, &Slot::function);
    if (slot == m_slots.end())
        return fail(
            Error::usage(fmt::format("add {}: all {} PCI slots are taken", function.name(), max_slots))
                .hint("Use fewer devices."));
    PciConfig& config = function.config();
    for (unsigned bar = 0; bar < PciConfig::max_bars; ++bar) {
        const uint64_t bytes = config.bar_bytes(bar);
        if (bytes == 0)
            continue;
        const uint64_t start = align_up(m_next_address, bytes); // far from wrapping: the window is 32-bit
        if (start + bytes > m_window.end())
            return fail(Error(fmt::format("add {}: PCI memory window is full", function.name())));
        config.set_bar_address(bar, static_cast<uint32_t>(start));
        m_next_address = start + bytes;
    }
    slot->function = &function;
    return static_cast<uint8_t>(slot - m_slots.begin());
}

PciHost::Slot* PciHost::find(uint64_t offset) {
    const uint64_t number = offset / function_bytes;
    if (number % functions_per_slot != 0 || number / functions_per_slot >= max_slots)
        return nullptr;
    Slot& slot = m_slots[number / functions_per_slot];
    return slot.function == nullptr ? nullptr : &slot;
}

void PciHost::read(uint64_t offset, std::span<std::byte> data) {
    const std::lock_guard lock(m_mutex);
    for_each_dword(offset, data, [&](uint64_t place, std::span<std::byte> part) {
        if (const Slot* slot = find(place))
            slot->function->read_config(place % function_bytes, part);
        else
            std::ranges::fill(part, std::byte{0xff});
    });
}

void PciHost::write(uint64_t offset, std::span<const std::byte> data) {
    const std::lock_guard lock(m_mutex);
    for_each_dword(offset, data, [&](uint64_t place, std::span<const std::byte> part) {
        if (Slot* const slot = find(place)) {
            slot->function->write_config(place % function_bytes, part);
            map_bars(*slot);
            update_image(*slot);
        }
    });
}

unsigned PciHost::slots_taken() const {
    return static_cast<unsigned>(std::ranges::find(m_slots, nullptr, &Slot::function) - m_slots.begin());
}

void PciHost::show_in(ConfigImage& image, std::function<void()> retire) {
    const std::lock_guard lock(m_mutex);
    m_image = &image;
    m_retire_image = std::move(retire);
    for (unsigned slot = 0; slot < slots_taken(); ++slot)
        update_image(m_slots.at(slot));
}

void PciHost::update_image(const Slot& slot) {
    if (m_image == nullptr)
        return;
    if (slot.function->config_reads_have_effects()) {
        m_image = nullptr;
        m_retire_image();
        return;
    }
    std::array<std::byte, PciConfig::size_bytes> bytes;
    slot.function->config().read(0, bytes);
    m_image->update(static_cast<unsigned>(&slot - m_slots.data()), bytes);
}

std::optional<GuestPhysical> PciHost::wanted_place(PciConfig& config, unsigned bar) const {
    const auto range = GuestRange::from_guest(GuestValue(uint64_t{config.bar_address(bar)}),
                                              GuestValue(config.bar_bytes(bar)));
    if (!config.memory_enabled() || !range || range->empty() || !m_window.contains(*range))
        return std::nullopt;
    return range->start();
}

void PciHost::map_bars(Slot& slot) {
    PciFunction& function = *slot.function;
    for (unsigned bar = 0; bar < PciConfig::max_bars; ++bar) {
        std::optional<GuestPhysical>& mapped = slot.mapped[bar];
        const std::optional<GuestPhysical> wanted = wanted_place(function.config(), bar);
        if (wanted == mapped)
            continue;
        if (mapped) {
            function.bar_moved(bar, std::nullopt);
            m_memory.remove(mapped->value);
            mapped.reset();
        }
        // The bus refuses what overlaps; such a BAR decodes nothing until the guest writes its config again.
        if (wanted && m_memory.add(wanted->value, function.config().bar_bytes(bar), *function.bar(bar),
                                   fmt::format("{} BAR {}", function.name(), bar))) {
            mapped = wanted;
            function.bar_moved(bar, mapped);
        }
    }
}

} // namespace casemate
