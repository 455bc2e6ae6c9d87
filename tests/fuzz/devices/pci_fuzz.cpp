// SPDX-License-Identifier: Apache-2.0
// Fuzzes what a vCPU reaches of a virtio PCI function: config space, the BAR, doorbells and the rings behind.
#include "../../unit/devices/fakes.hpp"
#include "../expect.hpp"
#include "base/little_endian.hpp"
#include "devices/bus.hpp"
#include "devices/pci_host.hpp"
#include "devices/virtio/pci_transport.hpp"
#include "devices/virtio/rng.hpp"
#include "memory/layout.hpp"

#include <algorithm>
#include <array>
#include <fuzzer/FuzzedDataProvider.h>

namespace casemate::virtio {
namespace {

constexpr uint64_t ram_bytes = 1_MiB;
constexpr uint64_t window = layout::pci_window.start.value;
constexpr uint64_t bar_bytes = 32_KiB;
constexpr uint64_t doorbell = 0x3000;
constexpr uint64_t rings = 0x10000; // descriptors, and a page further each the other two

struct Run {
    FuzzedDataProvider input;
    const GuestMemory& memory;
    Log log{-1};
    std::unique_ptr<EventLoop> io = EventLoop::create().value();
    CountingInterrupts interrupts{3};
    RecordingDoorbells doorbells;
    Rng first{memory};
    Rng second{memory};
    std::unique_ptr<PciTransport> transports[2] = {
        PciTransport::create(first, memory, *io, interrupts, doorbells, log).value(),
        PciTransport::create(second, memory, *io, interrupts, doorbells, log).value()};
    Bus bus;
    PciHost host{bus, GuestRange::of(layout::pci_window.start, layout::pci_window.bytes)};
    ConfigImage& image;
    bool image_shown = true;
    uint16_t available_index = 0;

    void set_config(uint64_t offset, uint64_t value, size_t width) {
        std::array<std::byte, 8> data;
        put_value(data, value);
        host.write(offset, std::span(data).first(width));
        check_image();
    }
    // What a guest reads of the functions' first 256 bytes and behind them.
    void check_image() {
        for (uint64_t offset = 0; image_shown && offset < 3 * ConfigImage::slot_bytes;
             offset += ConfigImage::slot_bytes) {
            std::array<std::byte, 264> answer;
            host.read(offset, answer);
            expect(std::ranges::equal(answer, image.bytes().subspan(offset, answer.size())));
        }
    }
    void set(uint64_t address, uint64_t value, size_t width) {
        std::array<std::byte, 8> data;
        put_value(data, value);
        bus.write(address, std::span(data).first(width));
    }
    size_t pick_width() { return size_t{1} << input.ConsumeIntegralInRange(0U, 3U); }
    uint64_t pick_slot() { return input.ConsumeIntegralInRange<uint64_t>(1, 2) * 0x8000; }
    uint64_t pick_bar() { return window + input.ConsumeIntegralInRange<uint64_t>(0, 3) * bar_bytes; }
    uint64_t pick_value() {
        switch (input.ConsumeIntegralInRange(0, 3)) {
        case 0:
            return input.ConsumeIntegral<uint64_t>();
        case 1:
            return rings + input.ConsumeIntegralInRange<uint64_t>(0, 4) * page_bytes;
        case 2:
            return pick_bar();
        default:
            return input.ConsumeIntegral<uint8_t>();
        }
    }

    // As an honest driver does, with a queue of 8.
    void start_driver(uint64_t slot, uint64_t bar) {
        set_config(slot + 0x10, bar, 4);
        set_config(slot + 4, 6, 2);
        expect(memory.clear(GuestRange::of({rings}, 3 * page_bytes)).has_value());
        available_index = 0;
        set(bar + 20, 0, 1);
        run_io();
        set(bar + 20, 3, 1);
        const uint32_t low_features = input.ConsumeBool() ? 3U << 28 : 1U << 28;
        set(bar + 8, 0, 4);
        set(bar + 12, low_features, 4);
        set(bar + 8, 1, 4);
        set(bar + 12, 1, 4);
        set(bar + 20, 11, 1);
        set(bar + 22, 0, 2);
        set(bar + 24, 8, 2);
        for (uint64_t area = 0; area < 3; ++area)
            set(bar + 32 + 8 * area, rings + area * page_bytes, 8);
        set(bar + 28, 1, 2);
        set(bar + 20, 15, 1);
    }
    void offer() {
        const uint64_t place = rings + 16ULL * (available_index % 8);
        expect(memory.store({place}, Le64(0x40000)).has_value());
        expect(memory.store({place + 8}, Le32(input.ConsumeIntegral<uint8_t>() + 1U)).has_value());
        expect(memory.store({place + 12}, Le32(2U)).has_value());
        const uint64_t ring = rings + page_bytes;
        expect(
            memory.store({ring + 4 + 2ULL * (available_index % 8)}, Le16(available_index % 8)).has_value());
        expect(memory.store_release({ring + 2}, ++available_index).has_value());
    }
    // Bounded: a device that wakes itself for ever is a bug too.
    void run_io() {
        unsigned steps = 0;
        while (io->poll())
            expect(++steps < 100);
    }

    void step() {
        switch (input.ConsumeIntegral<uint8_t>() % 16) {
        case 0:
            set_config(input.ConsumeIntegralInRange<uint64_t>(0, 0x18fff), pick_value(), pick_width());
            break;
        case 1:
        case 2: // the header and the capabilities
            set_config(pick_slot() + input.ConsumeIntegral<uint8_t>(), pick_value(), pick_width());
            break;
        case 3: {
            std::array<std::byte, 8> data;
            host.read(input.ConsumeIntegralInRange<uint64_t>(0, 0x18fff),
                      std::span(data).first(pick_width()));
            break;
        }
        case 4: {
            std::array<std::byte, 8> data;
            bus.read(pick_bar() + input.ConsumeIntegralInRange<uint64_t>(0, bar_bytes - 1),
                     std::span(data).first(pick_width()));
            break;
        }
        case 5:
            set(pick_bar() + input.ConsumeIntegralInRange<uint64_t>(0, bar_bytes - 1), pick_value(),
                pick_width());
            break;
        case 6:
        case 7: // the common configuration
            set(pick_bar() + 2 * input.ConsumeIntegralInRange<uint64_t>(0, 30), pick_value(), pick_width());
            break;
        case 8:
            set(pick_bar() + doorbell + 4 * input.ConsumeIntegralInRange<uint64_t>(0, 2), 0, pick_width());
            break;
        case 9: // MSI-X
            set(pick_bar() + 0x4000 + 4 * input.ConsumeIntegralInRange<uint64_t>(0, 15), pick_value(), 4);
            break;
        case 10:
            set_config(pick_slot() + 0x10, pick_bar(), 4);
            break;
        case 11:
            start_driver(pick_slot(), pick_bar());
            break;
        case 12:
            expect(memory
                       .store_release({rings + 2 * input.ConsumeIntegralInRange<uint64_t>(0, 6143)},
                                      input.ConsumeIntegral<uint16_t>())
                       .has_value());
            break;
        case 13:
        case 14:
            offer();
            break;
        default:
            run_io();
        }
        check_image();
        for (const auto& [address, event] : doorbells.attached())
            expect(address >= window && address < window + layout::pci_window.bytes);
        expect(doorbells.attached().size() <= 2 && doorbells.unknown_detached() == 0);
    }

    void run() {
        for (auto& transport : transports)
            expect(host.add(*transport).has_value());
        host.show_in(image, [this] {
            expect(image_shown);
            image_shown = false;
        });
        check_image();
        while (input.remaining_bytes() != 0)
            step();
        run_io();
        // A driver can always get its device back.
        start_driver(0x8000, window);
        set_config(0x10000 + 4, 0, 2);
        start_driver(0x8000, window);
        run_io();
        std::array<std::byte, 1> status;
        bus.read(window + 20, status);
        expect(status[0] == std::byte{15});
    }
};

} // namespace
} // namespace casemate::virtio

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size);
extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
    using namespace casemate;
    using namespace casemate::virtio;
    static const GuestMemory memory = GuestMemory::create(ram_bytes).value();
    static ConfigImage image = ConfigImage::create(3).value();
    Run run{.input = FuzzedDataProvider(data, size), .memory = memory, .image = image};
    run.run();
    return 0;
}
