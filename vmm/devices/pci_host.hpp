// SPDX-License-Identifier: Apache-2.0
// PciHost: bus 0 with its host bridge, reached through ECAM (PCI Express 5.0, 7.2.2). Maps BARs where the
// guest programs them, as far as that is inside the window and free.
#pragma once

#include "base/error.hpp"
#include "devices/bus.hpp"
#include "devices/config_image.hpp"
#include "devices/device.hpp"
#include "devices/pci_function.hpp"
#include "memory/guest_range.hpp"

#include <array>
#include <cstdint>
#include <functional>
#include <mutex>
#include <optional>

namespace casemate {

class PciHost final : public Device {
public:
    static constexpr unsigned max_slots = ConfigImage::slots;

    // BARs appear on `memory`, inside `window` alone. Both it and the functions outlive the host.
    PciHost(Bus& memory, const GuestRange& window);
    PciHost(const PciHost&) = delete;
    PciHost& operator=(const PciHost&) = delete;
    ~PciHost() override;

    // Puts the function into the next free slot, whose number it returns, and gives each BAR an address.
    // Nothing is decoded before the guest enables memory space. Before any vCPU runs.
    Result<uint8_t> add(PciFunction& function);

    // Slots 0 to one less have a function.
    unsigned slots_taken() const;
    // From now on `image`, which has slots_taken() functions, shows what read() gives. This ends when reads
    // of a function begin to have effects: `retire` is called in the write() that makes them, under the
    // host's lock, and nothing comes after it. After the last add(), before any vCPU runs; `image` outlives
    // write().
    void show_in(ConfigImage& image, std::function<void()> retire);

    // The ECAM region of bus 0.
    void read(uint64_t offset, std::span<std::byte> data) override;
    void write(uint64_t offset, std::span<const std::byte> data) override;

private:
    struct Slot {
        PciFunction* function = nullptr;
        std::array<std::optional<GuestPhysical>, PciConfig::max_bars> mapped;
    };
    class HostBridge final : public PciFunction {
    public:
        HostBridge();
        std::string_view name() const override { return "host bridge"; }
        Device* bar(unsigned) override { return nullptr; }
        void bar_moved(unsigned, std::optional<GuestPhysical>) override {}
    };

    Slot* find(uint64_t offset);
    void map_bars(Slot& slot);
    void update_image(const Slot& slot);
    std::optional<GuestPhysical> wanted_place(PciConfig& config, unsigned bar) const;

    Bus& m_memory;
    GuestRange m_window;
    uint64_t m_next_address;
    HostBridge m_bridge;
    std::mutex m_mutex; // guards the slots and every function's config space; before Bus and Device locks
    std::array<Slot, max_slots> m_slots;
    ConfigImage* m_image = nullptr;
    std::function<void()> m_retire_image;
};

} // namespace casemate
