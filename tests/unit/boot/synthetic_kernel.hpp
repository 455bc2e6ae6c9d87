// SPDX-License-Identifier: Apache-2.0
// Synthetic kernels: the smallest vmlinux and bzImage files that load, for tests and fuzz targets to damage.
#pragma once

#include "boot/boot_params.hpp"
#include "boot/image_file.hpp"

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <elf.h>
#include <span>
#include <string>
#include <sys/mman.h>
#include <unistd.h>
#include <vector>

namespace casemate::synthetic {

using Bytes = std::vector<std::byte>;

// A file without a name in any directory.
inline Fd file_of(std::span<const std::byte> bytes) {
    Fd fd(memfd_create("synthetic", MFD_CLOEXEC));
    if (ftruncate(fd.get(), 0) != 0 ||
        pwrite(fd.get(), bytes.data(), bytes.size(), 0) != static_cast<ssize_t>(bytes.size()))
        return Fd();
    return fd;
}
inline std::string path_of(const Fd& fd) {
    return "/proc/self/fd/" + std::to_string(fd.get());
}

template <typename T>
void patch(Bytes& file, size_t offset, const T& value) {
    std::memcpy(&file.at(offset + sizeof(T) - 1) - (sizeof(T) - 1), &value, sizeof(T));
}

constexpr uint64_t elf_start = 0x200000;
constexpr size_t elf_text_offset = 0x1000;
constexpr size_t elf_text_bytes = 0x800;
constexpr size_t elf_data_offset = elf_text_offset + elf_text_bytes;
constexpr size_t elf_data_bytes = 0x100;
constexpr uint64_t elf_data_start = elf_start + 0x1000;
constexpr uint64_t elf_data_memory_bytes = 0x3000;
constexpr uint64_t elf_end = elf_data_start + elf_data_memory_bytes;
constexpr uint64_t elf_linear_base = 0xffffffff80000000;

struct Elf {
    Elf64_Ehdr header{};
    Elf64_Phdr text{};
    Elf64_Phdr data{};

    Elf() {
        std::memcpy(header.e_ident, ELFMAG, SELFMAG);
        header.e_ident[EI_CLASS] = ELFCLASS64;
        header.e_ident[EI_DATA] = ELFDATA2LSB;
        header.e_ident[EI_VERSION] = EV_CURRENT;
        header.e_type = ET_EXEC;
        header.e_machine = EM_X86_64;
        header.e_version = EV_CURRENT;
        header.e_entry = elf_start + 0x100;
        header.e_phoff = sizeof(header);
        header.e_ehsize = sizeof(header);
        header.e_phentsize = sizeof(Elf64_Phdr);
        header.e_phnum = 2;
        text = {.p_type = PT_LOAD,
                .p_flags = PF_R | PF_X,
                .p_offset = elf_text_offset,
                .p_vaddr = elf_linear_base + elf_start,
                .p_paddr = elf_start,
                .p_filesz = elf_text_bytes,
                .p_memsz = elf_text_bytes,
                .p_align = 0x1000};
        data = {.p_type = PT_LOAD,
                .p_flags = PF_R | PF_W,
                .p_offset = elf_data_offset,
                .p_vaddr = elf_linear_base + elf_data_start,
                .p_paddr = elf_data_start,
                .p_filesz = elf_data_bytes,
                .p_memsz = elf_data_memory_bytes,
                .p_align = 0x1000};
    }
    // Text is all 0x90, data all 0xda.
    Bytes file() const {
        Bytes bytes(elf_data_offset + elf_data_bytes, std::byte{0xda});
        std::fill_n(bytes.begin(), elf_data_offset, std::byte{0x90});
        patch(bytes, 0, header);
        patch(bytes, sizeof(header), text);
        patch(bytes, sizeof(header) + sizeof(text), data);
        return bytes;
    }
};

constexpr uint64_t bz_start = 0x400000;
constexpr size_t bz_code_bytes = 0x1000;
constexpr size_t bz_setup_bytes = size_t{5} * 512;
constexpr uint32_t bz_init_size = 0x8000;

struct BzImage {
    SetupHeader header{};
    size_t setup_bytes = bz_setup_bytes;
    size_t code_bytes = bz_code_bytes;

    BzImage() {
        header.setup_sects = 0; // means 4
        header.syssize = static_cast<uint32_t>(bz_code_bytes / 16);
        header.boot_flag = boot_flag_value;
        header.jump = 0x6aeb; // the header ends at 0x26c
        header.header = setup_header_magic;
        header.version = 0x20f;
        header.loadflags = loadflag_loaded_high;
        header.initrd_addr_max = 0x7fffffff;
        header.kernel_alignment = 0x200000;
        header.relocatable_kernel = 1;
        header.xloadflags = xloadflag_kernel_64;
        header.cmdline_size = 2047;
        header.pref_address = bz_start;
        header.init_size = bz_init_size;
    }
    // What surrounds the header is all 0xee, code all 0x90.
    Bytes file() const {
        Bytes bytes(setup_bytes + code_bytes, std::byte{0x90});
        std::fill_n(bytes.begin(), setup_bytes, std::byte{0xee});
        const auto known = std::as_bytes(std::span(&header, 1)).first(offsetof(SetupHeader, later_fields));
        std::memcpy(&bytes.at(setup_header_offset), known.data(), known.size());
        return bytes;
    }
};

} // namespace casemate::synthetic
