// SPDX-License-Identifier: Apache-2.0
#include "devices/bus.hpp"

#include <array>
#include <doctest/doctest.h>

namespace casemate {
namespace {

struct RecordingDevice : Device {
    uint64_t last_offset = ~0ULL;
    uint64_t last_value = 0;
    int accesses = 0;
    void read(uint64_t offset, std::span<std::byte> data) override {
        ++accesses;
        last_offset = offset;
        put_value(data, 0x1122334455667788);
    }
    void write(uint64_t offset, std::span<const std::byte> data) override {
        ++accesses;
        last_offset = offset;
        last_value = value_of(data);
    }
};

TEST_CASE("the last byte of a range reaches the device, one past does not") {
    Bus bus;
    RecordingDevice device;
    REQUIRE(bus.add(0x1000, 0x10, device, "device"));
    std::array<std::byte, 1> byte{};
    bus.read(0x100f, byte);
    CHECK(device.last_offset == 0xf);
    CHECK(byte[0] == std::byte{0x88});
    bus.read(0x1010, byte);
    CHECK(device.accesses == 1);
    CHECK(byte[0] == std::byte{0xff});
    CHECK(bus.unclaimed() == 1);
}

TEST_CASE("an access that straddles the end of a range is unclaimed") {
    Bus bus;
    RecordingDevice device;
    REQUIRE(bus.add(0x1000, 0x10, device, "device"));
    std::array<std::byte, 4> bytes{};
    bus.write(0x100d, bytes);
    CHECK(device.accesses == 0);
    bus.write(0x100c, bytes);
    CHECK(device.accesses == 1);
}

TEST_CASE("a range may end at the top of the address space and an access there does not wrap") {
    Bus bus;
    RecordingDevice device;
    REQUIRE(bus.add(~0ULL - 7, 8, device, "top"));
    std::array<std::byte, 8> bytes{};
    bus.read(~0ULL - 7, bytes);
    CHECK(device.accesses == 1);
    bus.read(~0ULL - 3, bytes);
    CHECK(device.accesses == 1);
    CHECK_FALSE(bus.add(~0ULL - 7, 9, device, "wraps"));
}

TEST_CASE("overlapping ranges are refused and the error names both") {
    Bus bus;
    RecordingDevice device;
    REQUIRE(bus.add(0x1000, 0x10, device, "first"));
    const auto second = bus.add(0x100f, 1, device, "second");
    REQUIRE_FALSE(second);
    CHECK(second.error().message().find("first") != std::string::npos);
    CHECK(second.error().message().find("second") != std::string::npos);
    CHECK(bus.add(0x1010, 1, device, "behind"));
    CHECK_FALSE(bus.add(0xff0, 0x100, device, "around"));
    CHECK_FALSE(bus.add(0x2000, 0, device, "empty"));
}

TEST_CASE("a removed range is unclaimed") {
    Bus bus;
    RecordingDevice device;
    REQUIRE(bus.add(0x1000, 0x10, device, "device"));
    CHECK_FALSE(bus.remove(0x1001));
    CHECK(bus.remove(0x1000));
    std::array<std::byte, 1> byte{};
    bus.read(0x1000, byte);
    CHECK(device.accesses == 0);
}

} // namespace
} // namespace casemate
