// SPDX-License-Identifier: Apache-2.0
// Kernel images: recognises vmlinux and bzImage files and puts them into guest RAM.
#pragma once

#include "base/error.hpp"
#include "boot/boot_params.hpp"
#include "boot/image_file.hpp"
#include "memory/guest_memory.hpp"

#include <cstdint>

namespace casemate {

struct LoadedKernel {
    enum class Format { elf, bz_image };

    Format format;
    // 64-bit code, to be entered as entry_state.hpp says.
    GuestPhysical entry;
    // All that the kernel uses before it reads the memory map: the file, its bss, the decompressor's buffer.
    GuestRange occupied;
    // Of the file for a bzImage; made up for a vmlinux, which has none. For the zero page.
    SetupHeader header;
    // The longest command line in bytes, without the NUL.
    uint32_t command_line_limit;
    // The highest address that a byte of the initrd may have.
    uint64_t initrd_addr_max;
};

// Loads a 64-bit x86 kernel, ELF or bzImage. Errors in the file are the user's and say what the file is.
Result<LoadedKernel> load_kernel(const GuestMemory& memory, const char* path);
// The same without the path in the error.
Result<LoadedKernel> load_kernel(const GuestMemory& memory, const ImageFile& file);

} // namespace casemate
