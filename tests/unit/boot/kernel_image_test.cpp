// SPDX-License-Identifier: Apache-2.0
#include "boot/kernel_image.hpp"

#include "synthetic_kernel.hpp"

#include <algorithm>
#include <array>
#include <doctest/doctest.h>
#include <string_view>
#include <sys/stat.h>

namespace casemate {
namespace {

using namespace std::literals;
using synthetic::patch;

GuestMemory ram(uint64_t bytes) {
    auto memory = GuestMemory::create(bytes);
    REQUIRE(memory);
    return std::move(*memory);
}

Result<LoadedKernel> load(const GuestMemory& memory, std::span<const std::byte> bytes) {
    const auto file = ImageFile::adopt(synthetic::file_of(bytes));
    if (!file)
        return fail(file.error());
    return load_kernel(memory, *file);
}

synthetic::Bytes bytes_of(std::string_view text) {
    const auto bytes = std::as_bytes(std::span(text));
    return {bytes.begin(), bytes.end()};
}

synthetic::Bytes first_of(synthetic::Bytes bytes, size_t count) {
    bytes.resize(count);
    return bytes;
}

// The message of the user error that loading ends in.
std::string refusal(std::span<const std::byte> bytes, uint64_t ram_bytes = 16_MiB) {
    const GuestMemory memory = ram(ram_bytes);
    const auto kernel = load(memory, bytes);
    if (kernel)
        return "loaded";
    CHECK(kernel.error().blame() == Blame::usage);
    return kernel.error().message();
}

bool says(const std::string& message, std::string_view part) {
    return message.find(part) != std::string::npos;
}

bool all_are(const GuestMemory& memory, uint64_t start, uint64_t bytes, std::byte value) {
    std::vector<std::byte> copy(bytes);
    REQUIRE(memory.read(GuestRange::of(GuestPhysical{start}, bytes), copy));
    return std::ranges::all_of(copy, [&](std::byte byte) { return byte == value; });
}

TEST_CASE("a vmlinux is loaded at its physical addresses and its bss is zeroed") {
    const GuestMemory memory = ram(16_MiB);
    const std::vector<std::byte> garbage(0x10000, std::byte{0xff});
    REQUIRE(memory.write(GuestPhysical{synthetic::elf_start}, garbage));
    const auto kernel = load(memory, synthetic::Elf().file());
    REQUIRE(kernel);
    CHECK(kernel->format == LoadedKernel::Format::elf);
    CHECK(kernel->entry.value == synthetic::elf_start + 0x100);
    CHECK(kernel->occupied.start().value == synthetic::elf_start);
    CHECK(kernel->occupied.end() == synthetic::elf_end);
    CHECK(kernel->header.header == setup_header_magic);
    CHECK(kernel->command_line_limit == 2047);
    CHECK(kernel->initrd_addr_max == 0x7fffffff);
    CHECK(all_are(memory, synthetic::elf_start, synthetic::elf_text_bytes, std::byte{0x90}));
    CHECK(all_are(memory, synthetic::elf_data_start, synthetic::elf_data_bytes, std::byte{0xda}));
    CHECK(all_are(memory, synthetic::elf_data_start + synthetic::elf_data_bytes,
                  synthetic::elf_data_memory_bytes - synthetic::elf_data_bytes, std::byte{0}));
    CHECK(all_are(memory, synthetic::elf_end, 16, std::byte{0xff}));
}

TEST_CASE("a linear entry point is translated to the physical one") {
    const GuestMemory memory = ram(16_MiB);
    synthetic::Elf elf;
    elf.header.e_entry = synthetic::elf_linear_base + synthetic::elf_start + 0x100;
    const auto kernel = load(memory, elf.file());
    REQUIRE(kernel);
    CHECK(kernel->entry.value == synthetic::elf_start + 0x100);
}

TEST_CASE("the entry point may be the last loaded byte but not one past it") {
    const GuestMemory memory = ram(16_MiB);
    synthetic::Elf elf;
    elf.header.e_entry = synthetic::elf_start + synthetic::elf_text_bytes - 1;
    CHECK(load(memory, elf.file()));
    elf.header.e_entry += 1;
    CHECK(says(refusal(elf.file()), "entry point"));
    elf.header.e_entry = ~0ULL;
    CHECK(says(refusal(elf.file()), "entry point"));
}

TEST_CASE("a position-independent freestanding ELF file loads, a program or library does not") {
    synthetic::Elf elf;
    elf.header.e_type = ET_DYN;
    const GuestMemory memory = ram(16_MiB);
    CHECK(load(memory, elf.file()));
    elf.data.p_type = PT_DYNAMIC;
    CHECK(says(refusal(elf.file()), "shared library"));
    elf.header.e_type = ET_EXEC;
    for (const uint32_t type : {uint32_t{PT_INTERP}, uint32_t{PT_TLS}}) {
        elf.data.p_type = type;
        CHECK(says(refusal(elf.file()), "is a program"));
    }
}

TEST_CASE("a segment may end with the file but not one byte past it, nor wrap") {
    synthetic::Elf elf;
    auto bytes = elf.file();
    CHECK(load(ram(16_MiB), bytes));
    bytes.pop_back();
    CHECK(says(refusal(bytes), "truncated"));
    elf.data.p_offset = ~0ULL - 15;
    CHECK(says(refusal(elf.file()), "truncated"));
}

TEST_CASE("the program headers may end with the file but not one byte past it, nor wrap") {
    synthetic::Elf elf;
    elf.header.e_phoff = synthetic::elf_data_offset + synthetic::elf_data_bytes;
    auto bytes = elf.file();
    const auto add = [&](const Elf64_Phdr& header) {
        const auto more = std::as_bytes(std::span(&header, 1));
        bytes.insert(bytes.end(), more.begin(), more.end());
    };
    add(elf.text);
    add(elf.data);
    CHECK(load(ram(16_MiB), bytes));
    bytes.pop_back();
    CHECK(says(refusal(bytes), "truncated"));
    elf.header.e_phoff = ~0ULL - 55;
    CHECK(says(refusal(elf.file()), "truncated"));
    elf.header.e_phoff = sizeof(elf.header);
    elf.header.e_phentsize = 32;
    CHECK(says(refusal(elf.file()), "program headers of 32 bytes"));
    elf.header.e_phnum = 0xffff;
    CHECK(says(refusal(elf.file()), "65535 program headers"));
    elf.header.e_phnum = 0;
    CHECK(says(refusal(elf.file()), "without program headers"));
}

TEST_CASE("a kernel may end with RAM but not one byte past it, nor wrap") {
    synthetic::Elf elf;
    elf.data.p_memsz = 16_MiB - synthetic::elf_data_start;
    CHECK(load(ram(16_MiB), elf.file()));
    elf.data.p_memsz += 1;
    const std::string message = refusal(elf.file());
    CHECK(says(message, "needs at least 17 MiB of RAM, the guest has 16 MiB"));
    CHECK(says(message, "--memory 17M"));
    CHECK(load(ram(17_MiB), elf.file()));
    elf.data.p_memsz = ~0ULL - synthetic::elf_data_start + 1;
    CHECK(says(refusal(elf.file()), "wraps"));
    elf.data.p_memsz -= 1;
    CHECK(says(refusal(elf.file()), "wraps")); // the linear address still does
    elf.data.p_vaddr = 1;
    CHECK(says(refusal(elf.file()), "device hole"));
}

TEST_CASE("a segment without bytes in the file may name any offset") {
    synthetic::Elf elf;
    elf.data.p_filesz = 0;
    for (const uint64_t offset :
         {uint64_t{0}, synthetic::elf_data_offset + synthetic::elf_data_bytes + 1, ~uint64_t{0}}) {
        elf.data.p_offset = offset;
        const GuestMemory memory = ram(16_MiB);
        REQUIRE(load(memory, elf.file()));
        CHECK(all_are(memory, synthetic::elf_data_start, synthetic::elf_data_memory_bytes, std::byte{0}));
    }
    elf.data.p_filesz = 1;
    CHECK(says(refusal(elf.file()), "truncated"));
}

TEST_CASE("a segment may be linked to end with the linear address space, but not to wrap") {
    synthetic::Elf elf;
    elf.data.p_vaddr = 0 - synthetic::elf_data_memory_bytes;
    CHECK(load(ram(16_MiB), elf.file()));
    elf.data.p_vaddr += 1;
    CHECK(says(refusal(elf.file()), "wraps"));
}

TEST_CASE("no amount of RAM holds a kernel that reaches into the hole") {
    synthetic::Elf elf;
    elf.data.p_memsz = 3_GiB - synthetic::elf_data_start + 1;
    elf.data.p_vaddr = 0;
    CHECK(says(refusal(elf.file(), 5_GiB), "device hole"));
    elf.data.p_paddr = 4_GiB;
    elf.data.p_memsz = elf.data.p_filesz;
    CHECK(says(refusal(elf.file(), 5_GiB), "device hole"));
}

TEST_CASE("segments below 1 MiB, overlapping or longer in the file than in memory are refused") {
    synthetic::Elf elf;
    elf.text.p_paddr = 1_MiB;
    elf.header.e_entry = 1_MiB;
    CHECK(load(ram(16_MiB), elf.file()));
    elf.text.p_paddr = 1_MiB - 1;
    CHECK(says(refusal(elf.file()), "below 1 MiB"));
    elf.text.p_paddr = synthetic::elf_data_start - synthetic::elf_text_bytes;
    elf.header.e_entry = elf.text.p_paddr;
    CHECK(load(ram(16_MiB), elf.file()));
    elf.text.p_paddr += 1;
    CHECK(says(refusal(elf.file()), "overlap"));
    elf = {};
    elf.data.p_memsz = elf.data.p_filesz - 1;
    CHECK(says(refusal(elf.file()), "longer in the file"));
    elf.text.p_type = PT_NOTE;
    elf.data.p_type = PT_NOTE;
    CHECK(says(refusal(elf.file()), "nothing to load"));
}

TEST_CASE("ELF files of other kinds and machines are named") {
    synthetic::Elf elf;
    elf.header.e_machine = EM_AARCH64;
    CHECK(says(refusal(elf.file()), "64-bit ARM"));
    elf = {};
    elf.header.e_ident[EI_CLASS] = ELFCLASS32;
    CHECK(says(refusal(elf.file()), "32-bit ELF"));
    elf = {};
    elf.header.e_ident[EI_DATA] = ELFDATA2MSB;
    CHECK(says(refusal(elf.file()), "big-endian"));
    elf = {};
    elf.header.e_type = ET_REL;
    CHECK(says(refusal(elf.file()), "object file"));
    elf.header.e_type = ET_CORE;
    CHECK(says(refusal(elf.file()), "core dump"));
    elf.header.e_type = 77;
    CHECK(says(refusal(elf.file()), "unknown type 77"));
    elf = {};
    CHECK(says(refusal(first_of(elf.file(), 4)), "ends within its header"));
    CHECK(says(refusal(first_of(elf.file(), 63)), "ends within its header"));
    CHECK(says(refusal(first_of(elf.file(), 64)), "truncated"));
}

TEST_CASE("a bzImage is loaded at its preferred address and entered at its 64-bit entry") {
    const GuestMemory memory = ram(16_MiB);
    const auto kernel = load(memory, synthetic::BzImage().file());
    REQUIRE(kernel);
    CHECK(kernel->format == LoadedKernel::Format::bz_image);
    CHECK(kernel->entry.value == synthetic::bz_start + 0x200);
    CHECK(kernel->occupied.start().value == synthetic::bz_start);
    CHECK(kernel->occupied.bytes() == synthetic::bz_init_size);
    CHECK(kernel->command_line_limit == 2047);
    CHECK(kernel->header.version == 0x20f);
    CHECK(all_are(memory, synthetic::bz_start, synthetic::bz_code_bytes, std::byte{0x90}));
    CHECK(all_are(memory, synthetic::bz_start + synthetic::bz_code_bytes, 16, std::byte{0}));
}

TEST_CASE("only what the setup header says is header gets copied") {
    synthetic::BzImage image;
    image.header.kernel_info_offset = 0x1234;
    auto kernel = load(ram(16_MiB), image.file());
    REQUIRE(kernel);
    CHECK(kernel->header.kernel_info_offset == 0x1234);
    CHECK(std::ranges::all_of(kernel->header.later_fields, [](std::byte b) { return b == std::byte{0}; }));
    image.header.jump = 0x66eb; // up to kernel_info_offset, exclusive
    kernel = load(ram(16_MiB), image.file());
    REQUIRE(kernel);
    CHECK(kernel->header.kernel_info_offset == 0);
    image.header.jump = 0x7feb; // the longest, with fields of later versions
    kernel = load(ram(16_MiB), image.file());
    REQUIRE(kernel);
    constexpr size_t later = 0x202 + 0x7f - setup_header_offset - offsetof(SetupHeader, later_fields);
    CHECK(kernel->header.later_fields.at(later - 1) == std::byte{0xee});
    CHECK(kernel->header.later_fields.at(later) == std::byte{0});
    image.header.jump = 0x62eb; // up to init_size, inclusive
    CHECK(load(ram(16_MiB), image.file()));
    image.header.jump = 0x61eb;
    CHECK(says(refusal(image.file()), "setup header of only"));
}

TEST_CASE("a setup header without a short jump forward is as long as its version says") {
    synthetic::BzImage image;
    image.header.kernel_info_offset = 0x1234;
    for (const uint16_t jump : std::array<uint16_t, 4>{0x0000, 0x61e9, 0x80eb, 0xffeb}) {
        image.header.jump = jump;
        image.header.version = 0x20f;
        auto kernel = load(ram(16_MiB), image.file());
        REQUIRE(kernel);
        CHECK(kernel->header.kernel_info_offset == 0x1234);
        CHECK(kernel->header.later_fields.front() == std::byte{0});
        image.header.version = 0x20e;
        kernel = load(ram(16_MiB), image.file());
        REQUIRE(kernel);
        CHECK(kernel->header.kernel_info_offset == 0);
    }
}

TEST_CASE("setup_sects says where the code of a bzImage starts") {
    synthetic::BzImage image;
    image.header.setup_sects = 9;
    image.setup_bytes = size_t{10} * 512;
    const GuestMemory memory = ram(16_MiB);
    REQUIRE(load(memory, image.file()));
    CHECK(all_are(memory, synthetic::bz_start, synthetic::bz_code_bytes, std::byte{0x90}));
    image.header.setup_sects = 255;
    CHECK(says(refusal(image.file()), "truncated"));
}

TEST_CASE("a bzImage may end within its last paragraph but not before") {
    synthetic::BzImage image;
    image.code_bytes = synthetic::bz_code_bytes - 15;
    const GuestMemory memory = ram(16_MiB);
    CHECK(load(memory, image.file()));
    CHECK(all_are(memory, synthetic::bz_start, image.code_bytes, std::byte{0x90}));
    CHECK(all_are(memory, synthetic::bz_start + image.code_bytes, 16, std::byte{0}));
    image.code_bytes -= 1;
    CHECK(says(refusal(image.file()), "truncated: the file has 6640 bytes of at least 6641"));
    image.code_bytes = synthetic::bz_code_bytes + 1;
    CHECK(load(memory, image.file()));
    CHECK(all_are(memory, synthetic::bz_start, image.code_bytes, std::byte{0x90}));
    image.header.syssize = 1;
    CHECK(load(memory, image.file()));
    image.header.syssize = 0xffffffff;
    CHECK(says(refusal(image.file()), "truncated"));
    image.header.syssize = 0;
    image.code_bytes = 0x201;
    CHECK(load(ram(16_MiB), image.file()));
    image.code_bytes = 0x200;
    CHECK(says(refusal(image.file()), "64-bit entry"));
    CHECK(says(refusal(first_of(image.file(), 0x206)), "truncated"));
    CHECK(says(refusal(first_of(image.file(), 0x250)), "truncated"));
}

TEST_CASE("init_size may end with RAM but not one byte past it") {
    synthetic::BzImage image;
    image.header.init_size = static_cast<uint32_t>(16_MiB - synthetic::bz_start);
    CHECK(load(ram(16_MiB), image.file()));
    image.header.init_size = image.header.init_size + 1;
    CHECK(says(refusal(image.file()), "needs at least 17 MiB of RAM, the guest has 16 MiB"));
    image.header.init_size = 0xffffffff;
    CHECK(says(refusal(image.file()), "device hole"));
}

TEST_CASE("a bzImage occupies its file where init_size is smaller or not told") {
    synthetic::BzImage image;
    for (const size_t init_size : {size_t{0}, synthetic::bz_code_bytes - 1, synthetic::bz_code_bytes}) {
        image.header.init_size = static_cast<uint32_t>(init_size);
        const auto kernel = load(ram(16_MiB), image.file());
        REQUIRE(kernel);
        CHECK(kernel->occupied.bytes() == synthetic::bz_code_bytes);
    }
    image.header.pref_address = 16_MiB - synthetic::bz_code_bytes;
    image.header.relocatable_kernel = 0;
    CHECK(load(ram(16_MiB), image.file()));
    image.code_bytes += 1;
    CHECK(says(refusal(image.file()), "needs at least 17 MiB of RAM, the guest has 16 MiB"));
}

TEST_CASE("a preferred address must be where kernels may be and is aligned when the kernel can move") {
    synthetic::BzImage image;
    const auto start_of = [&image] {
        const auto kernel = load(ram(16_MiB), image.file());
        REQUIRE(kernel);
        CHECK(kernel->entry.value == kernel->occupied.start().value + 0x200);
        CHECK(kernel->header.code32_start == kernel->occupied.start().value);
        return kernel->occupied.start().value;
    };
    image.header.pref_address = 3_GiB;
    CHECK(says(refusal(image.file(), 4_GiB), "wants to be loaded"));
    image.header.pref_address = ~0ULL;
    CHECK(says(refusal(image.file()), "wants to be loaded"));
    for (const uint64_t low : {uint64_t{0}, uint64_t{1}, uint64_t{1_MiB - 1}, uint64_t{1_MiB}}) {
        image.header.pref_address = low; // 0: none
        CHECK(start_of() == 2_MiB);
    }
    image.header.pref_address = 1_MiB + 1;
    image.header.kernel_alignment = 16;
    CHECK(start_of() == 1_MiB + 16);
    image.header.kernel_alignment = 0; // none
    CHECK(start_of() == 1_MiB + 1);
    image.header.kernel_alignment = 3;
    CHECK(says(refusal(image.file()), "power of two"));
    image.header.kernel_alignment = 1U << 31;
    CHECK(says(refusal(image.file()), "RAM"));

    image.header.relocatable_kernel = 0; // the alignment is of no account
    CHECK(start_of() == 1_MiB + 1);
    image.header.pref_address = 0;
    CHECK(start_of() == 1_MiB);
    image.header.pref_address = 1_MiB - 1;
    CHECK(says(refusal(image.file()), "wants to be loaded"));
}

TEST_CASE("a bzImage may leave out the limit of its command line, and take an initrd wherever RAM is") {
    synthetic::BzImage image;
    image.header.cmdline_size = 0;
    image.header.initrd_addr_max = 0x37ffffff;
    auto kernel = load(ram(16_MiB), image.file());
    REQUIRE(kernel);
    CHECK(kernel->command_line_limit == 255);
    CHECK(kernel->initrd_addr_max == 0x37ffffff);
    image.header.cmdline_size = 1;
    image.header.xloadflags = xloadflag_kernel_64 | xloadflag_above_4g;
    kernel = load(ram(16_MiB), image.file());
    REQUIRE(kernel);
    CHECK(kernel->command_line_limit == 1);
    CHECK(kernel->initrd_addr_max >= 3_GiB);
}

TEST_CASE("the header of Debian's memtest86+ 6.10 loads") {
    synthetic::BzImage image;
    image.header = {};
    image.header.setup_sects = 2;
    image.header.syssize = 0x22dc;
    image.header.boot_flag = boot_flag_value;
    image.header.jump = 0x66eb;
    image.header.header = setup_header_magic;
    image.header.version = 0x20c;
    image.header.loadflags = loadflag_loaded_high;
    image.header.code32_start = static_cast<uint32_t>(1_MiB);
    image.header.initrd_addr_max = 0xffffffff;
    image.header.kernel_alignment = 0x1000;
    image.header.min_alignment = 12;
    image.header.xloadflags = 9;
    image.header.cmdline_size = 255;
    image.header.pref_address = 1_MiB;
    image.header.init_size = 0x6acf8;
    image.header.handover_offset = 0x10;
    image.setup_bytes = size_t{3} * 512;
    image.code_bytes = 144312 - image.setup_bytes;
    const GuestMemory memory = ram(16_MiB);
    const auto kernel = load(memory, image.file());
    REQUIRE(kernel);
    CHECK(kernel->entry.value == 1_MiB + 0x200);
    CHECK(kernel->occupied.end() == 1_MiB + 0x6acf8);
    CHECK(all_are(memory, 1_MiB, image.code_bytes, std::byte{0x90}));
}

TEST_CASE("bzImages that cannot be entered in 64-bit mode are named") {
    synthetic::BzImage image;
    image.header.version = 0x20b;
    CHECK(says(refusal(image.file()), "version 2.11 of the boot protocol"));
    image.header.version = 0x20c;
    CHECK(load(ram(16_MiB), image.file()));
    image.header.xloadflags = 0;
    CHECK(says(refusal(image.file()), "32-bit kernel"));
    image = {};
    image.header.loadflags = 0;
    CHECK(says(refusal(image.file()), "zImage"));
    image = {};
    image.header.boot_flag = 0;
    CHECK(says(refusal(image.file()), "no boot flag"));
}

TEST_CASE("files of other kinds are named") {
    CHECK(says(refusal({}), "the file is empty"));
    CHECK(says(refusal(bytes_of("x")), "is not a kernel image"));
    CHECK(says(refusal(synthetic::Bytes(4096)), "is not a kernel image"));
    CHECK(says(refusal(bytes_of("\x1f\x8b\x08"sv)), "gzip"));
    CHECK(says(refusal(bytes_of("070701000"sv)), "--initrd"));
    auto arm = synthetic::Bytes(4096);
    patch(arm, 0x38, std::array{'A', 'R', 'M', 'd'});
    CHECK(says(refusal(arm), "64-bit ARM"));
    CHECK(says(refusal(bytes_of("MZ and more"sv)), "EFI program"));
}

TEST_CASE("a kernel loads by its path, and an error names it") {
    const GuestMemory memory = ram(16_MiB);
    const Fd file = synthetic::file_of(synthetic::Elf().file());
    CHECK(load_kernel(memory, synthetic::path_of(file).c_str()));
    const auto directory = load_kernel(memory, "/");
    REQUIRE_FALSE(directory);
    CHECK(says(directory.error().message(), "load kernel /: is a directory"));
    CHECK(directory.error().blame() == Blame::usage);
    const auto missing = load_kernel(memory, "/nonexistent/vmlinux");
    REQUIRE_FALSE(missing);
    CHECK(missing.error().blame() == Blame::usage);
    CHECK(says(missing.error().message(), "No such file"));
    CHECK(says(load_kernel(memory, "/dev/null").error().message(), "not a regular file"));
}

TEST_CASE("a file that shrinks while it is read is an error") {
    const Fd descriptor = synthetic::file_of(synthetic::Elf().file());
    const auto file = ImageFile::open(synthetic::path_of(descriptor).c_str());
    REQUIRE(file);
    REQUIRE(ftruncate(descriptor.get(), synthetic::elf_data_offset) == 0);
    const auto kernel = load_kernel(ram(16_MiB), *file);
    REQUIRE_FALSE(kernel);
    CHECK(says(kernel.error().message(), "more are missing"));
}

TEST_CASE("locked memory refuses a kernel") {
    struct RefuseAll : WriteGate {
        bool may_write(const GuestRange&) const override { return false; }
    };
    const RefuseAll gate;
    GuestMemory memory = ram(16_MiB);
    memory.set_write_gate(&gate);
    const auto kernel = load(memory, synthetic::Elf().file());
    REQUIRE_FALSE(kernel);
    CHECK(kernel.error().blame() == Blame::host);
    CHECK(says(kernel.error().message(), "locked"));
}

} // namespace
} // namespace casemate
