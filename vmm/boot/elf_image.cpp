// SPDX-License-Identifier: Apache-2.0
#include "boot/elf_image.hpp"

#include "memory/layout.hpp"

#include <algorithm>
#include <array>
#include <elf.h>
#include <fmt/core.h>
#include <limits>
#include <optional>
#include <vector>

namespace casemate {

namespace {

// Linux has four; more than this is no kernel.
constexpr uint16_t max_program_headers = 128;

// linux v6.12 arch/x86/include/asm/setup.h: COMMAND_LINE_SIZE, with the NUL.
constexpr uint32_t linux_command_line_size = 2048;
// linux v6.12 arch/x86/boot/header.S: initrd_addr_max.
constexpr uint32_t linux_initrd_addr_max = 0x7fffffff;

const char* machine_name(uint16_t machine) {
    switch (machine) {
    case EM_386:
        return "32-bit x86";
    case EM_AARCH64:
        return "64-bit ARM";
    case EM_ARM:
        return "32-bit ARM";
    case EM_RISCV:
        return "RISC-V";
    case EM_PPC64:
        return "64-bit POWER";
    case EM_S390:
        return "S/390";
    case EM_LOONGARCH:
        return "LoongArch";
    default:
        return "another machine";
    }
}

Result<Elf64_Ehdr> read_header(const ImageFile& file) {
    std::array<std::byte, EI_NIDENT> identification;
    if (!file.holds(0, identification.size()))
        return fail(Error::usage("is an ELF file that ends within its header"));
    TRY(file.read(0, identification));
    const auto identified = [&](size_t index) { return std::to_integer<unsigned>(identification.at(index)); };
    if (identified(EI_CLASS) == ELFCLASS32)
        return fail(Error::usage("is a 32-bit ELF file").hint("Pass a kernel built for x86-64."));
    if (identified(EI_CLASS) != ELFCLASS64 || identified(EI_VERSION) != EV_CURRENT)
        return fail(Error::usage("is an ELF file of an unknown class or version"));
    if (identified(EI_DATA) != ELFDATA2LSB)
        return fail(Error::usage("is a big-endian ELF file").hint("Pass a kernel built for x86-64."));

    Elf64_Ehdr header;
    if (!file.holds(0, sizeof(header)))
        return fail(Error::usage("is an ELF file that ends within its header"));
    TRY(file.read(0, std::as_writable_bytes(std::span(&header, 1))));
    if (header.e_machine != EM_X86_64)
        return fail(Error::usage(fmt::format("is an ELF file for {} (machine {})",
                                             machine_name(header.e_machine), header.e_machine))
                        .hint("Pass a kernel built for x86-64."));
    switch (header.e_type) {
    case ET_EXEC:
    case ET_DYN:
        return header;
    case ET_REL:
        return fail(Error::usage("is an object file or a kernel module").hint("Pass the linked vmlinux."));
    case ET_CORE:
        return fail(Error::usage("is a core dump").hint("Pass the vmlinux."));
    default:
        return fail(Error::usage(fmt::format("is an ELF file of unknown type {}", header.e_type)));
    }
}

Result<std::vector<Elf64_Phdr>> read_program_headers(const ImageFile& file, const Elf64_Ehdr& header) {
    if (header.e_phnum == 0)
        return fail(Error::usage("is an ELF file without program headers").hint("Pass the linked vmlinux."));
    if (header.e_phnum > max_program_headers)
        return fail(Error::usage(fmt::format("has {} program headers, more than the {} that are accepted",
                                             header.e_phnum, max_program_headers)));
    if (header.e_phentsize != sizeof(Elf64_Phdr))
        return fail(Error::usage(fmt::format("has program headers of {} bytes instead of {}",
                                             header.e_phentsize, sizeof(Elf64_Phdr))));
    std::vector<Elf64_Phdr> headers(header.e_phnum);
    if (!file.holds(header.e_phoff, std::as_bytes(std::span(headers)).size()))
        return fail(Error::usage("is truncated: its program headers lie past the end of the file"));
    TRY(file.read(header.e_phoff, std::as_writable_bytes(std::span(headers))));
    return headers;
}

struct Segment {
    GuestRange memory;   // where it is loaded
    uint64_t linear;     // where it is linked, of the same length
    uint64_t offset;     // in the file
    uint64_t file_bytes; // the rest of `memory` is zero
};

Result<Segment> check_segment(const ImageFile& file, const Elf64_Phdr& header) {
    if (header.p_filesz > header.p_memsz)
        return fail(Error::usage(fmt::format("has a segment at {} that is longer in the file than in memory",
                                             to_string(GuestPhysical{header.p_paddr}))));
    // The offset of a segment that has nothing in the file is of no account.
    if (header.p_filesz != 0 && !file.holds(header.p_offset, header.p_filesz))
        return fail(Error::usage(fmt::format("is truncated: the segment at {} lies past the end of the file",
                                             to_string(GuestPhysical{header.p_paddr}))));
    const auto memory = GuestRange::from_guest(GuestValue(header.p_paddr), GuestValue(header.p_memsz));
    // To the last byte of the linear address space is no wrap.
    if (!memory || header.p_vaddr + (header.p_memsz - 1) < header.p_vaddr)
        return fail(Error::usage(fmt::format("has a segment at {} that wraps around the address space",
                                             to_string(GuestPhysical{header.p_paddr}))));
    if (memory->start() < layout::kernel.start)
        return fail(Error::usage(fmt::format("has a segment at {}, below 1 MiB where kernels may start",
                                             to_string(memory->start()))));
    return Segment{*memory, header.p_vaddr, header.p_offset, header.p_filesz};
}

Result<std::vector<Segment>> find_segments(const ImageFile& file, const Elf64_Ehdr& header) {
    std::vector<Segment> segments;
    for (const Elf64_Phdr& program : TRY(read_program_headers(file, header))) {
        // Kernels have no loader, nor thread-local storage.
        if (program.p_type == PT_INTERP || program.p_type == PT_TLS ||
            (program.p_type == PT_DYNAMIC && header.e_type == ET_DYN))
            return fail(Error::usage("is a program or a shared library, not a kernel")
                            .hint("Pass a vmlinux (ELF) or a bzImage."));
        if (program.p_type == PT_LOAD && program.p_memsz != 0)
            segments.push_back(TRY(check_segment(file, program)));
    }
    if (segments.empty())
        return fail(Error::usage("is an ELF file with nothing to load").hint("Pass the linked vmlinux."));
    std::ranges::sort(segments, {}, [](const Segment& segment) { return segment.memory.start(); });
    for (size_t i = 1; i < segments.size(); ++i)
        if (segments[i - 1].memory.end() > segments[i].memory.start().value)
            return fail(Error::usage(fmt::format("has segments at {} and {} that overlap",
                                                 to_string(segments[i - 1].memory.start()),
                                                 to_string(segments[i].memory.start()))));
    return segments;
}

// Linux gives the physical address of startup_64, most other linkers the linear one.
std::optional<GuestPhysical> find_entry(std::span<const Segment> segments, uint64_t entry) {
    for (const Segment& segment : segments)
        if (entry >= segment.memory.start().value &&
            entry - segment.memory.start().value < segment.file_bytes)
            return GuestPhysical{entry};
    for (const Segment& segment : segments)
        if (entry >= segment.linear && entry - segment.linear < segment.file_bytes)
            return GuestPhysical{segment.memory.start().value + (entry - segment.linear)};
    return std::nullopt;
}

// What the header of a bzImage would say: a vmlinux is entered as if its bzImage had just unpacked it.
SetupHeader made_up_header(const GuestRange& occupied) {
    SetupHeader header{};
    header.boot_flag = boot_flag_value;
    header.header = setup_header_magic;
    header.version = 0x20f;
    header.loadflags = loadflag_loaded_high;
    header.xloadflags = xloadflag_kernel_64;
    header.kernel_alignment = static_cast<uint32_t>(2_MiB);
    header.cmdline_size = linux_command_line_size - 1;
    header.initrd_addr_max = linux_initrd_addr_max;
    header.pref_address = occupied.start().value;
    header.init_size = static_cast<uint32_t>(occupied.bytes());
    return header;
}
static_assert(layout::hole_start <= std::numeric_limits<uint32_t>::max(), "init_size has 32 bits");

} // namespace

Result<LoadedKernel> load_elf_image(const GuestMemory& memory, const ImageFile& file) {
    const Elf64_Ehdr header = TRY(read_header(file));
    const std::vector<Segment> segments = TRY(find_segments(file, header));
    const GuestPhysical start = segments.front().memory.start();
    const uint64_t end = segments.back().memory.end();
    const GuestRange occupied = GuestRange::of(start, end - start.value);
    if (end > layout::kernel.end() || !memory.is_ram(occupied))
        return fail(too_little_ram(end, memory.size()));
    const auto entry = find_entry(segments, header.e_entry);
    if (!entry)
        return fail(Error::usage(fmt::format("has its entry point {} outside of what it loads",
                                             to_string(GuestLinear{header.e_entry}))));

    for (const Segment& segment : segments) {
        const uint64_t begin = segment.memory.start().value;
        TRY(file.read_into(memory, GuestRange::of(GuestPhysical{begin}, segment.file_bytes), segment.offset));
        const auto bss = GuestRange::of(GuestPhysical{begin + segment.file_bytes},
                                        segment.memory.bytes() - segment.file_bytes);
        if (const auto cleared = memory.clear(bss); !cleared)
            return fail(ram_refused(bss, cleared.error()));
    }
    return LoadedKernel{.format = LoadedKernel::Format::elf,
                        .entry = *entry,
                        .occupied = occupied,
                        .header = made_up_header(occupied),
                        .command_line_limit = linux_command_line_size - 1,
                        .initrd_addr_max = linux_initrd_addr_max};
}

} // namespace casemate
