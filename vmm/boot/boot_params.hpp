// SPDX-License-Identifier: Apache-2.0
// BootParams: the "zero page" that an x86 Linux kernel is started with, and the setup header inside it.
// linux v6.12 Documentation/arch/x86/zero-page.rst, Documentation/arch/x86/boot.rst "The Real-Mode Kernel
// Header".
#pragma once

#include "base/little_endian.hpp"

#include <array>
#include <cstddef>
#include <cstdint>
#include <type_traits>

namespace casemate {

// Lies at 0x1f1 in a bzImage and in the zero page.
struct SetupHeader {
    uint8_t setup_sects;
    Le16 root_flags;
    Le32 syssize;
    Le16 ram_size;
    Le16 vid_mode;
    Le16 root_dev;
    Le16 boot_flag;
    Le16 jump;
    Le32 header;
    Le16 version;
    Le32 realmode_swtch;
    Le16 start_sys_seg;
    Le16 kernel_version;
    uint8_t type_of_loader;
    uint8_t loadflags;
    Le16 setup_move_size;
    Le32 code32_start;
    Le32 ramdisk_image;
    Le32 ramdisk_size;
    Le32 bootsect_kludge;
    Le16 heap_end_ptr;
    uint8_t ext_loader_ver;
    uint8_t ext_loader_type;
    Le32 cmd_line_ptr;
    Le32 initrd_addr_max;
    Le32 kernel_alignment;
    uint8_t relocatable_kernel;
    uint8_t min_alignment;
    Le16 xloadflags;
    Le32 cmdline_size;
    Le32 hardware_subarch;
    Le64 hardware_subarch_data;
    Le32 payload_offset;
    Le32 payload_length;
    Le64 setup_data;
    Le64 pref_address;
    Le32 init_size;
    Le32 handover_offset;
    Le32 kernel_info_offset;
    // Room that the zero page keeps for fields of later protocol versions.
    std::array<std::byte, 0x290 - 0x26c> later_fields;
};

constexpr size_t setup_header_offset = 0x1f1;
constexpr uint16_t boot_flag_value = 0xaa55;
constexpr uint32_t setup_header_magic = 0x53726448; // "HdrS"
constexpr uint8_t loadflag_loaded_high = 1 << 0;
constexpr uint16_t xloadflag_kernel_64 = 1 << 0;
constexpr uint16_t xloadflag_above_4g = 1 << 1;
constexpr uint8_t loader_undefined = 0xff;

template <size_t Found, size_t Wanted>
constexpr bool same = [] {
    static_assert(Found == Wanted);
    return true;
}();
static_assert(same<sizeof(SetupHeader), 0x290 - setup_header_offset>);
static_assert(same<setup_header_offset + offsetof(SetupHeader, boot_flag), 0x1fe>);
static_assert(same<setup_header_offset + offsetof(SetupHeader, jump), 0x200>);
static_assert(same<setup_header_offset + offsetof(SetupHeader, header), 0x202>);
static_assert(same<setup_header_offset + offsetof(SetupHeader, version), 0x206>);
static_assert(same<setup_header_offset + offsetof(SetupHeader, type_of_loader), 0x210>);
static_assert(same<setup_header_offset + offsetof(SetupHeader, loadflags), 0x211>);
static_assert(same<setup_header_offset + offsetof(SetupHeader, ramdisk_image), 0x218>);
static_assert(same<setup_header_offset + offsetof(SetupHeader, cmd_line_ptr), 0x228>);
static_assert(same<setup_header_offset + offsetof(SetupHeader, initrd_addr_max), 0x22c>);
static_assert(same<setup_header_offset + offsetof(SetupHeader, kernel_alignment), 0x230>);
static_assert(same<setup_header_offset + offsetof(SetupHeader, relocatable_kernel), 0x234>);
static_assert(same<setup_header_offset + offsetof(SetupHeader, xloadflags), 0x236>);
static_assert(same<setup_header_offset + offsetof(SetupHeader, cmdline_size), 0x238>);
static_assert(same<setup_header_offset + offsetof(SetupHeader, setup_data), 0x250>);
static_assert(same<setup_header_offset + offsetof(SetupHeader, pref_address), 0x258>);
static_assert(same<setup_header_offset + offsetof(SetupHeader, init_size), 0x260>);
static_assert(same<setup_header_offset + offsetof(SetupHeader, later_fields), 0x26c>);
static_assert(std::is_trivially_copyable_v<SetupHeader> && alignof(SetupHeader) == 1);

// ACPI 6.4, 15 "System Address Map Interfaces".
enum class E820Type : uint32_t { ram = 1, reserved = 2, acpi = 3 };

struct E820Entry {
    Le64 start;
    Le64 bytes;
    Le32 type;
};
static_assert(same<sizeof(E820Entry), 20>);

struct BootParams {
    std::array<std::byte, 0x70> screen_apm_ist;
    Le64 acpi_rsdp_addr;
    std::array<std::byte, 0xc0 - 0x78> obsolete_tables;
    Le32 ext_ramdisk_image;
    Le32 ext_ramdisk_size;
    Le32 ext_cmd_line_ptr;
    std::array<std::byte, 0x1e8 - 0xcc> edid_efi;
    uint8_t e820_entries;
    std::array<std::byte, setup_header_offset - 0x1e9> edd_sentinel;
    SetupHeader header;
    std::array<std::byte, 0x2d0 - 0x290> edd_signatures;
    std::array<E820Entry, 128> e820_table;
    std::array<std::byte, 0x1000 - 0xcd0> edd;
};
static_assert(same<sizeof(BootParams), 4096>);
static_assert(same<offsetof(BootParams, acpi_rsdp_addr), 0x70>);
static_assert(same<offsetof(BootParams, ext_ramdisk_image), 0xc0>);
static_assert(same<offsetof(BootParams, ext_cmd_line_ptr), 0xc8>);
static_assert(same<offsetof(BootParams, e820_entries), 0x1e8>);
static_assert(same<offsetof(BootParams, header), 0x1f1>);
static_assert(same<offsetof(BootParams, e820_table), 0x2d0>);
static_assert(std::is_trivially_copyable_v<BootParams>);

} // namespace casemate
