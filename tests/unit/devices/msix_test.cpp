// SPDX-License-Identifier: Apache-2.0
#include "devices/msix.hpp"

#include "devices/device.hpp"
#include "fakes.hpp"

#include <doctest/doctest.h>

namespace casemate {
namespace {

struct Fixture {
    CountingInterrupts interrupts{3};
    Msix msix{interrupts};

    void put(uint64_t offset, uint64_t value, size_t width = 4) {
        std::vector<std::byte> data(width);
        put_value(data, value);
        msix.write_table(offset, data);
    }
    uint64_t get(uint64_t offset, size_t width = 4) const {
        std::vector<std::byte> data(width, std::byte{0xaa});
        msix.read_table(offset, data);
        return value_of(data);
    }
    uint64_t pending(size_t width = 8) const {
        std::vector<std::byte> data(width, std::byte{0xaa});
        msix.read_pending(0, data);
        return value_of(data);
    }
    // As Linux does: three writes while masked, then unmask.
    void program(uint64_t vector, uint64_t address, uint32_t data) {
        put(16 * vector, address & 0xffffffff);
        put(16 * vector + 4, address >> 32);
        put(16 * vector + 8, data);
        put(16 * vector + 12, 0);
    }
};

TEST_CASE("an enabled, unmasked vector is routed once and delivered each time") {
    Fixture f;
    f.msix.set_control(Msix::control_enable);
    f.program(1, 0xfee00000, 0x4021);
    f.msix.raise(1);
    f.msix.raise(1);
    CHECK(f.interrupts.raised(1) == 2);
    CHECK(f.interrupts.route_of(1) == std::pair(uint64_t{0xfee00000}, uint32_t{0x4021}));
    CHECK(f.interrupts.route_changes() == 1);
    f.put(16 + 12, 1);
    f.put(16 + 8, 0x4022);
    f.put(16 + 12, 0);
    CHECK(f.interrupts.route_of(1).second == 0x4022);
    CHECK(f.interrupts.route_changes() == 2);
}

TEST_CASE("a masked vector is pending until unmasked, then delivered once") {
    Fixture f;
    f.msix.set_control(Msix::control_enable);
    CHECK(f.get(12) == 1); // masked after reset
    f.msix.raise(0);
    f.msix.raise(0);
    CHECK(f.pending() == 1);
    f.program(0, 0xfee00000, 1);
    CHECK(f.interrupts.raised(0) == 1);
    CHECK(f.pending() == 0);
}

TEST_CASE("the function mask holds all vectors back") {
    Fixture f;
    f.program(2, 0xfee00000, 1);
    f.msix.set_control(Msix::control_enable | Msix::control_mask);
    f.msix.raise(2);
    CHECK(f.interrupts.raised(2) == 0);
    CHECK(f.pending(1) == 4);
    f.msix.set_control(Msix::control_enable);
    CHECK(f.interrupts.raised(2) == 1);
}

TEST_CASE("nothing is delivered or kept while MSI-X is off, nor for a vector that is not there") {
    Fixture f;
    f.program(0, 0xfee00000, 1);
    f.msix.raise(0);
    f.msix.set_control(Msix::control_enable);
    f.msix.raise(3);
    f.msix.raise(0xffff);
    CHECK(f.interrupts.raised(0) == 0);
    CHECK(f.pending() == 0);
}

TEST_CASE("odd table accesses change nothing and reads past the end give zero") {
    Fixture f;
    f.put(0, 0x11, 1);
    f.put(2, 0x1111, 2);
    f.put(2, 0x11111111, 4);
    f.put(4, 0x1111111111111111, 8);
    CHECK(f.get(0, 8) == 0);
    f.put(8, 0xfffffffe00000042, 8); // reserved bits of vector control stay zero
    CHECK(f.get(8, 8) == 0x42);
    f.put(48, 1);
    f.put(40, 1, 8);
    CHECK(f.get(40) == 1);
    CHECK(f.get(46, 8) == 0);
    CHECK(f.get(~0ULL - 7, 8) == 0);
}

} // namespace
} // namespace casemate
