// SPDX-License-Identifier: Apache-2.0
#include "boot/kernel_image.hpp"

#include "boot/bz_image.hpp"
#include "boot/elf_image.hpp"

#include <algorithm>
#include <array>
#include <optional>
#include <string_view>

namespace casemate {

namespace {

using namespace std::literals;

struct Signature {
    size_t offset;
    std::string_view bytes;
    const char* what;
    const char* hint;
};

constexpr const char* unpack_hint = "Unpack it, or pass the bzImage (often /boot/vmlinuz-*) itself.";
constexpr const char* other_machine_hint = "Pass a kernel built for x86-64.";
constexpr const char* initrd_hint = "Pass it as --initrd.";

// What users hand in by mistake. linux v6.12 Documentation/arch/arm64/booting.rst,
// riscv/boot-image-header.rst for the 0x38 ones.
constexpr std::array signatures{
    Signature{0, "\x1f\x8b"sv, "is a gzip file", unpack_hint},
    Signature{0, "\xfd\x37zXZ\0"sv, "is an xz file", unpack_hint},
    Signature{0, "\x28\xb5\x2f\xfd"sv, "is a zstd file", unpack_hint},
    Signature{0, "BZh"sv, "is a bzip2 file", unpack_hint},
    Signature{0, "\x04\x22\x4d\x18"sv, "is an lz4 file", unpack_hint},
    Signature{0, "\x02\x21\x4c\x18"sv, "is an lz4 file", unpack_hint},
    Signature{0, "070701"sv, "is a cpio archive", initrd_hint},
    Signature{0, "070702"sv, "is a cpio archive", initrd_hint},
    Signature{0x38, "ARMd"sv, "is a kernel for 64-bit ARM", other_machine_hint},
    Signature{0x38, "RSC\x05"sv, "is a kernel for RISC-V", other_machine_hint},
    Signature{0, "!<arch>\n"sv, "is an ar archive (a static library or a Debian package)",
              "Pass the kernel inside it."},
    Signature{0, "MZ"sv, "is an EFI program without a Linux setup header", "Pass a vmlinux or a bzImage."},
};

bool has_at(std::span<const std::byte> head, size_t offset, std::string_view bytes) {
    return offset <= head.size() && bytes.size() <= head.size() - offset &&
           std::ranges::equal(head.subspan(offset, bytes.size()), std::as_bytes(std::span(bytes)));
}

} // namespace

Result<LoadedKernel> load_kernel(const GuestMemory& memory, const ImageFile& file) {
    std::array<std::byte, 0x210> buffer;
    const std::span head = std::span(buffer).first(std::min<uint64_t>(buffer.size(), file.size()));
    TRY(file.read(0, head));
    if (has_at(head, 0,
               "\x7f"
               "ELF"sv))
        return load_elf_image(memory, file);
    if (has_at(head, 0x202, "HdrS"sv))
        return load_bz_image(memory, file);
    for (const Signature& signature : signatures)
        if (has_at(head, signature.offset, signature.bytes))
            return fail(Error::usage(signature.what).hint(signature.hint));
    return fail(Error::usage("is not a kernel image").hint("Pass a vmlinux (ELF) or a bzImage."));
}

Result<LoadedKernel> load_kernel(const GuestMemory& memory, const char* path) {
    const std::string tried = std::string("load kernel ") + path;
    const auto file = ImageFile::open(path);
    if (!file)
        return fail(wrap(tried, file.error()));
    auto kernel = load_kernel(memory, *file);
    if (!kernel)
        return fail(wrap(tried, std::move(kernel).error()));
    return kernel;
}

} // namespace casemate
