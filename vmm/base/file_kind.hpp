// SPDX-License-Identifier: Apache-2.0
// FileKind: what a file is by its first bytes, for messages to who gave the wrong one.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>

namespace casemate {

struct FileKind {
    enum class Family : uint8_t {
        elf,
        bz_image,       // an x86 kernel with a setup header
        foreign_kernel, // another machine's or another boot loader's
        efi_program,
        cpio,
        old_cpio, // which Linux takes for no initrd
        compressed,
        archive,
        disk_format, // a virtual disk that is not raw
        iso,
        text,
    };
    Family family;
    const char* what; // "a gzip file"
};

// How much of the start of a file it looks at, and where else, and how much there.
constexpr size_t file_kind_start_bytes = 0x210;
constexpr uint64_t file_kind_volume_offset = 0x8000;
constexpr size_t file_kind_volume_bytes = 6;

// `start` is the file's start and `volume` what is at file_kind_volume_offset, each as much as there is. Says
// nothing of what it does not know. Any bytes will do: no more than the look at them.
std::optional<FileKind> file_kind(std::span<const std::byte> start, std::span<const std::byte> volume = {});

} // namespace casemate
