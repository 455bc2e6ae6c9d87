// SPDX-License-Identifier: Apache-2.0
#include "boot/zero_page.hpp"

#include "memory/layout.hpp"

#include <algorithm>
#include <fmt/core.h>

namespace casemate {

namespace {

constexpr uint32_t low_half(uint64_t value) {
    return static_cast<uint32_t>(value);
}
constexpr uint32_t high_half(uint64_t value) {
    return static_cast<uint32_t>(value >> 32);
}

Result<void> write_command_line(const GuestMemory& memory, const LoadedKernel& kernel,
                                std::string_view command_line) {
    const uint64_t limit = std::min<uint64_t>(kernel.command_line_limit, layout::command_line.bytes - 1);
    if (command_line.size() > limit)
        return fail(Error::usage(fmt::format("the command line has {} bytes, the kernel takes {}",
                                             command_line.size(), limit))
                        .hint("Shorten --cmdline."));
    if (command_line.find('\0') != std::string_view::npos)
        return fail(Error::usage("the command line contains a NUL byte"));
    const std::string with_end(command_line);
    const auto bytes = std::as_bytes(std::span(with_end.c_str(), with_end.size() + 1));
    if (const auto written = memory.write(layout::command_line.start, bytes); !written)
        return fail(ram_refused(GuestRange::of(layout::command_line.start, bytes.size()), written.error()));
    return {};
}

} // namespace

std::vector<E820Entry> memory_map(uint64_t ram_bytes) {
    std::vector<E820Entry> map;
    const auto add = [&](uint64_t start, uint64_t end, E820Type type) {
        if (end > start)
            map.push_back({start, end - start, static_cast<uint32_t>(type)});
    };
    const auto ram = layout::ram_ranges(ram_bytes);
    add(0, layout::ebda.start.value, E820Type::ram);
    add(layout::ebda.start.value, layout::ebda.end(), E820Type::reserved);
    // Nothing is said of 0xa0000..0xdffff: no RAM to the guest, and no video memory either.
    add(layout::acpi.start.value, layout::acpi.end(), E820Type::acpi);
    add(layout::kernel.start.value, ram[0].bytes, E820Type::ram);
    // PCI Firmware 3.2, 4.1.2 "MCFG Table Description": also reserved by the DSDT, as it demands.
    add(layout::ecam.start.value, layout::ecam.end(), E820Type::reserved);
    add(ram[1].start.value, ram[1].start.value + ram[1].bytes, E820Type::ram);
    return map;
}

Result<void> write_zero_page(const GuestMemory& memory, const LoadedKernel& kernel,
                             const BootHandover& handover) {
    TRY(write_command_line(memory, kernel, handover.command_line));

    BootParams params{};
    params.header = kernel.header;
    params.header.type_of_loader = loader_undefined;
    // The loader's own list of extra data; the field of the file is not ours to follow.
    params.header.setup_data = 0;
    params.header.cmd_line_ptr = low_half(layout::command_line.start.value);
    params.ext_cmd_line_ptr = high_half(layout::command_line.start.value);
    if (handover.initrd) {
        params.header.ramdisk_image = low_half(handover.initrd->start().value);
        params.ext_ramdisk_image = high_half(handover.initrd->start().value);
        params.header.ramdisk_size = low_half(handover.initrd->bytes());
        params.ext_ramdisk_size = high_half(handover.initrd->bytes());
    } else {
        params.header.ramdisk_image = 0;
        params.header.ramdisk_size = 0;
    }
    params.acpi_rsdp_addr = handover.rsdp.value;
    const std::vector<E820Entry> map = memory_map(memory.size());
    std::ranges::copy(map, params.e820_table.begin());
    params.e820_entries = static_cast<uint8_t>(map.size());

    if (const auto written = memory.store(layout::zero_page.start, params); !written)
        return fail(ram_refused(GuestRange::of(layout::zero_page.start, sizeof(params)), written.error()));
    return {};
}

} // namespace casemate
