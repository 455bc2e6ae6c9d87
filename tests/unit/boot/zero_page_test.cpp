// SPDX-License-Identifier: Apache-2.0
#include "boot/zero_page.hpp"

#include "memory/layout.hpp"

#include <doctest/doctest.h>
#include <string>

namespace casemate {
namespace {

LoadedKernel kernel() {
    LoadedKernel kernel{.format = LoadedKernel::Format::bz_image,
                        .entry = GuestPhysical{16_MiB},
                        .occupied = GuestRange::of(GuestPhysical{16_MiB}, 1_MiB),
                        .header = {},
                        .command_line_limit = 2047,
                        .initrd_addr_max = 0x7fffffff};
    kernel.header.version = 0x20f;
    kernel.header.setup_data = 0xdeadbeef;
    kernel.header.ramdisk_image = 0xdeadbeef;
    kernel.header.ramdisk_size = 0xdeadbeef;
    return kernel;
}

struct Written {
    BootParams params;
    std::string command_line;
};
Written write(const BootHandover& handover) {
    const auto memory = GuestMemory::create(32_MiB);
    REQUIRE(memory);
    REQUIRE(write_zero_page(*memory, kernel(), handover));
    const auto params = memory->fetch<BootParams>(layout::zero_page.start);
    REQUIRE(params);
    std::string text(handover.command_line.size() + 1, 'x');
    REQUIRE(memory->read(GuestRange::of(layout::command_line.start, text.size()),
                         std::as_writable_bytes(std::span(text))));
    return {*params, text};
}

TEST_CASE("the zero page carries the kernel's header, command line, initrd and RSDP") {
    const auto initrd = GuestRange::of(GuestPhysical{0x1ff0000}, 0x1234);
    const Written written =
        write({.command_line = "console=ttyS0", .initrd = initrd, .rsdp = GuestPhysical{0xe0500}});
    CHECK(written.command_line == std::string("console=ttyS0\0", 14));
    CHECK(written.params.header.version == 0x20f);
    CHECK(written.params.header.type_of_loader == 0xff);
    CHECK(written.params.header.cmd_line_ptr == layout::command_line.start.value);
    CHECK(written.params.header.ramdisk_image == 0x1ff0000);
    CHECK(written.params.header.ramdisk_size == 0x1234);
    CHECK(written.params.ext_ramdisk_image == 0);
    CHECK(written.params.header.setup_data == 0);
    CHECK(written.params.acpi_rsdp_addr == 0xe0500);
}

TEST_CASE("without an initrd the file's own fields do not leak through") {
    const Written written = write({.command_line = "", .initrd = {}, .rsdp = {}});
    CHECK(written.params.header.ramdisk_image == 0);
    CHECK(written.params.header.ramdisk_size == 0);
    CHECK(written.command_line == std::string(1, '\0'));
}

TEST_CASE("the longest command line fits and one byte more is refused") {
    const auto memory = GuestMemory::create(32_MiB);
    REQUIRE(memory);
    auto image = kernel();
    CHECK(
        write_zero_page(*memory, image, {.command_line = std::string(2047, 'a'), .initrd = {}, .rsdp = {}}));
    const auto refused =
        write_zero_page(*memory, image, {.command_line = std::string(2048, 'a'), .initrd = {}, .rsdp = {}});
    REQUIRE_FALSE(refused);
    CHECK(refused.error().blame() == Blame::usage);
    CHECK(refused.error().message().find("2048 bytes, the kernel takes 2047") != std::string::npos);
    image.command_line_limit = ~0U;
    const uint64_t room = layout::command_line.bytes - 1;
    CHECK(
        write_zero_page(*memory, image, {.command_line = std::string(room, 'a'), .initrd = {}, .rsdp = {}}));
    CHECK_FALSE(write_zero_page(*memory, image,
                                {.command_line = std::string(room + 1, 'a'), .initrd = {}, .rsdp = {}}));
    CHECK_FALSE(write_zero_page(*memory, image,
                                {.command_line = std::string_view("a\0b", 3), .initrd = {}, .rsdp = {}}));
}

TEST_CASE("the memory map ascends without overlap and its RAM is the guest's") {
    for (const uint64_t ram_bytes : {16_MiB, 3_GiB, 3_GiB + page_bytes, 64_GiB}) {
        const auto map = memory_map(ram_bytes);
        uint64_t end = 0;
        uint64_t ram = 0;
        for (const E820Entry& entry : map) {
            CHECK(entry.start >= end);
            CHECK(entry.bytes > 0);
            end = entry.start + entry.bytes;
            if (entry.type == static_cast<uint32_t>(E820Type::ram))
                ram += entry.bytes;
        }
        CHECK(ram == ram_bytes - (1_MiB - layout::ebda.start.value));
        CHECK(map.size() == (ram_bytes > 3_GiB ? 6 : 5));
    }
}

TEST_CASE("the memory map keeps the guest off the EBDA, the ACPI tables and the ECAM") {
    const auto memory = GuestMemory::create(3_GiB + 1_MiB);
    REQUIRE(memory);
    REQUIRE(write_zero_page(*memory, kernel(), {.command_line = "", .initrd = {}, .rsdp = {}}));
    const auto params = memory->fetch<BootParams>(layout::zero_page.start);
    REQUIRE(params);
    REQUIRE(params->e820_entries == 6);
    const auto is = [&](size_t index, uint64_t start, uint64_t bytes, E820Type type) {
        const E820Entry& entry = params->e820_table.at(index);
        return entry.start == start && entry.bytes == bytes && entry.type == static_cast<uint32_t>(type);
    };
    CHECK(is(0, 0, 0x9fc00, E820Type::ram));
    CHECK(is(1, 0x9fc00, 0x400, E820Type::reserved));
    CHECK(is(2, 0xe0000, 0x20000, E820Type::acpi));
    CHECK(is(3, 1_MiB, 3_GiB - 1_MiB, E820Type::ram));
    CHECK(is(4, 0xe0000000, 1_MiB, E820Type::reserved));
    CHECK(is(5, 4_GiB, 1_MiB, E820Type::ram));
}

} // namespace
} // namespace casemate
