// SPDX-License-Identifier: Apache-2.0
#include "base/file_kind.hpp"

#include <algorithm>
#include <array>
#include <string_view>

namespace casemate {
namespace {

using namespace std::literals;
using Family = FileKind::Family;

struct Signature {
    size_t offset;
    std::string_view bytes;
    FileKind kind;
};

// The first that fits counts. linux v6.12 Documentation/arch/arm64/booting.rst and
// riscv/boot-image-header.rst for 0x38, arch/arm/boot/compressed/head.S for 0x24,
// drivers/firmware/efi/libstub/zboot-header.S for "zimg", init/initramfs.c and lib/decompress.c for archives
// and compression; qemu docs/interop/qcow2.txt; VMDK, VHDX and VDI by their specifications.
constexpr std::array signatures{
    Signature{0,
              "\x7f"
              "ELF"sv,
              {Family::elf, "an ELF file"}},
    Signature{0x202, "HdrS"sv, {Family::bz_image, "an x86 kernel (bzImage)"}},
    Signature{0x38, "ARMd"sv, {Family::foreign_kernel, "a kernel for 64-bit ARM"}},
    Signature{0x38, "RSC\x05"sv, {Family::foreign_kernel, "a kernel for RISC-V"}},
    Signature{0x24, "\x18\x28\x6f\x01"sv, {Family::foreign_kernel, "a kernel for 32-bit ARM"}},
    Signature{4, "zimg"sv, {Family::foreign_kernel, "a compressed EFI kernel for another machine"}},
    Signature{0, "\x27\x05\x19\x56"sv, {Family::foreign_kernel, "an image for U-Boot"}},
    Signature{0, "\xd0\x0d\xfe\xed"sv, {Family::foreign_kernel, "a device tree or an image for U-Boot"}},
    Signature{0, "ANDROID!"sv, {Family::foreign_kernel, "an Android boot image"}},
    Signature{0, "MZ"sv, {Family::efi_program, "an EFI program without a Linux setup header"}},
    Signature{0, "070701"sv, {Family::cpio, "a cpio archive"}},
    Signature{0, "070702"sv, {Family::cpio, "a cpio archive"}},
    Signature{0, "070707"sv, {Family::old_cpio, "a cpio archive of the old format"}},
    Signature{0, "\xc7\x71"sv, {Family::old_cpio, "a cpio archive of the old binary format"}},
    Signature{0, "\x1f\x8b"sv, {Family::compressed, "a gzip file"}},
    Signature{0, "\xfd\x37zXZ\0"sv, {Family::compressed, "an xz file"}},
    Signature{0, "\x28\xb5\x2f\xfd"sv, {Family::compressed, "a zstd file"}},
    Signature{0, "BZh"sv, {Family::compressed, "a bzip2 file"}},
    Signature{0, "\x04\x22\x4d\x18"sv, {Family::compressed, "an lz4 file"}},
    Signature{0, "\x02\x21\x4c\x18"sv, {Family::compressed, "an lz4 file"}},
    Signature{0, "\x89LZO\0\r\n\x1a\n"sv, {Family::compressed, "an lzop file"}},
    Signature{0, "\x5d\0\0"sv, {Family::compressed, "an lzma file"}},
    Signature{0, "!<arch>\n"sv, {Family::archive, "an ar archive (a static library or a Debian package)"}},
    Signature{0, "\xed\xab\xee\xdb"sv, {Family::archive, "an RPM package"}},
    Signature{0, "PK\x03\x04"sv, {Family::archive, "a zip archive"}},
    Signature{0, "7z\xbc\xaf\x27\x1c"sv, {Family::archive, "a 7z archive"}},
    Signature{257, "ustar"sv, {Family::archive, "a tar archive"}},
    Signature{0, "QFI\xfb"sv, {Family::disk_format, "a qcow2 image"}},
    Signature{0, "QED\0"sv, {Family::disk_format, "a QED image"}},
    Signature{0, "KDMV"sv, {Family::disk_format, "a VMDK image"}},
    Signature{0, "COWD"sv, {Family::disk_format, "a VMDK image"}},
    Signature{0, "# Disk DescriptorFile"sv, {Family::disk_format, "the descriptor of a VMDK image"}},
    Signature{0, "vhdxfile"sv, {Family::disk_format, "a VHDX image"}},
    Signature{0, "conectix"sv, {Family::disk_format, "a VHD image"}},
    Signature{0x40, "\x7f\x10\xda\xbe"sv, {Family::disk_format, "a VDI image"}},
    Signature{0, "WithoutFreeSpace"sv, {Family::disk_format, "a Parallels image"}},
    Signature{0, "WithouFreSpacExt"sv, {Family::disk_format, "a Parallels image"}},
};

bool has_at(std::span<const std::byte> bytes, size_t offset, std::string_view wanted) {
    return offset <= bytes.size() && wanted.size() <= bytes.size() - offset &&
           std::ranges::equal(bytes.subspan(offset, wanted.size()), std::as_bytes(std::span(wanted)));
}

bool is_text(std::span<const std::byte> start) {
    const auto is_character = [](std::byte byte) {
        const auto c = std::to_integer<unsigned char>(byte);
        return (c >= 0x20 && c < 0x7f) || (c >= '\t' && c <= '\r');
    };
    return std::ranges::all_of(start, is_character) &&
           std::ranges::find(start, std::byte{'\n'}) != start.end();
}

} // namespace

std::optional<FileKind> file_kind(std::span<const std::byte> start, std::span<const std::byte> volume) {
    for (const Signature& signature : signatures)
        if (has_at(start, signature.offset, signature.bytes))
            return signature.kind;
    // ECMA-119, 8.1: the first volume descriptor is in sector 16.
    if (has_at(volume, 1, "CD001"))
        return FileKind{Family::iso, "an ISO 9660 image"};
    if (is_text(start))
        return FileKind{Family::text, "a text file"};
    return std::nullopt;
}

} // namespace casemate
