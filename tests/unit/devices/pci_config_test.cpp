// SPDX-License-Identifier: Apache-2.0
#include "devices/pci_config.hpp"

#include "base/units.hpp"
#include "devices/device.hpp"

#include <doctest/doctest.h>
#include <vector>

namespace casemate {
namespace {

struct Fixture {
    PciConfig config{{.vendor = 0x1af4,
                      .device = 0x1042,
                      .revision = 1,
                      .class_code = 0x018000,
                      .subsystem_vendor = 0x1af4,
                      .subsystem = 0x1042}};
    uint64_t get(uint32_t offset, size_t width = 4) const {
        std::vector<std::byte> data(width, std::byte{0xaa});
        config.read(offset, data);
        return value_of(data);
    }
    void put(uint32_t offset, uint64_t value, size_t width = 4) {
        std::vector<std::byte> data(width);
        put_value(data, value);
        config.write(offset, data);
    }
};

TEST_CASE("the identity is where PCI puts it and does not change") {
    Fixture f;
    f.put(0, 0xffffffff);
    f.put(8, 0xffffffff);
    f.put(0x2c, 0xffffffff);
    CHECK(f.get(0) == 0x10421af4);
    CHECK(f.get(8) == 0x01800001);
    CHECK(f.get(0x2c) == 0x10421af4);
    CHECK(f.get(0xe, 1) == 0);
}

TEST_CASE("the command register keeps only the bits a memory-only function has") {
    Fixture f;
    f.put(4, 0xffffffff);
    CHECK(f.get(4, 2) == 0x406);
    CHECK(f.config.memory_enabled());
    f.put(4, 0x0, 1);
    CHECK(f.get(4, 2) == 0x400);
    CHECK_FALSE(f.config.memory_enabled());
}

TEST_CASE("sizing a BAR by all-ones gives its size, other BARs give zero") {
    Fixture f;
    f.config.add_bar(1, 16_KiB);
    f.config.set_bar_address(1, 0xc0004000);
    CHECK(f.config.bar_address(1) == 0xc0004000);
    f.put(0x14, 0xffffffff);
    CHECK(f.get(0x14) == 0xffffc000);
    f.put(0x10, 0xffffffff);
    CHECK(f.get(0x10) == 0);
    f.put(0x30, 0xffffffff); // expansion ROM
    CHECK(f.get(0x30) == 0);
    f.put(0x16, 0xc1, 1); // one byte of four
    CHECK(f.config.bar_address(1) == 0xffc1c000);
}

TEST_CASE("capabilities form a list whose writable bits alone change") {
    Fixture f;
    CHECK(f.get(6, 2) == 0);
    const std::vector<std::byte> body(3, std::byte{0x11});
    const std::vector<std::byte> writable{std::byte{0}, std::byte{0xf0}};
    const uint8_t first = f.config.add_capability(9, body, writable);
    const uint8_t second = f.config.add_capability(0x11, body);
    CHECK(f.get(6, 2) == 0x10);
    CHECK(f.get(0x34, 1) == first);
    CHECK(f.get(first + 1U, 1) == second);
    CHECK(f.get(second + 1U, 1) == 0);
    CHECK(second % 4 == 0);
    f.put(first, 0xffffffff);
    CHECK(f.get(first) == 0xf1110009 + (uint64_t{second} << 8));
}

TEST_CASE("odd widths and places past the end are harmless") {
    Fixture f;
    CHECK(f.get(1, 2) == 0x421a);
    CHECK(f.get(0xff, 8) == 0);
    CHECK(f.get(0x100) == 0); // no extended capabilities
    CHECK(f.get(0xffc) == 0);
    f.put(0xfe, ~0ULL, 8);
    f.put(0xffc, ~0ULL, 8);
    CHECK(f.get(0xfc) == 0);
}

} // namespace
} // namespace casemate
