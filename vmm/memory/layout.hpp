// SPDX-License-Identifier: Apache-2.0
// Layout: every guest-physical address, port and interrupt number of the machine, each with its reason.
#pragma once

#include "base/units.hpp"

#include <array>
#include <cstdint>

namespace casemate::layout {

struct Area {
    const char* name;
    GuestPhysical start;
    uint64_t bytes;
    const char* reason;
    constexpr uint64_t end() const { return start.value + bytes; }
};

// Below 4 GiB, in ascending order. RAM lies under the first MiB's areas and up to `hole`; the rest of the
// hole is never RAM.
constexpr Area boot_gdt{"boot GDT", {0x500}, 0x100, "first bytes past the BIOS data area"};
constexpr Area zero_page{"zero page", {0x7000}, 4_KiB, "boot_params; any page below 640 KiB will do"};
constexpr Area boot_tables{
    "boot page tables", {0x9000}, 6 * 4_KiB, "PML4, PDPT, 4 PDs: identity map of 4 GiB"};
constexpr Area command_line{"command line", {0x20000}, 64_KiB, "room for any kernel's cmdline_size"};
constexpr Area ebda{"EBDA", {0x9fc00}, 1_KiB, "where x86 kernels expect low memory to end"};
constexpr Area acpi{"ACPI tables", {0xe0000}, 128_KiB, "RSDP search area, ACPI 6.4, 5.2.5.1"};
constexpr Area kernel{"kernel", {0x100000}, 3_GiB - 1_MiB, "where kernels may be loaded; initrd at its end"};
constexpr Area pci_window{
    "PCI memory window", {0xc0000000}, 512_MiB, "every BAR; 32-bit, so all drivers can"};
constexpr Area ecam{"PCI configuration", {0xe0000000}, 1_MiB, "ECAM of bus 0; MCFG points here"};
constexpr Area io_apic{"I/O APIC", {0xfec00000}, 4_KiB, "fixed by KVM and PC convention"};
constexpr Area local_apic{"local APIC", {0xfee00000}, 4_KiB, "fixed by KVM and the reset value of APIC_BASE"};
constexpr Area management_memory{
    "management mode", {0xfffa8000}, 32_KiB, "SMBASE is 32 KiB before it; no part of the guest's memory"};
constexpr Area shadow_drop_page{
    "shadow drop page", {0xfffbb000}, 4_KiB, "a memory slot here comes and goes, see Vm::drop_shadow_pages"};
constexpr Area identity_map_page{
    "EPT identity map", {0xfffbc000}, 4_KiB, "KVM's own, hosts without unrestricted guest"};
constexpr Area task_state_pages{
    "KVM TSS", {0xfffbd000}, 3 * 4_KiB, "KVM's own, hosts without unrestricted guest"};

constexpr std::array areas{boot_gdt,
                           zero_page,
                           boot_tables,
                           command_line,
                           ebda,
                           acpi,
                           kernel,
                           pci_window,
                           ecam,
                           io_apic,
                           local_apic,
                           management_memory,
                           shadow_drop_page,
                           identity_map_page,
                           task_state_pages};

constexpr bool areas_are_disjoint() {
    for (size_t i = 1; i < areas.size(); ++i)
        if (areas[i].start.value < areas[i - 1].end())
            return false;
    return true;
}
static_assert(areas_are_disjoint(), "layout areas must ascend without overlap");

// RAM leaves this hole for devices and continues above it.
constexpr uint64_t hole_start = 3_GiB;
constexpr uint64_t hole_end = 4_GiB;
static_assert(kernel.end() == hole_start && pci_window.start.value == hole_start);

struct RamRange {
    GuestPhysical start;
    uint64_t bytes;
};
// The second range is empty when all RAM fits below the hole.
constexpr std::array<RamRange, 2> ram_ranges(uint64_t ram_bytes) {
    const uint64_t low = ram_bytes < hole_start ? ram_bytes : hole_start;
    return {RamRange{GuestPhysical{0}, low}, RamRange{GuestPhysical{hole_end}, ram_bytes - low}};
}

// Smaller machines cannot hold any kernel; larger ones meet the 46-bit physical addresses of common hosts
// late.
constexpr uint64_t min_ram_bytes = 16_MiB;
constexpr uint64_t max_ram_bytes = 1024_GiB;
constexpr uint32_t max_cpus = 32;

struct Ports {
    const char* name;
    uint16_t start;
    uint16_t count;
    const char* reason;
};
constexpr Ports keyboard_ports{"keyboard controller", 0x64, 1, "reset by command 0xfe, as `reboot=k` does"};
constexpr Ports rtc_ports{"RTC", 0x70, 2, "MC146818 index and data"};
constexpr Ports com1_ports{"COM1", 0x3f8, 8, "16550A"};
constexpr Ports pvpanic_ports{"pvpanic", 0x505, 1, "QEMU's port; ACPI tells it anyway"};
constexpr Ports sleep_ports{"ACPI sleep", 0x600, 2, "sleep control, sleep status: ACPI 6.4, 4.8.3.7"};
// SLP_TYP of the DSDT's \_S5 and of the register behind sleep_ports.
constexpr uint8_t soft_off_sleep_type = 5;
constexpr Ports legacy_config_ports{"PCI configuration address", 0xcf8, 4,
                                    "nothing decodes it: kernels write it before they know ECAM"};
constexpr Ports reset_ports{"reset control", 0xcf9, 1, "FADT RESET_REG, value 6"};

// Global system interrupts. 0..23 are I/O APIC pins; message-signalled vectors start behind them.
constexpr uint32_t com1_gsi = 4;
constexpr uint32_t power_button_gsi = 5;
constexpr uint32_t io_apic_pins = 24;
constexpr bool pin_has_device(uint32_t gsi) {
    return gsi == com1_gsi || gsi == power_button_gsi;
}
constexpr uint32_t first_message_gsi = io_apic_pins;

} // namespace casemate::layout
