// SPDX-License-Identifier: Apache-2.0
#include "machine/interrupts.hpp"

#include <doctest/doctest.h>

using namespace casemate;

TEST_CASE("a device's message may interrupt, and nothing else") {
    constexpr uint64_t window = 0xfee00000;
    for (const uint64_t address : {window, window | 0xff000, window | 0xc, window | 0xfffff}) {
        for (const uint32_t vector : {0x10U, 0xffU, 0x4021U, 0xc031U}) {
            CHECK(is_interrupt_message(address, vector));           // fixed
            CHECK(is_interrupt_message(address, vector | 0x100U));  // lowest priority
            CHECK(is_interrupt_message(address, vector | 0x400U));  // NMI
            CHECK(!is_interrupt_message(address, vector | 0x200U)); // SMI
            CHECK(!is_interrupt_message(address, vector | 0x300U)); // reserved; KVM's remote read
            CHECK(!is_interrupt_message(address, vector | 0x500U)); // INIT
            CHECK(!is_interrupt_message(address, vector | 0x600U)); // reserved; start-up in KVM
            CHECK(!is_interrupt_message(address, vector | 0x700U)); // ExtINT
        }
    }
    for (const uint64_t address : {uint64_t{0}, window - 1, window + 0x100000, window | uint64_t{1} << 32U,
                                   window | uint64_t{1} << 63U, ~uint64_t{0}})
        CHECK(!is_interrupt_message(address, 0x4021));
}
