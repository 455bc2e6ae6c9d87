// SPDX-License-Identifier: Apache-2.0
#include "boot/dsdt.hpp"

#include "memory/layout.hpp"

namespace casemate {

namespace {

using namespace aml;

constexpr uint32_t low(GuestPhysical address) {
    return static_cast<uint32_t>(address.value);
}
constexpr uint32_t low(uint64_t bytes) {
    return static_cast<uint32_t>(bytes);
}
Resource ports_of(const layout::Ports& range) {
    return ports(range.start, static_cast<uint8_t>(range.count));
}

// Without _OSC Linux takes ASPM and the other PCIe features for the firmware's and says so (linux v6.12
// drivers/acpi/pci_root.c: negotiate_os_control). We have none of our own to keep: grant all that is asked.
// PCI Firmware 3.2, 4.5.1 "_OSC Interface for PCI Host Bridge Devices".
Term grant_pcie_features() {
    constexpr uint64_t unrecognized_uuid = 1 << 2;
    return method(
        "_OSC", 4, Concurrency::serialized,
        {create_dword_field(argument(3), 0, "CDW1"),
         when(equal(argument(0), uuid("33db4d5b-1ff7-401c-9657-7441c03dd766")), {return_value(argument(3))}),
         or_into("CDW1", object("CDW1"), integer(unrecognized_uuid)), return_value(argument(3))});
}

Term pci_host() {
    return device(
        "PCI0",
        {
            name("_HID", eisa_id("PNP0A08")), // PCI Express
            name("_CID", eisa_id("PNP0A03")),
            name("_SEG", integer(0)),
            name("_BBN", integer(0)),
            name("_UID", integer(0)),
            name("_CRS", resource_template({
                             bus_numbers(0, 1),
                             memory_window(low(layout::pci_window.start), low(layout::pci_window.bytes)),
                         })),
            grant_pcie_features(),
        });
}

// Linux does not use ECAM that no motherboard resource reserves (linux v6.12 arch/x86/pci/mmconfig-shared.c:
// pci_mmcfg_reserved; PCI Firmware 3.2, 4.1.2).
Term motherboard() {
    return device("MBRD", {
                              name("_HID", eisa_id("PNP0C02")),
                              name("_UID", integer(0)),
                              name("_CRS", resource_template({
                                               fixed_memory(low(layout::ecam.start), low(layout::ecam.bytes)),
                                               ports_of(layout::sleep_ports),
                                               ports_of(layout::reset_ports),
                                           })),
                          });
}

Term serial_port() {
    // An extended interrupt descriptor: for the short one Linux would look for an override of the ISA IRQ
    // (linux v6.12 drivers/acpi/resource.c: acpi_dev_get_irqresource).
    return device("COM1",
                  {
                      name("_HID", eisa_id("PNP0501")),
                      name("_UID", integer(1)),
                      name("_CRS", resource_template({
                                       ports_of(layout::com1_ports),
                                       interrupt(layout::com1_gsi, Trigger::edge, Polarity::active_high),
                                   })),
                  });
}

Term real_time_clock() {
    return device("RTC", {
                             name("_HID", eisa_id("PNP0B00")),
                             name("_CRS", resource_template({ports_of(layout::rtc_ports)})),
                         });
}

// QEMU's device, by the identity that Linux binds to (linux v6.12 drivers/misc/pvpanic/pvpanic-mmio.c).
Term panic_notifier() {
    constexpr uint64_t present_enabled_shown_working = 0xf;
    return device("PEVT", {
                              name("_HID", string("QEMU0001")),
                              name("_STA", integer(present_enabled_shown_working)),
                              name("_CRS", resource_template({ports_of(layout::pvpanic_ports)})),
                          });
}

Term power_button() {
    return device("PWRB", {name("_HID", eisa_id("PNP0C0C"))});
}

// ACPI 6.4, 5.6.9 "Interrupt-signaled ACPI events": hardware-reduced machines have no other way to notify.
Term generic_event_device() {
    constexpr uint64_t button_pressed = 0x80;
    return device("GED",
                  {
                      name("_HID", string("ACPI0013")),
                      name("_UID", integer(0)),
                      name("_CRS", resource_template({interrupt(layout::power_button_gsi, Trigger::edge,
                                                                Polarity::active_high)})),
                      method("_EVT", 1, Concurrency::serialized, {notify("\\_SB.PWRB", button_pressed)}),
                  });
}

} // namespace

// There are no processor devices: Linux starts every processor that the MADT lists and would only look for
// C- and P-states here (linux v6.12 arch/x86/kernel/acpi/boot.c: acpi_parse_lapic).
Bytes dsdt_code() {
    Bytes code = scope("\\_SB", {pci_host(), motherboard(), serial_port(), real_time_clock(),
                                 panic_notifier(), power_button(), generic_event_device()})
                     .bytes;
    const Bytes s5 =
        name("\\_S5", package({integer(layout::soft_off_sleep_type), integer(0), integer(0), integer(0)}))
            .bytes;
    code.insert(code.end(), s5.begin(), s5.end());
    return code;
}

} // namespace casemate
