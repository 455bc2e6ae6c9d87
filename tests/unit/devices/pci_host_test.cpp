// SPDX-License-Identifier: Apache-2.0
#include "devices/pci_host.hpp"

#include "memory/layout.hpp"

#include <algorithm>
#include <array>
#include <doctest/doctest.h>
#include <memory>
#include <vector>

namespace casemate {
namespace {

constexpr uint64_t window_start = layout::pci_window.start.value;
constexpr uint64_t window_bytes = layout::pci_window.bytes;

class TestFunction final : public PciFunction, private Device {
public:
    explicit TestFunction(uint32_t bar_bytes = 0x4000)
        : PciFunction({.vendor = 0x1234, .device = 0x5678}) {
        m_config.add_bar(0, bar_bytes);
    }
    std::string_view name() const override { return "test"; }
    Device* bar(unsigned) override { return this; }
    void bar_moved(unsigned, std::optional<GuestPhysical> start) override { place = start; }

    bool config_reads_have_effects() const override { return reads_have_effects; }

    std::optional<GuestPhysical> place;
    int accesses = 0;
    bool reads_have_effects = false;

private:
    void read(uint64_t offset, std::span<std::byte> data) override {
        ++accesses;
        put_value(data, offset);
    }
    void write(uint64_t, std::span<const std::byte>) override { ++accesses; }
};

struct Fixture {
    Bus bus;
    TestFunction first;
    TestFunction second;
    PciHost host{bus, GuestRange::of(layout::pci_window.start, window_bytes)};
    Fixture() {
        REQUIRE(host.add(first) == 1);
        REQUIRE(host.add(second) == 2);
    }
    uint64_t get(uint64_t offset, size_t width = 4) {
        std::vector<std::byte> data(width, std::byte{0xaa});
        host.read(offset, data);
        return value_of(data);
    }
    void put(uint64_t offset, uint64_t value, size_t width = 4) {
        std::vector<std::byte> data(width);
        put_value(data, value);
        host.write(offset, data);
    }
    bool answers(uint64_t address) {
        const uint64_t before = bus.unclaimed();
        std::array<std::byte, 4> data{};
        bus.read(address, data);
        return bus.unclaimed() == before;
    }
};
constexpr uint64_t slot(unsigned number) {
    return number * 0x8000ULL;
}
constexpr uint64_t bar0 = 0x10;
constexpr uint64_t command = 4;

TEST_CASE("the host bridge is at 00:00.0 and absent functions read all-ones") {
    Fixture f;
    CHECK(f.get(8 + 2, 2) == 0x0600);
    CHECK(f.get(slot(1)) == 0x56781234);
    CHECK(f.get(slot(3)) == 0xffffffff);
    CHECK(f.get(slot(1) + 0x1000) == 0xffffffff); // function 1
    CHECK(f.get(slot(32) - 4) == 0xffffffff);
    CHECK(f.get(slot(32)) == 0xffffffff); // past bus 0
    CHECK(f.get(~0ULL, 1) == 0xff);
    f.put(slot(3), 0);
}

TEST_CASE("accesses that cross a dword or a function are split") {
    Fixture f;
    CHECK(f.get(slot(1), 8) == 0x56781234);
    CHECK(f.get(slot(1) + 2, 4) == 0x5678);
    CHECK(f.get(slot(1) - 4, 8) == 0x56781234ffffffff);
    f.put(slot(1) + 2, 0x20000, 4); // the upper half is the command register
    CHECK(f.get(slot(1) + command, 2) == 2);
    CHECK(f.first.place);
}

TEST_CASE("BARs get addresses in the window and decode once memory space is enabled") {
    Fixture f;
    CHECK(f.get(slot(1) + bar0) == window_start);
    CHECK(f.get(slot(2) + bar0) == window_start + 16_KiB);
    CHECK_FALSE(f.answers(window_start));
    f.put(slot(1) + command, 2, 2);
    CHECK(f.answers(window_start));
    CHECK(f.answers(window_start + 16_KiB - 4));
    CHECK_FALSE(f.answers(window_start + 16_KiB - 2));
    CHECK(f.first.place == layout::pci_window.start);
    f.put(slot(1) + command, 0, 2);
    CHECK_FALSE(f.answers(window_start));
    CHECK_FALSE(f.first.place);
}

TEST_CASE("a moved BAR answers at its new place alone") {
    Fixture f;
    f.put(slot(1) + command, 2, 2);
    f.put(slot(1) + bar0, window_start + window_bytes - 16_KiB);
    CHECK_FALSE(f.answers(window_start));
    CHECK(f.answers(window_start + window_bytes - 4));
    CHECK(f.first.place == GuestPhysical{window_start + window_bytes - 16_KiB});
}

TEST_CASE("a BAR outside the window decodes nothing") {
    Fixture f;
    f.put(slot(1) + command, 2, 2);
    for (const uint64_t address :
         {uint64_t{0}, uint64_t{0x100000}, window_start - 16_KiB, window_start + window_bytes,
          layout::ecam.start.value, layout::io_apic.start.value, layout::local_apic.start.value,
          uint64_t{0xffffffff}}) {
        f.put(slot(1) + bar0, address);
        CHECK_FALSE(f.first.place);
        CHECK_FALSE(f.answers(address & ~0xfULL));
        f.put(slot(1) + bar0, window_start);
        CHECK(f.first.place);
    }
}

TEST_CASE("a BAR over another decodes nothing until it is programmed well, and the other is unharmed") {
    Fixture f;
    f.put(slot(1) + command, 2, 2);
    f.put(slot(2) + command, 2, 2);
    f.put(slot(2) + bar0, window_start);
    CHECK_FALSE(f.second.place);
    CHECK(f.answers(window_start));
    CHECK(f.first.accesses == 1);
    CHECK(f.second.accesses == 0);
    CHECK_FALSE(f.answers(window_start + 16_KiB));
    f.put(slot(2) + bar0, window_start + 32_KiB);
    CHECK(f.second.place == GuestPhysical{window_start + 32_KiB});
}

TEST_CASE("sizing with memory space enabled unmaps for the time being") {
    Fixture f;
    f.put(slot(1) + command, 2, 2);
    f.put(slot(1) + bar0, 0xffffffff);
    CHECK(f.get(slot(1) + bar0) == 0xffffc000);
    CHECK_FALSE(f.first.place);
    f.put(slot(1) + bar0, window_start);
    CHECK(f.answers(window_start));
}

TEST_CASE("an image shows what reads give, until reads have effects") {
    Fixture f;
    auto image = ConfigImage::create(f.host.slots_taken());
    REQUIRE(image);
    int retired = 0;
    f.host.show_in(*image, [&] { ++retired; });
    const auto shows = [&] {
        std::vector<std::byte> answers(ConfigImage::size_bytes);
        f.host.read(0, answers);
        return std::ranges::equal(answers, image->bytes());
    };
    CHECK(f.host.slots_taken() == 3);
    CHECK(shows());
    f.put(slot(1) + command, 2, 2);
    CHECK(shows());
    f.put(slot(2) + bar0, 0xffffffff);
    CHECK(shows());
    f.put(slot(2) + bar0 + 3, 0xc1, 1);
    CHECK(shows());
    f.put(slot(1) - 1, ~0ULL, 8); // an absent function and the next one
    CHECK(shows());
    f.put(0x3c, 0x55, 1);
    CHECK(shows());
    f.put(slot(31), 0, 8);
    CHECK(shows());
    CHECK(retired == 0);

    f.second.reads_have_effects = true;
    f.put(slot(1) + 0x3c, 1, 1); // another function's
    CHECK(retired == 0);
    CHECK(shows());
    f.put(slot(2) + 0x3c, 1, 1);
    CHECK(retired == 1);
    f.put(slot(2) + 0x3c, 2, 1);
    f.put(slot(1) + 0x3c, 2, 1);
    CHECK(retired == 1);
    CHECK(f.get(slot(1) + 0x3c, 1) == 2);
    CHECK(image->bytes()[slot(1) + 0x3c] == std::byte{1});
}

TEST_CASE("too many functions and a full window are errors") {
    Bus bus;
    std::vector<std::unique_ptr<TestFunction>> functions;
    PciHost host(bus, GuestRange::of(layout::pci_window.start, window_bytes));
    for (unsigned i = 1; i < PciHost::max_slots; ++i) {
        functions.push_back(std::make_unique<TestFunction>());
        CHECK(host.add(*functions.back()) == i);
    }
    TestFunction more;
    CHECK_FALSE(host.add(more));

    PciHost small(bus, GuestRange::of(layout::pci_window.start, 64_KiB));
    TestFunction fits;
    TestFunction large(0x8000);
    TestFunction too_large(0x10000);
    CHECK(small.add(fits));
    CHECK(small.add(large)); // aligned to its size
    CHECK_FALSE(small.add(too_large));
}

TEST_CASE("a destroyed host leaves nothing on the bus") {
    Bus bus;
    TestFunction function;
    {
        PciHost host(bus, GuestRange::of(layout::pci_window.start, window_bytes));
        REQUIRE(host.add(function));
        host.write(slot(1) + command, std::array{std::byte{2}});
        CHECK(function.place);
    }
    CHECK_FALSE(function.place);
    CHECK_FALSE(bus.remove(window_start));
}

} // namespace
} // namespace casemate
