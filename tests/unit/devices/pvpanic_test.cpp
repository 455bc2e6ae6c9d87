// SPDX-License-Identifier: Apache-2.0
#include "devices/pvpanic.hpp"

#include "serial_fakes.hpp"

#include <doctest/doctest.h>

namespace casemate {
namespace {

TEST_CASE("pvpanic tells its events and reports a panic once") {
    int panics = 0;
    Pvpanic pvpanic([&] { ++panics; });
    CHECK(in(pvpanic, 0) == 0x03);
    out(pvpanic, 0, 0x02);
    CHECK(panics == 0);
    out(pvpanic, 0, 0x01);
    out(pvpanic, 0, 0x03);
    CHECK(panics == 1);
}

TEST_CASE("pvpanic without a callback survives a panic") {
    Pvpanic pvpanic(nullptr);
    out(pvpanic, 0, 0x01);
}

} // namespace
} // namespace casemate
