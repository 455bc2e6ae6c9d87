// SPDX-License-Identifier: Apache-2.0
#include "devices/virtio/pci_transport.hpp"

#include "../fakes.hpp"
#include "memory/layout.hpp"
#include "pci_driver.hpp"

#include <algorithm>
#include <atomic>
#include <doctest/doctest.h>
#include <random>
#include <sys/eventfd.h>
#include <thread>
#include <utility>
#include <vector>

namespace casemate::virtio {
namespace {

constexpr uint64_t ram_bytes = 1_MiB;
constexpr uint64_t rings = 0x10000;
constexpr uint64_t data = 0x40000;
constexpr uint64_t feature_own = 1ULL << 5;
constexpr uint64_t all_features = feature_version_1 | feature_event_index | feature_indirect | feature_own;

// Gives back every chain unread; two queues, the second of which tests leave out.
class EchoDevice final : public VirtioDevice {
public:
    DeviceType type() const override { return DeviceType::block; }
    std::string_view name() const override { return "echo"; }
    uint64_t features() const override { return feature_own; }
    std::span<const uint16_t> queue_sizes() const override { return m_sizes; }
    void read_config(uint64_t offset, std::span<std::byte> bytes) const override {
        put_value(bytes, offset < 8 ? 0x1122334455667788ULL >> (8 * offset) : 0);
    }
    void write_config(uint64_t, std::span<const std::byte>) override {}
    void activate(uint64_t features, std::span<Queue* const> queues, Host& host) override {
        ++activations;
        driver_features = features;
        m_queues.assign(queues.begin(), queues.end());
        m_host = &host;
    }
    void process_queue(uint16_t index) override {
        ++processed;
        CHECK(m_host != nullptr);
        if (hold)
            return;
        Queue& queue = *m_queues[index];
        for (unsigned i = 0; i < 64; ++i) {
            const auto popped = queue.pop();
            if (!popped)
                return m_host->break_device("bad chain");
            const std::optional<Chain>& chain = *popped;
            if (!chain) {
                if (queue.set_doorbell_wanted(true))
                    m_host->notify_queue(index);
                const auto missed = queue.pop();
                if (!missed || *missed) {
                    if (missed)
                        queue.undo_pop();
                    m_host->process_again(index);
                }
                return;
            }
            if (!queue.push_used(chain->head, 0))
                return m_host->break_device("bad used ring");
        }
        m_host->notify_queue(index);
        m_host->process_again(index);
    }
    void reset(std::function<void()> done) override {
        m_queues.clear();
        m_host = nullptr;
        if (hold)
            held_done = std::move(done);
        else
            done();
    }

    int activations = 0;
    int processed = 0;
    uint64_t driver_features = 0;
    bool hold = false;
    std::function<void()> held_done;
    Host& host() { return *m_host; }

private:
    std::array<uint16_t, 2> m_sizes{16, 8};
    std::vector<Queue*> m_queues;
    Host* m_host = nullptr;
};

struct Fixture {
    GuestMemory memory = GuestMemory::create(ram_bytes).value();
    Log log{-1};
    std::unique_ptr<EventLoop> io = EventLoop::create().value();
    CountingInterrupts interrupts{3};
    RecordingDoorbells doorbells;
    EchoDevice device;
    std::unique_ptr<PciTransport> transport =
        PciTransport::create(device, memory, *io, interrupts, doorbells, log).value();
    Bus bus;
    PciHost host{bus, GuestRange::of(layout::pci_window.start, layout::pci_window.bytes)};
    uint8_t slot = host.add(*transport).value();
    PciDriver driver{host, bus, slot};
    DriverQueue queue{memory, rings, 16};

    void run_io() {
        while (io->poll()) {
        }
    }
    // Ready for requests, config changes on vector 0, queue 0 on vector 1.
    void start(uint64_t features = all_features) {
        queue.restart();
        driver.enable_interrupts(3);
        REQUIRE(driver.negotiate(features));
        driver.set_common(common::config_msix_vector, 0, 2);
        REQUIRE(driver.enable(0, queue, 1));
        driver.driver_ok();
        run_io();
        REQUIRE(driver.status() == 0xf);
    }
    // What KVM does for a store to an attached doorbell.
    bool ring_attached(uint64_t address) {
        for (const auto& [place, event] : doorbells.attached())
            if (place == address)
                return eventfd_write(event, 1) == 0;
        return false;
    }
};

TEST_CASE("the function says that it is a modern virtio device") {
    Fixture f;
    CHECK(f.driver.get_config(0) == 0x10421af4);
    CHECK(f.driver.get_config(8, 1) == 1);
    CHECK(f.driver.get_config(f.driver.msix() + 2, 2) == 2); // three vectors
    CHECK(f.driver.get_common(common::num_queues, 2) == 2);
    CHECK(f.driver.offered_features() == all_features);
    CHECK(f.driver.get_device(0, 8) == 0x1122334455667788);
    CHECK(f.driver.get_device(4, 2) == 0x3344);
}

TEST_CASE("a request goes in by the doorbell and comes out with its interrupt") {
    Fixture f;
    f.start();
    CHECK(f.device.activations == 1);
    CHECK(f.device.driver_features == all_features);
    CHECK(f.device.processed == 1); // a kick may have preceded
    const uint16_t head = f.queue.add({{data, 16}});
    CHECK(f.ring_attached(f.driver.bar() + f.driver.doorbell(0)));
    f.run_io();
    CHECK(f.queue.take_used() == Used{head, 0});
    CHECK(f.interrupts.raised(1) == 1);
    CHECK(f.driver.take_interrupt_status() == 1);
    CHECK(f.driver.take_interrupt_status() == 0);
}

TEST_CASE("a doorbell write that arrives as an exit works in every width") {
    Fixture f;
    f.start();
    for (const size_t width : {1U, 2U, 4U, 8U}) {
        f.queue.add({{data, 16}});
        f.driver.kick(0, width);
        f.run_io();
        CHECK(f.queue.take_used());
    }
    const int before = f.device.processed;
    f.driver.kick(1); // not enabled
    f.driver.kick(2); // not there
    f.driver.kick(1023);
    f.run_io();
    CHECK(f.device.processed == before);
}

TEST_CASE("chains offered before DRIVER_OK are served") {
    Fixture f;
    REQUIRE(f.driver.negotiate(all_features));
    REQUIRE(f.driver.enable(0, f.queue, 1));
    f.queue.add({{data, 16}});
    f.driver.kick(0);
    f.run_io();
    CHECK_FALSE(f.queue.take_used());
    f.driver.driver_ok();
    f.run_io();
    CHECK(f.queue.take_used());
}

TEST_CASE("FEATURES_OK wants VERSION_1, no more than was offered, and the steps before it") {
    Fixture f;
    SUBCASE("no VERSION_1") {
        CHECK_FALSE(f.driver.negotiate(feature_own));
    }
    SUBCASE("not offered") {
        CHECK_FALSE(f.driver.negotiate(all_features | 1));
    }
    SUBCASE("not offered, upper half") {
        CHECK_FALSE(f.driver.negotiate(all_features | 1ULL << 63));
    }
    SUBCASE("without DRIVER") {
        f.driver.set_common(common::driver_feature_select, 1, 4);
        f.driver.set_common(common::driver_feature, 1, 4);
        f.driver.set_status(8);
        CHECK(f.driver.status() == 0);
    }
    SUBCASE("subset") {
        CHECK(f.driver.negotiate(feature_version_1));
        f.driver.set_common(common::driver_feature_select, 0, 4);
        f.driver.set_common(common::driver_feature, feature_own, 4); // too late
        f.driver.driver_ok();
        f.run_io();
        CHECK(f.device.driver_features == feature_version_1);
        return;
    }
    f.driver.driver_ok();
    f.run_io();
    CHECK((f.driver.status() & 4) == 0);
    CHECK(f.device.activations == 0);
}

TEST_CASE("feature words past the second read zero and ignore writes") {
    Fixture f;
    f.driver.set_common(common::device_feature_select, 2, 4);
    CHECK(f.driver.get_common(common::device_feature, 4) == 0);
    f.driver.set_common(common::driver_feature_select, 0xffffffff, 4);
    f.driver.set_common(common::driver_feature, 0xffffffff, 4);
    CHECK(f.driver.get_common(common::driver_feature, 4) == 0);
    CHECK(f.driver.negotiate(feature_version_1));
}

TEST_CASE("queue sizes are powers of two up to the device's") {
    Fixture f;
    REQUIRE(f.driver.negotiate(all_features));
    CHECK(f.driver.get_common(common::queue_size, 2) == 16);
    for (const unsigned size : {0U, 3U, 32U, 0x8000U}) {
        f.driver.set_common(common::queue_size, size, 2);
        CHECK(f.driver.get_common(common::queue_size, 2) == 16);
    }
    f.driver.set_common(common::queue_size, 4, 2);
    CHECK(f.driver.get_common(common::queue_size, 2) == 4);
    f.driver.set_common(common::queue_select, 2, 2); // not there
    CHECK(f.driver.get_common(common::queue_size, 2) == 0);
    f.driver.set_common(common::queue_size, 4, 2);
    f.driver.set_common(common::queue_enable, 1, 2);
    CHECK(f.driver.get_common(common::queue_enable, 2) == 0);
}

TEST_CASE("vectors that do not exist read back as none") {
    Fixture f;
    f.driver.set_common(common::config_msix_vector, 2, 2);
    CHECK(f.driver.get_common(common::config_msix_vector, 2) == 2);
    f.driver.set_common(common::config_msix_vector, 3, 2);
    CHECK(f.driver.get_common(common::config_msix_vector, 2) == 0xffff);
    f.driver.set_common(common::queue_msix_vector, 0xfffe, 2);
    CHECK(f.driver.get_common(common::queue_msix_vector, 2) == 0xffff);
}

TEST_CASE("a queue is enabled only between FEATURES_OK and DRIVER_OK and with rings in RAM") {
    Fixture f;
    CHECK_FALSE(f.driver.enable(0, f.queue, 1));
    REQUIRE(f.driver.negotiate(all_features));
    f.driver.set_common(common::queue_select, 0, 2);
    f.driver.set_common(common::queue_device, ram_bytes - 4, 8);
    f.driver.set_common(common::queue_enable, 1, 2);
    CHECK(f.driver.get_common(common::queue_enable, 2) == 0);
    CHECK(f.driver.enable(0, f.queue, 1));
    // Fixed from now on.
    f.driver.set_common(common::queue_size, 8, 2);
    f.driver.set_common(common::queue_desc, 0, 8);
    f.driver.set_common(common::queue_enable, 0, 2);
    CHECK(f.driver.get_common(common::queue_size, 2) == 16);
    CHECK(f.driver.get_common(common::queue_desc, 8) == rings);
    CHECK(f.driver.get_common(common::queue_enable, 2) == 1);
    f.driver.driver_ok();
    const DriverQueue second(f.memory, 0x20000, 8);
    CHECK_FALSE(f.driver.enable(1, second, 2));
    f.run_io();
}

TEST_CASE("accesses of odd width or place read what is there and change nothing") {
    Fixture f;
    const uint64_t region = f.driver.region(1);
    f.driver.set_common(common::queue_select, 0x0001, 4); // wider than the field
    f.driver.set_common(common::queue_size, 1, 1);
    f.driver.set_common(common::queue_desc + 2, ~0ULL, 4);
    f.driver.set_common(common::queue_desc + 4, ~0ULL, 8);
    f.driver.set_common(common::device_status, 0x0f, 2);
    CHECK(f.driver.get_common(common::queue_select, 2) == 0);
    CHECK(f.driver.get_common(common::queue_size, 2) == 16);
    CHECK(f.driver.get_common(common::queue_desc, 8) == 0);
    CHECK(f.driver.status() == 0);
    CHECK(f.driver.get(region + common::num_queues + 1, 2) == 0); // upper half, then status
    CHECK(f.driver.get(region + 58, 8) == 0);
    CHECK(f.driver.get(region + 0xffc, 8) == 0); // crosses into the next region
    f.driver.set(region + 0xffc, ~0ULL, 8);
    CHECK(f.driver.get(0x7ff8, 8) == 0);
    f.driver.set(0x7ff8, ~0ULL, 8);
}

TEST_CASE("an image shows config space after any writes, until one to the window's capability") {
    Fixture f;
    auto image = ConfigImage::create(f.host.slots_taken());
    REQUIRE(image);
    int retired = 0;
    f.host.show_in(*image, [&] { ++retired; });
    const uint64_t window_start = f.driver.window();
    const uint64_t window_end = window_start + 20;
    const auto shows = [&] {
        std::vector<std::byte> answers(ConfigImage::size_bytes);
        f.host.read(0, answers);
        return std::ranges::equal(answers, image->bytes());
    };
    f.start();
    CHECK(shows());
    std::minstd_rand random(1);
    for (int i = 0; i < 3000; ++i) {
        const uint64_t offset = random() % 4 != 0 ? random() % 256 : random() % 4096;
        const uint64_t width = 1U << random() % 4;
        // A byte before it, and the first behind it.
        if (offset < window_end && offset + width > window_start)
            continue;
        f.driver.set_config(offset, random() % 4 == 0 ? ~0ULL : random() * uint64_t{random()}, width);
        f.driver.get_config(window_start + 16);
        if (random() % 16 == 0) { // registers and interrupts leave config space alone
            f.driver.set_config(4, 6, 2);
            f.driver.set_config(0x10, layout::pci_window.start.value);
            f.start();
            f.device.host().notify_config();
        }
        REQUIRE(shows());
    }
    CHECK(retired == 0);
    SUBCASE("its first byte") {
        f.driver.set_config(window_start, 0, 1);
    }
    SUBCASE("its last byte") {
        f.driver.set_config(window_end - 1, 0, 1);
    }
    SUBCASE("its last byte and what is behind") {
        f.driver.set_config(window_end - 1, 0, 8);
    }
    SUBCASE("all of it") {
        for (uint64_t offset = window_start; offset < window_end; offset += 4)
            f.driver.set_config(offset, 1);
    }
    CHECK(retired == 1);
}

TEST_CASE("config space has a window to the BAR") {
    Fixture f;
    auto aim = [&](uint64_t bar, uint64_t offset, uint64_t bytes) {
        f.driver.set_config(f.driver.window() + 4, bar, 1);
        f.driver.set_config(f.driver.window() + 8, offset);
        f.driver.set_config(f.driver.window() + 12, bytes);
    };
    const uint64_t place = f.driver.window() + 16;
    aim(0, common::num_queues, 2);
    CHECK(f.driver.get_config(place, 2) == 2);
    aim(0, common::device_status, 1);
    f.driver.set_config(place, 1, 1);
    CHECK(f.driver.status() == 1);
    f.driver.set_config(4, 0, 2); // works while the BAR decodes nothing
    f.driver.set_config(place, 3, 1);
    CHECK(f.driver.get_config(place, 1) == 3);
    f.driver.set_config(4, 2, 2);
    CHECK(f.driver.status() == 3);
    // Misuse does nothing.
    for (const auto& [bar, offset, bytes] : {std::array<uint64_t, 3>{1, common::device_status, 1},
                                             {0, common::device_status, 0},
                                             {0, common::device_status, 3},
                                             {0, common::device_status, 8},
                                             {0, 22 - 1, 2},
                                             {0, 0x8000, 4},
                                             {0, 0xfffffffc, 4},
                                             {0, common::device_status, 0xffffffff}}) {
        aim(bar, offset, bytes);
        f.driver.set_config(place, 0, 4);
        f.driver.get_config(place);
        CHECK(f.driver.status() == 3);
    }
}

TEST_CASE("doorbells follow the BAR and are attached only while it decodes and the driver is ready") {
    Fixture f;
    const uint64_t bar = f.driver.bar();
    CHECK(f.doorbells.attached().empty());
    f.start();
    REQUIRE(f.doorbells.attached().size() == 1);
    CHECK(f.doorbells.attached().begin()->first == bar + f.driver.doorbell(0));
    f.driver.set_bar(bar + 0x100000);
    REQUIRE(f.doorbells.attached().size() == 1);
    CHECK(f.doorbells.attached().begin()->first == bar + 0x100000 + f.driver.doorbell(0));
    f.driver.set_bar(0x1000); // RAM
    CHECK(f.doorbells.attached().empty());
    f.driver.set_bar(bar);
    CHECK(f.doorbells.attached().size() == 1);
    f.driver.set_config(4, 0, 2);
    CHECK(f.doorbells.attached().empty());
    f.driver.set_config(4, 2, 2);
    CHECK(f.doorbells.attached().size() == 1);
    f.driver.set_status(0);
    CHECK(f.doorbells.attached().empty());
    f.run_io();
    f.driver.set_bar(bar + 0x100000);
    CHECK(f.doorbells.attached().empty());
    CHECK(f.doorbells.unknown_detached() == 0);
}

TEST_CASE("a device whose doorbell cannot be attached works by exits") {
    Fixture f;
    f.doorbells.refuse(true);
    f.start();
    f.queue.add({{data, 1}});
    f.driver.kick(0);
    f.run_io();
    CHECK(f.queue.take_used());
    f.driver.set_status(0);
    CHECK(f.doorbells.unknown_detached() == 0);
}

TEST_CASE("status reads zero only when the device has let go of its transfers") {
    Fixture f;
    f.start();
    f.device.hold = true;
    f.driver.set_status(0);
    CHECK(f.driver.status() == 0xf);
    f.run_io();
    CHECK(f.driver.status() == 0xf);
    f.driver.set_status(0); // impatient driver
    f.driver.set_status(1);
    f.driver.set_common(common::queue_select, 1, 2);
    f.driver.kick(0);
    f.run_io();
    CHECK(f.driver.status() == 0xf);
    REQUIRE(f.device.held_done);
    std::exchange(f.device.held_done, nullptr)();
    CHECK(f.driver.status() == 0);
    CHECK(f.driver.get_common(common::queue_enable, 2) == 0);
    CHECK(f.driver.get_common(common::queue_desc, 8) == 0);
    CHECK(f.driver.get_common(common::queue_msix_vector, 2) == 0xffff);
    f.device.hold = false;
    f.start();
    CHECK(f.device.activations == 2);
    f.queue.add({{data, 1}});
    f.driver.kick(0);
    f.run_io();
    CHECK(f.queue.take_used());
}

TEST_CASE("a driver that resets at once never reaches the device") {
    Fixture f;
    for (int i = 0; i < 100; ++i) {
        REQUIRE(f.driver.negotiate(all_features));
        REQUIRE(f.driver.enable(0, f.queue, 1));
        f.driver.driver_ok();
        f.driver.set_status(0);
        CHECK(f.driver.status() == 0);
    }
    f.run_io();
    CHECK(f.device.activations == 0);
    CHECK(f.doorbells.attached().empty());
}

TEST_CASE("a broken device asks for a reset, tells the driver and rests until then") {
    Fixture f;
    f.start();
    f.queue.set_available_index(17);
    f.driver.kick(0);
    f.run_io();
    CHECK(f.driver.status() == (0xf | 0x40));
    CHECK(f.interrupts.raised(0) == 1);
    CHECK((f.driver.take_interrupt_status() & 2) == 2);
    CHECK(f.doorbells.attached().empty());
    const int before = f.device.processed;
    f.driver.kick(0);
    f.driver.set_bar(f.driver.bar() + 0x100000);
    f.driver.driver_ok();
    f.run_io();
    CHECK(f.doorbells.attached().empty());
    CHECK(f.device.processed == before);
    f.driver.set_status(0);
    f.run_io();
    CHECK(f.driver.status() == 0);
    f.start();
    f.queue.add({{data, 1}});
    f.driver.kick(0);
    f.run_io();
    CHECK(f.queue.take_used());
}

TEST_CASE("a configuration change counts up and interrupts") {
    Fixture f;
    f.start();
    const uint64_t generation = f.driver.get_common(common::config_generation, 1);
    f.device.host().notify_config();
    CHECK(f.driver.get_common(common::config_generation, 1) == generation + 1);
    CHECK(f.interrupts.raised(0) == 1);
}

TEST_CASE("a destroyed host and transport leave no doorbell and no work behind") {
    Fixture f;
    EchoDevice device;
    auto transport = PciTransport::create(device, f.memory, *f.io, f.interrupts, f.doorbells, f.log).value();
    {
        PciHost host(f.bus, GuestRange::of(GuestPhysical{layout::pci_window.start.value + 16_MiB}, 1_MiB));
        PciDriver driver(host, f.bus, host.add(*transport).value());
        REQUIRE(driver.negotiate(all_features));
        REQUIRE(driver.enable(0, f.queue, 1));
        driver.driver_ok();
        CHECK(f.doorbells.attached().size() == 1);
    }
    CHECK(f.doorbells.attached().empty());
    transport.reset();
    f.run_io();
    CHECK(device.activations == 0);
}

TEST_CASE("vCPU threads may hammer registers, reset and move the BAR while the I/O thread works") {
    Fixture f;
    std::thread io([&] { f.io->run(); });
    std::atomic<bool> stop = false;
    std::thread other([&] {
        PciDriver driver(f.host, f.bus, f.slot);
        for (unsigned i = 0; !stop; ++i) {
            driver.get_common(common::device_status, 1);
            driver.get(driver.region(1) + i % 64, 8);
            driver.set(0x4000 + 4 * (i % 12), i, 4);
            driver.set_config(driver.msix() + 2, i << 14, 2);
            driver.kick(static_cast<uint16_t>(i % 3));
            if (i % 64 == 0)
                driver.set_config(0x10, layout::pci_window.start.value + (i / 64 % 2) * 0x10000ULL);
        }
    });
    unsigned served = 0;
    for (unsigned round = 0; round < 30; ++round) {
        f.queue.restart();
        // By the window in config space: the other thread moves the BAR.
        const auto set = [&](uint64_t field, uint64_t value, uint64_t width) {
            f.driver.set_config(f.driver.window() + 8, field);
            f.driver.set_config(f.driver.window() + 12, width);
            f.driver.set_config(f.driver.window() + 16, value);
        };
        const auto status = [&] {
            f.driver.set_config(f.driver.window() + 8, common::device_status);
            f.driver.set_config(f.driver.window() + 12, 1);
            return f.driver.get_config(f.driver.window() + 16, 1);
        };
        set(common::device_status, 3, 1);
        set(common::driver_feature_select, 1, 4);
        set(common::driver_feature, 1, 4);
        set(common::device_status, 11, 1);
        set(common::queue_select, 0, 2);
        set(common::queue_desc, f.queue.descriptors(), 4);
        set(common::queue_driver, f.queue.driver_area(), 4);
        set(common::queue_device, f.queue.device_area(), 4);
        set(common::queue_enable, 1, 2);
        set(common::device_status, 15, 1);
        REQUIRE(status() == 15);
        for (unsigned i = 0; i < 50; ++i) {
            f.queue.add({{data, 1}});
            set(f.driver.doorbell(0), 0, 2);
            while (!f.queue.take_used())
                std::this_thread::yield();
            ++served;
        }
        set(common::device_status, 0, 1);
        while (status() != 0)
            std::this_thread::yield();
    }
    stop = true;
    other.join();
    f.io->stop();
    io.join();
    CHECK(served == 1500);
    CHECK(f.doorbells.unknown_detached() == 0);
}

} // namespace
} // namespace casemate::virtio
