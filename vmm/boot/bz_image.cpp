// SPDX-License-Identifier: Apache-2.0
#include "boot/bz_image.hpp"

#include "memory/layout.hpp"

#include <algorithm>
#include <bit>
#include <fmt/core.h>

namespace casemate {

namespace {

constexpr uint16_t min_version = 0x20c; // the first with xloadflags
constexpr uint64_t sector_bytes = 512;
constexpr uint8_t default_setup_sects = 4; // what 0 means
// "64-bit BOOT PROTOCOL": the entry point is this far into the protected-mode code.
constexpr uint64_t entry_offset = 0x200;

// Of the header only what the file says is header, so that no neighbouring code gets into the zero page.
Result<SetupHeader> read_setup_header(const ImageFile& file) {
    SetupHeader header{};
    const std::span bytes = std::as_writable_bytes(std::span(&header, 1));
    constexpr size_t always = offsetof(SetupHeader, realmode_swtch);
    if (!file.holds(setup_header_offset, always))
        return fail(Error::usage("is truncated: it ends within the setup header"));
    TRY(file.read(setup_header_offset, bytes.first(always)));
    if (header.boot_flag != boot_flag_value)
        return fail(Error::usage("is not a kernel image: it has a setup header but no boot flag"));
    if (header.version < min_version)
        return fail(
            Error::usage(fmt::format("speaks version {}.{:02} of the boot protocol, too old for 64-bit entry",
                                     header.version >> 8, header.version & 0xff))
                .hint("Pass a kernel of Linux 3.8 or later, or its vmlinux."));
    // "The end of setup header can be calculated as follows: 0x0202 + byte value at offset 0x0201"
    const size_t end = 0x202 + (header.jump >> 8);
    const size_t length = std::min(end - setup_header_offset, bytes.size());
    if (length < offsetof(SetupHeader, handover_offset))
        return fail(Error::usage(fmt::format("has a setup header of only {} bytes", length)));
    if (!file.holds(setup_header_offset, length))
        return fail(Error::usage("is truncated: it ends within the setup header"));
    TRY(file.read(setup_header_offset, bytes.first(length)));
    return header;
}

Result<void> check_kind(const SetupHeader& header) {
    if ((header.loadflags & loadflag_loaded_high) == 0)
        return fail(Error::usage("is a zImage, which loads below 1 MiB").hint("Pass a bzImage."));
    if ((header.xloadflags & xloadflag_kernel_64) == 0)
        return fail(Error::usage("is a 32-bit kernel").hint("Pass a kernel built for x86-64."));
    if (header.relocatable_kernel != 0 && !std::has_single_bit(uint32_t{header.kernel_alignment}))
        return fail(Error::usage(fmt::format("asks for an alignment of {:#x}, not a power of two",
                                             uint32_t{header.kernel_alignment})));
    return {};
}

// pref_address: lower addresses gain nothing, since the decompressor moves a kernel up to where it was linked
// to run (linux v6.12 arch/x86/boot/compressed/head_64.S: startup_64).
Result<GuestRange> choose_place(const SetupHeader& header) {
    const uint64_t preferred = header.pref_address;
    if (preferred < layout::kernel.start.value || preferred >= layout::kernel.end())
        return fail(Error::usage(fmt::format("wants to be loaded at {}, where kernels may not be",
                                             to_string(GuestPhysical{preferred}))));
    const uint64_t alignment = header.relocatable_kernel != 0 ? uint64_t{header.kernel_alignment} : 1;
    // Both terms have at most 32 bits: no wrap.
    return GuestRange::of(GuestPhysical{align_up(preferred, alignment)}, header.init_size);
}

} // namespace

Result<LoadedKernel> load_bz_image(const GuestMemory& memory, const ImageFile& file) {
    const SetupHeader header = TRY(read_setup_header(file));
    TRY(check_kind(header));
    const uint64_t sectors = header.setup_sects != 0 ? header.setup_sects : default_setup_sects;
    const uint64_t code_offset = (sectors + 1) * sector_bytes;
    const uint64_t promised_bytes = uint64_t{header.syssize} * 16;
    if (!file.holds(code_offset, promised_bytes))
        return fail(Error::usage(fmt::format("is truncated: the file has {} bytes of at least {}",
                                             file.size(), code_offset + promised_bytes)));
    // syssize is rounded down by some builds; behind it lie at most a checksum and a signature.
    const uint64_t code_bytes = file.size() - code_offset;
    if (code_bytes <= entry_offset)
        return fail(Error::usage("is truncated: it ends before its 64-bit entry point"));
    const GuestRange place = TRY(choose_place(header));
    if (code_bytes > place.bytes())
        return fail(Error::usage(
            fmt::format("has {} bytes to load but an init_size of only {}", code_bytes, place.bytes())));
    if (place.end() > layout::kernel.end() || !memory.is_ram(place))
        return fail(too_little_ram(place.end(), memory.size()));

    TRY(file.read_into(memory, GuestRange::of(place.start(), code_bytes), code_offset));
    return LoadedKernel{.format = LoadedKernel::Format::bz_image,
                        .entry = GuestPhysical{place.start().value + entry_offset},
                        .occupied = place,
                        .header = header,
                        .command_line_limit = header.cmdline_size,
                        .initrd_addr_max = header.initrd_addr_max};
}

} // namespace casemate
