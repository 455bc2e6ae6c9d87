// SPDX-License-Identifier: Apache-2.0
#include "machine/interrupts.hpp"

#include "memory/layout.hpp"
#include "vm_here.hpp"

#include <doctest/doctest.h>
#include <unistd.h>

using namespace casemate;

TEST_CASE("pins of the I/O APIC are masked, and without a device for SMIs") {
    const auto vm = vm_here();
    if (!vm)
        return;
    REQUIRE(vm->create_interrupt_controllers());
    const Log log(STDERR_FILENO);
    REQUIRE(Interrupts::create(*vm, log));
    const auto state = vm->io_apic();
    REQUIRE(state);
    for (uint32_t pin = 0; pin < layout::io_apic_pins; ++pin) {
        const auto& entry = state->redirtbl[pin].fields;
        const bool device = pin == layout::com1_gsi || pin == layout::power_button_gsi;
        CHECK(entry.delivery_mode == (device ? 0 : 2));
        CHECK(entry.mask == 1);
        CHECK(entry.vector == 0);
    }
}

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
