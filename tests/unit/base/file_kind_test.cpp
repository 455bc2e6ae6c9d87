// SPDX-License-Identifier: Apache-2.0
#include "base/file_kind.hpp"

#include <algorithm>
#include <doctest/doctest.h>
#include <string>
#include <string_view>

namespace casemate {
namespace {

using namespace std::literals;
using Family = FileKind::Family;

std::optional<FileKind> kind_of(std::string_view text) {
    return file_kind(std::as_bytes(std::span(text)));
}

struct Example {
    size_t offset;
    std::string_view bytes;
    Family family;
    std::string_view what;
};

TEST_CASE("files are known by their first bytes") {
    for (const auto& [offset, bytes, family, what] : {
             Example{0,
                     "\x7f"
                     "ELF"sv,
                     Family::elf, "ELF"},
             Example{0x202, "HdrS"sv, Family::bz_image, "bzImage"},
             Example{0x38, "ARMd"sv, Family::foreign_kernel, "64-bit ARM"},
             Example{0x38, "RSC\x05"sv, Family::foreign_kernel, "RISC-V"},
             Example{4, "zimg"sv, Family::foreign_kernel, "EFI"},
             Example{0, "\x27\x05\x19\x56"sv, Family::foreign_kernel, "U-Boot"},
             Example{0, "MZ"sv, Family::efi_program, "EFI program"},
             Example{0, "070701"sv, Family::cpio, "cpio"},
             Example{0, "070707"sv, Family::old_cpio, "old format"},
             Example{0, "\x1f\x8b"sv, Family::compressed, "gzip"},
             Example{0, "\xfd\x37zXZ\0"sv, Family::compressed, "xz"},
             Example{0, "\x28\xb5\x2f\xfd"sv, Family::compressed, "zstd"},
             Example{257, "ustar"sv, Family::archive, "tar"},
             Example{0, "!<arch>\n"sv, Family::archive, "Debian package"},
             Example{0, "QFI\xfb"sv, Family::disk_format, "qcow2"},
             Example{0, "KDMV"sv, Family::disk_format, "VMDK"},
             Example{0, "vhdxfile"sv, Family::disk_format, "VHDX"},
             Example{0x40, "\x7f\x10\xda\xbe"sv, Family::disk_format, "VDI"},
         }) {
        CAPTURE(what);
        std::string file(0x210, '\0');
        file.replace(offset, bytes.size(), bytes);
        const auto kind = kind_of(file);
        REQUIRE(kind);
        CHECK(kind->family == family);
        CHECK(std::string_view(kind->what).find(what) != std::string_view::npos);
        // Whole, and with its last byte missing.
        CHECK(kind_of(file.substr(0, offset + bytes.size())));
        const auto cut = kind_of(file.substr(0, offset + bytes.size() - 1));
        CHECK((!cut || cut->what != kind->what));
    }
}

TEST_CASE("text has lines of characters, an ISO image its volume, and the rest nothing") {
    CHECK(kind_of("not a kernel\n")->family == Family::text);
    CHECK(kind_of("ffffffff81000000 T _text\r\n")->family == Family::text);
    CHECK_FALSE(kind_of("ZZZZ"));
    CHECK_FALSE(kind_of("line\n\x80"));
    CHECK_FALSE(kind_of(""));
    CHECK_FALSE(kind_of(std::string(0x210, '\0')));
    const std::string zeroes(0x210, '\0');
    constexpr std::string_view volume = "\x01"
                                        "CD001"sv;
    const auto iso = file_kind(std::as_bytes(std::span(zeroes)), std::as_bytes(std::span(volume)));
    REQUIRE(iso);
    CHECK(iso->family == Family::iso);
    CHECK_FALSE(file_kind({}, std::as_bytes(std::span(volume)).first(5)));
}

} // namespace
} // namespace casemate
