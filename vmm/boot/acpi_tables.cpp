// SPDX-License-Identifier: Apache-2.0
#include "boot/acpi_tables.hpp"

#include "base/little_endian.hpp"
#include "boot/dsdt.hpp"
#include "boot/image_file.hpp"
#include "memory/layout.hpp"

#include <array>
#include <cstddef>
#include <fmt/core.h>
#include <numeric>
#include <string_view>
#include <type_traits>

namespace casemate {

namespace {

using aml::Bytes;

template <size_t Size>
using Text = std::array<char, Size>;

template <size_t Size>
constexpr Text<Size - 1> text(const char (&literal)[Size]) {
    Text<Size - 1> result{};
    for (size_t i = 0; i < Size - 1; ++i)
        result[i] = literal[i];
    return result;
}

// ACPI 6.4, 5.2.6 "System Description Table Header".
struct TableHeader {
    Text<4> signature;
    Le32 length;
    uint8_t revision;
    uint8_t checksum;
    Text<6> oem_id;
    Text<8> oem_table_id;
    Le32 oem_revision;
    Text<4> creator_id;
    Le32 creator_revision;
};
static_assert(sizeof(TableHeader) == 36);

TableHeader header(const Text<4>& signature, uint8_t revision) {
    return {.signature = signature,
            .length = 0,
            .revision = revision,
            .checksum = 0,
            .oem_id = text("CASEM8"),
            .oem_table_id = text("CASEMATE"),
            .oem_revision = 1,
            .creator_id = text("CSM8"),
            .creator_revision = 1};
}

// ACPI 6.4, 5.2.5.3 "Root System Description Pointer (RSDP) Structure".
struct Rsdp {
    Text<8> signature;
    uint8_t checksum; // of the first 20 bytes
    Text<6> oem_id;
    uint8_t revision;
    Le32 rsdt;
    Le32 length;
    Le64 xsdt;
    uint8_t extended_checksum;
    std::array<std::byte, 3> reserved;
};
static_assert(sizeof(Rsdp) == 36 && offsetof(Rsdp, xsdt) == 24);
constexpr size_t rsdp_first_part_bytes = 20;

// ACPI 6.4, 5.2.3.2 "Generic Address Structure".
struct GenericAddress {
    uint8_t space;
    uint8_t bits;
    uint8_t bit_offset;
    uint8_t access_size;
    Le64 address;
};
static_assert(sizeof(GenericAddress) == 12);

GenericAddress byte_port(uint16_t port) {
    return {.space = 1, .bits = 8, .bit_offset = 0, .access_size = 1, .address = port};
}

// ACPI 6.4, 5.2.9 "Fixed ACPI Description Table (FADT)". What hardware-reduced machines leave zero is one
// block.
struct Fadt {
    TableHeader header;
    Le32 firmware_ctrl;
    Le32 dsdt;
    uint8_t reserved_model;
    uint8_t preferred_pm_profile;
    std::array<std::byte, 109 - 46> fixed_hardware;
    Le16 iapc_boot_arch;
    uint8_t reserved;
    Le32 flags;
    GenericAddress reset_reg;
    uint8_t reset_value;
    Le16 arm_boot_arch;
    uint8_t minor_version;
    Le64 x_firmware_ctrl;
    Le64 x_dsdt;
    std::array<GenericAddress, 8> fixed_registers;
    GenericAddress sleep_control_reg;
    GenericAddress sleep_status_reg;
    Text<8> hypervisor_vendor;
};
static_assert(sizeof(Fadt) == 276);
static_assert(offsetof(Fadt, iapc_boot_arch) == 109 && offsetof(Fadt, flags) == 112);
static_assert(offsetof(Fadt, reset_reg) == 116 && offsetof(Fadt, x_dsdt) == 140);
static_assert(offsetof(Fadt, sleep_control_reg) == 244 && offsetof(Fadt, hypervisor_vendor) == 268);

// 5.2.9, tables "Fixed ACPI Description Table Fixed Feature Flags" and "IA-PC Boot Architecture Flags".
constexpr uint32_t fadt_wbinvd = 1 << 0;
constexpr uint32_t fadt_c1_on_all = 1 << 2;
constexpr uint32_t fadt_no_fixed_power_button = 1 << 4;
constexpr uint32_t fadt_no_fixed_sleep_button = 1 << 5;
constexpr uint32_t fadt_reset_reg = 1 << 10;
constexpr uint32_t fadt_hardware_reduced = 1 << 20;
constexpr uint16_t boot_arch_no_vga = 1 << 2;
constexpr uint16_t boot_arch_no_aspm = 1 << 4;
// Not set: legacy devices, 8042 (Linux would look for a keyboard), "CMOS RTC not present".
constexpr uint8_t reset_by_value = 6;

// ACPI 6.4, 5.2.12 "Multiple APIC Description Table (MADT)".
struct Madt {
    TableHeader header;
    Le32 local_apic;
    Le32 flags;
};
static_assert(sizeof(Madt) == 44);
struct MadtLocalApic {
    uint8_t type;
    uint8_t length;
    uint8_t processor_uid;
    uint8_t apic_id;
    Le32 flags;
};
static_assert(sizeof(MadtLocalApic) == 8);
struct MadtIoApic {
    uint8_t type;
    uint8_t length;
    uint8_t id;
    uint8_t reserved;
    Le32 address;
    Le32 first_interrupt;
};
static_assert(sizeof(MadtIoApic) == 12);

// PCI Firmware 3.2, 4.1.2 "MCFG Table Description".
struct Mcfg {
    TableHeader header;
    std::array<std::byte, 8> reserved;
    Le64 base;
    Le16 segment;
    uint8_t first_bus;
    uint8_t last_bus;
    Le32 reserved_end;
};
static_assert(sizeof(Mcfg) == 60 && offsetof(Mcfg, base) == 44);

template <typename T>
void append(Bytes& bytes, const T& value) {
    static_assert(std::is_trivially_copyable_v<T> && alignof(T) == 1);
    const auto more = std::as_bytes(std::span(&value, 1));
    bytes.insert(bytes.end(), more.begin(), more.end());
}

template <typename T>
Bytes bytes_of(const T& value) {
    Bytes bytes;
    append(bytes, value);
    return bytes;
}

// What makes all bytes add up to 0.
std::byte checksum(std::span<const std::byte> bytes) {
    const auto sum = std::accumulate(bytes.begin(), bytes.end(), 0U, [](unsigned total, std::byte byte) {
        return total + std::to_integer<unsigned>(byte);
    });
    return static_cast<std::byte>(0U - sum);
}

// Puts tables one behind the other.
class TableWriter {
public:
    TableWriter(const GuestMemory& memory, GuestRange area)
        : m_memory(memory)
        , m_area(area) {}

    // Fills in length and checksum.
    Result<GuestPhysical> write_table(Bytes table) {
        const Le32 length(static_cast<uint32_t>(table.size()));
        std::memcpy(&table[offsetof(TableHeader, length)], &length, sizeof(length));
        table[offsetof(TableHeader, checksum)] = checksum(table);
        return write(table);
    }

    Result<GuestPhysical> write(std::span<const std::byte> bytes) {
        const auto range = m_area.part(m_used, bytes.size());
        if (!range)
            return fail(Error(fmt::format("ACPI tables need more than {}", format_bytes(m_area.bytes()))));
        if (const auto written = m_memory.write(range->start(), bytes); !written)
            return fail(ram_refused(*range, written.error()));
        constexpr uint64_t alignment = 16;
        m_used = align_up(m_used + bytes.size(), alignment);
        return range->start();
    }

private:
    const GuestMemory& m_memory;
    GuestRange m_area;
    uint64_t m_used = 0;
};

Bytes dsdt() {
    Bytes table = bytes_of(header(text("DSDT"), 2)); // 2: 64-bit integers
    const Bytes code = dsdt_code();
    table.insert(table.end(), code.begin(), code.end());
    return table;
}

Bytes fadt(GuestPhysical dsdt_address) {
    Fadt table{};
    table.header = header(text("FACP"), 6);
    table.minor_version = 4;
    table.dsdt = static_cast<uint32_t>(dsdt_address.value);
    table.x_dsdt = dsdt_address.value;
    table.iapc_boot_arch = boot_arch_no_vga | boot_arch_no_aspm;
    table.flags = fadt_wbinvd | fadt_c1_on_all | fadt_no_fixed_power_button | fadt_no_fixed_sleep_button |
                  fadt_reset_reg | fadt_hardware_reduced;
    table.reset_reg = byte_port(layout::reset_ports.start);
    table.reset_value = reset_by_value;
    table.sleep_control_reg = byte_port(layout::sleep_ports.start);
    table.sleep_status_reg = byte_port(layout::sleep_ports.start + 1);
    table.hypervisor_vendor = text("CASEMATE");
    return bytes_of(table);
}

Bytes madt(uint32_t cpus) {
    Madt table{};
    table.header = header(text("APIC"), 5);
    table.local_apic = static_cast<uint32_t>(layout::local_apic.start.value);
    table.flags = 0; // no pair of 8259s
    Bytes bytes = bytes_of(table);
    for (uint32_t cpu = 0; cpu < cpus; ++cpu)
        append(bytes, MadtLocalApic{.type = 0,
                                    .length = sizeof(MadtLocalApic),
                                    .processor_uid = static_cast<uint8_t>(cpu),
                                    .apic_id = static_cast<uint8_t>(cpu),
                                    .flags = 1}); // enabled
    append(bytes, MadtIoApic{.type = 1,
                             .length = sizeof(MadtIoApic),
                             .id = 0,
                             .reserved = 0,
                             .address = static_cast<uint32_t>(layout::io_apic.start.value),
                             .first_interrupt = 0});
    return bytes;
}
static_assert(layout::max_cpus <= 255, "processor UIDs and xAPIC ids have 8 bits, 255 is the broadcast");

Bytes mcfg() {
    Mcfg table{};
    table.header = header(text("MCFG"), 1);
    table.base = layout::ecam.start.value;
    table.last_bus = static_cast<uint8_t>(layout::ecam.bytes / 1_MiB - 1);
    return bytes_of(table);
}

Bytes xsdt(std::span<const GuestPhysical> tables) {
    Bytes bytes = bytes_of(header(text("XSDT"), 1));
    for (const GuestPhysical& table : tables)
        append(bytes, Le64(table.value));
    return bytes;
}

Bytes rsdp(GuestPhysical xsdt_address) {
    Rsdp pointer{};
    pointer.signature = text("RSD PTR ");
    pointer.oem_id = text("CASEM8");
    pointer.revision = 2;
    pointer.length = sizeof(Rsdp);
    pointer.xsdt = xsdt_address.value;
    Bytes bytes = bytes_of(pointer);
    bytes[offsetof(Rsdp, checksum)] = checksum(std::span(bytes).first(rsdp_first_part_bytes));
    bytes[offsetof(Rsdp, extended_checksum)] = checksum(bytes);
    return bytes;
}

} // namespace

Result<GuestPhysical> write_acpi_tables(const GuestMemory& memory, const AcpiConfig& config) {
    if (config.cpus == 0 || config.cpus > layout::max_cpus)
        return fail(
            Error::usage(fmt::format("a guest has 1 to {} CPUs, not {}", layout::max_cpus, config.cpus)));
    TableWriter writer(memory, GuestRange::of(layout::acpi.start, layout::acpi.bytes));
    const GuestPhysical dsdt_address = TRY(writer.write_table(dsdt()));
    const GuestPhysical fadt_address = TRY(writer.write_table(fadt(dsdt_address)));
    const GuestPhysical madt_address = TRY(writer.write_table(madt(config.cpus)));
    const GuestPhysical mcfg_address = TRY(writer.write_table(mcfg()));
    const std::array tables{fadt_address, madt_address, mcfg_address};
    const GuestPhysical xsdt_address = TRY(writer.write_table(xsdt(tables)));
    return writer.write(rsdp(xsdt_address));
}

} // namespace casemate
