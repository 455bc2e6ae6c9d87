// SPDX-License-Identifier: Apache-2.0
#include "boot/bz_image.hpp"

#include "memory/layout.hpp"

#include <algorithm>
#include <bit>
#include <fmt/core.h>

namespace casemate {

namespace {

constexpr uint16_t min_version = 0x20c; // the first with xloadflags; all fields but kernel_info are older
constexpr uint16_t kernel_info_version = 0x20f;
constexpr uint64_t sector_bytes = 512;
constexpr uint8_t default_setup_sects = 4; // what 0 means
// "64-bit BOOT PROTOCOL": the entry point is this far into the protected-mode code.
constexpr uint64_t entry_offset = 0x200;
constexpr uint64_t paragraph_bytes = 16; // the unit of syssize
// What kernels of protocols without the field have.
constexpr uint32_t default_command_line_limit = 255;

// "The end of setup header can be calculated as follows: 0x0202 + byte value at offset 0x0201", which is the
// offset of a short jump, and signed. Where no such jump is, the version tells.
size_t header_bytes(const SetupHeader& header) {
    constexpr unsigned short_jump = 0xeb;
    constexpr unsigned backwards = 0x80;
    const unsigned distance = header.jump >> 8;
    if ((header.jump & 0xff) == short_jump && distance < backwards)
        return std::min(0x202 + size_t{distance} - setup_header_offset, sizeof(SetupHeader));
    return header.version < kernel_info_version ? offsetof(SetupHeader, kernel_info_offset)
                                                : offsetof(SetupHeader, later_fields);
}

// Read once. Of the header only what the file says is header, so that no neighbouring code gets into the zero
// page.
Result<SetupHeader> read_setup_header(const ImageFile& file) {
    SetupHeader header{};
    const std::span bytes = std::as_writable_bytes(std::span(&header, 1));
    constexpr size_t always = offsetof(SetupHeader, realmode_swtch);
    if (!file.holds(setup_header_offset, always))
        return fail(Error::usage("is truncated: it ends within the setup header"));
    const std::span there = bytes.first(std::min(file.size() - setup_header_offset, bytes.size()));
    TRY(file.read(setup_header_offset, there));
    if (header.boot_flag != boot_flag_value)
        return fail(Error::usage("is not a kernel image: it has a setup header but no boot flag"));
    if (header.version < min_version)
        return fail(
            Error::usage(fmt::format("speaks version {}.{:02} of the boot protocol, too old for 64-bit entry",
                                     header.version >> 8, header.version & 0xff))
                .hint("Pass a kernel of Linux 3.8 or later, or its vmlinux."));
    const size_t length = header_bytes(header);
    if (length < offsetof(SetupHeader, handover_offset))
        return fail(Error::usage(fmt::format("has a setup header of only {} bytes", length)));
    if (length > there.size())
        return fail(Error::usage("is truncated: it ends within the setup header"));
    std::ranges::fill(bytes.subspan(length), std::byte{0});
    return header;
}

Result<void> check_kind(const SetupHeader& header) {
    if ((header.loadflags & loadflag_loaded_high) == 0)
        return fail(Error::usage("is a zImage, which loads below 1 MiB").hint("Pass a bzImage."));
    if ((header.xloadflags & xloadflag_kernel_64) == 0)
        return fail(Error::usage("is a 32-bit kernel").hint("Pass a kernel built for x86-64."));
    if (header.relocatable_kernel != 0 && std::popcount(uint32_t{header.kernel_alignment}) > 1)
        return fail(Error::usage(fmt::format("asks for an alignment of {:#x}, not a power of two",
                                             uint32_t{header.kernel_alignment})));
    return {};
}

// The runtime start address of boot.rst, "init_size": at a lower one a kernel that can move only moves itself
// there, and one that cannot be moved does so from anywhere.
Result<GuestPhysical> choose_start(const SetupHeader& header) {
    const bool can_move = header.relocatable_kernel != 0;
    uint64_t start = header.pref_address;
    if (start == 0 || (can_move && start < layout::kernel.start.value))
        start = layout::kernel.start.value;
    if (start < layout::kernel.start.value || start >= layout::kernel.end())
        return fail(Error::usage(fmt::format("wants to be loaded at {}, where kernels may not be",
                                             to_string(GuestPhysical{start}))));
    const uint64_t alignment = can_move ? std::max<uint64_t>(header.kernel_alignment, 1) : 1;
    return GuestPhysical{align_up(start, alignment)}; // both terms have at most 32 bits: no wrap
}

// The fewest bytes of code that syssize stands for: its last paragraph may be partly there, and 0 tells
// nothing.
uint64_t promised_bytes(const SetupHeader& header) {
    const uint64_t paragraphs = header.syssize;
    return paragraphs == 0 ? 0 : (paragraphs - 1) * paragraph_bytes + 1;
}

} // namespace

Result<LoadedKernel> load_bz_image(const GuestMemory& memory, const ImageFile& file) {
    SetupHeader header = TRY(read_setup_header(file));
    TRY(check_kind(header));
    const uint64_t sectors = header.setup_sects != 0 ? header.setup_sects : default_setup_sects;
    const uint64_t code_offset = (sectors + 1) * sector_bytes;
    if (!file.holds(code_offset, promised_bytes(header)))
        return fail(Error::usage(fmt::format("is truncated: the file has {} bytes of at least {}",
                                             file.size(), code_offset + promised_bytes(header))));
    // All of it: some builds round syssize down, and behind the code lie at most a checksum and a signature.
    const uint64_t code_bytes = file.holds(code_offset, 1) ? file.size() - code_offset : 0;
    if (code_bytes <= entry_offset)
        return fail(Error::usage("is truncated: it ends before its 64-bit entry point"));
    const GuestPhysical start = TRY(choose_start(header));
    // init_size may be 0, and what lies behind the code need not be in it.
    const uint64_t needed_bytes = std::max<uint64_t>(header.init_size, code_bytes);
    const GuestRange place = GuestRange::of(start, needed_bytes);
    if (place.end() > layout::kernel.end() || !memory.is_ram(place))
        return fail(too_little_ram(place.end(), memory.size()));

    TRY(file.read_into(memory, GuestRange::of(start, code_bytes), code_offset));
    header.code32_start = static_cast<uint32_t>(start.value); // obligatory where the loader chose it
    const bool takes_high_addresses = (header.xloadflags & xloadflag_above_4g) != 0;
    return LoadedKernel{.format = LoadedKernel::Format::bz_image,
                        .entry = GuestPhysical{start.value + entry_offset},
                        .occupied = place,
                        .header = header,
                        .command_line_limit = header.cmdline_size != 0 ? uint32_t{header.cmdline_size}
                                                                       : default_command_line_limit,
                        .initrd_addr_max =
                            takes_high_addresses ? ~uint64_t{0} : uint64_t{header.initrd_addr_max}};
}

} // namespace casemate
