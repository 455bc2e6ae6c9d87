// SPDX-License-Identifier: Apache-2.0
#include "boot/acpi_tables.hpp"

#include "base/little_endian.hpp"
#include "memory/layout.hpp"

#include <doctest/doctest.h>
#include <map>
#include <numeric>
#include <string>
#include <vector>

namespace casemate {
namespace {

using Bytes = std::vector<std::byte>;

Bytes read(const GuestMemory& memory, uint64_t start, uint64_t bytes) {
    Bytes copy(bytes);
    REQUIRE(memory.read(GuestRange::of(GuestPhysical{start}, bytes), copy));
    return copy;
}
template <typename T>
T at(const Bytes& bytes, size_t offset) {
    T value;
    REQUIRE(offset + sizeof(T) <= bytes.size());
    std::memcpy(&value, &bytes[offset], sizeof(T));
    return value;
}
unsigned sum(std::span<const std::byte> bytes) {
    return std::accumulate(bytes.begin(), bytes.end(), 0U,
                           [](unsigned total, std::byte b) { return total + std::to_integer<unsigned>(b); }) %
           256;
}
Bytes read_table(const GuestMemory& memory, uint64_t address) {
    const uint32_t length = at<uint32_t>(read(memory, address, 36), 4);
    REQUIRE(length >= 36);
    REQUIRE(address >= layout::acpi.start.value);
    REQUIRE(address + length <= layout::acpi.end());
    Bytes table = read(memory, address, length);
    CHECK(sum(table) == 0);
    return table;
}

// All tables by signature, found as an operating system finds them.
std::map<std::string, Bytes> tables(uint32_t cpus) {
    const auto memory = GuestMemory::create(16_MiB);
    REQUIRE(memory);
    const auto rsdp_address = write_acpi_tables(*memory, {.cpus = cpus});
    REQUIRE(rsdp_address);
    CHECK(is_aligned(rsdp_address->value, 16));
    const Bytes rsdp = read(*memory, rsdp_address->value, 36);
    CHECK(std::memcmp(rsdp.data(), "RSD PTR ", 8) == 0);
    CHECK(sum(std::span(rsdp).first(20)) == 0);
    CHECK(sum(rsdp) == 0);
    CHECK(at<uint8_t>(rsdp, 15) == 2);
    std::map<std::string, Bytes> found;
    const auto add = [&](const Bytes& table) {
        found[std::string(reinterpret_cast<const char*>(table.data()), 4)] = table;
    };
    const Bytes xsdt = read_table(*memory, at<uint64_t>(rsdp, 24));
    for (size_t offset = 36; offset < xsdt.size(); offset += 8)
        add(read_table(*memory, at<uint64_t>(xsdt, offset)));
    REQUIRE(found.contains("FACP"));
    CHECK(at<uint32_t>(found["FACP"], 40) == at<uint64_t>(found["FACP"], 140));
    add(read_table(*memory, at<uint64_t>(found["FACP"], 140)));
    return found;
}

TEST_CASE("the RSDP leads to every table and every checksum holds") {
    const auto found = tables(1);
    CHECK(found.size() == 4);
    for (const char* signature : {"FACP", "APIC", "MCFG", "DSDT"})
        CHECK(found.contains(signature));
}

TEST_CASE("the FADT describes a hardware-reduced machine that sleeps and resets by ports") {
    const Bytes fadt = tables(1)["FACP"];
    CHECK(fadt.size() == 276);
    CHECK(at<uint8_t>(fadt, 8) == 6);
    const auto flags = at<uint32_t>(fadt, 112);
    CHECK((flags & (1U << 20)) != 0);
    CHECK((flags & (1U << 10)) != 0);
    CHECK(at<uint32_t>(fadt, 36) == 0);        // no FACS
    CHECK(at<uint16_t>(fadt, 46) == 0);        // no SCI
    CHECK((at<uint16_t>(fadt, 109) & 2) == 0); // no 8042
    const auto port = [&](size_t offset) {
        CHECK(at<uint8_t>(fadt, offset) == 1);
        CHECK(at<uint8_t>(fadt, offset + 1) == 8);
        return at<uint64_t>(fadt, offset + 4);
    };
    CHECK(port(116) == layout::reset_ports.start);
    CHECK(at<uint8_t>(fadt, 128) == 6);
    CHECK(port(244) == layout::sleep_ports.start);
    CHECK(port(256) == layout::sleep_ports.start + 1U);
    CHECK(std::memcmp(&fadt[268], "CASEMATE", 8) == 0);
}

TEST_CASE("the MADT lists every CPU and the I/O APIC, and no 8259") {
    for (const uint32_t cpus : {1U, 2U, layout::max_cpus}) {
        const Bytes madt = tables(cpus)["APIC"];
        CHECK(at<uint32_t>(madt, 36) == layout::local_apic.start.value);
        CHECK(at<uint32_t>(madt, 40) == 0);
        REQUIRE(madt.size() == 44 + 8 * cpus + 12);
        for (uint32_t cpu = 0; cpu < cpus; ++cpu) {
            CHECK(at<uint16_t>(madt, 44 + 8 * cpu) == 0x0800);
            CHECK(at<uint8_t>(madt, 44 + 8 * cpu + 3) == cpu);
            CHECK(at<uint32_t>(madt, 44 + 8 * cpu + 4) == 1);
        }
        const size_t io_apic = 44 + 8 * cpus;
        CHECK(at<uint16_t>(madt, io_apic) == 0x0c01);
        CHECK(at<uint32_t>(madt, io_apic + 4) == layout::io_apic.start.value);
        CHECK(at<uint32_t>(madt, io_apic + 8) == 0);
    }
}

TEST_CASE("a machine has between one and the layout's number of CPUs") {
    const auto memory = GuestMemory::create(16_MiB);
    REQUIRE(memory);
    CHECK_FALSE(write_acpi_tables(*memory, {.cpus = 0}));
    CHECK(write_acpi_tables(*memory, {.cpus = layout::max_cpus}));
    CHECK_FALSE(write_acpi_tables(*memory, {.cpus = layout::max_cpus + 1}));
}

TEST_CASE("the MCFG covers bus 0 alone") {
    const Bytes mcfg = tables(1)["MCFG"];
    REQUIRE(mcfg.size() == 60);
    CHECK(at<uint64_t>(mcfg, 44) == layout::ecam.start.value);
    CHECK(at<uint16_t>(mcfg, 52) == 0);
    CHECK(at<uint16_t>(mcfg, 54) == 0);
}

} // namespace
} // namespace casemate
