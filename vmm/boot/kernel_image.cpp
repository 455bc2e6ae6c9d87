// SPDX-License-Identifier: Apache-2.0
#include "boot/kernel_image.hpp"

#include "boot/bz_image.hpp"
#include "boot/elf_image.hpp"

#include <fmt/core.h>

namespace casemate {

namespace {

using Family = FileKind::Family;

// What users hand in by mistake.
Error wrong_kind(const std::optional<FileKind>& kind) {
    Error error = Error::usage(kind ? fmt::format("is {}", kind->what) : "is not a kernel image");
    if (!kind)
        return std::move(error).hint("Pass a vmlinux (ELF) or a bzImage.");
    switch (kind->family) {
    case Family::compressed:
        return std::move(error).hint("Unpack it, or pass the bzImage (often /boot/vmlinuz-*) itself.");
    case Family::foreign_kernel:
        return std::move(error).hint("Pass a kernel built for x86-64.");
    case Family::cpio:
    case Family::old_cpio:
        return std::move(error).hint("Pass it as --initrd.");
    case Family::archive:
    case Family::iso:
        return std::move(error).hint("Pass the kernel inside it.");
    case Family::disk_format:
        return std::move(error).hint("Pass the kernel inside it, and a raw image as --disk.");
    default:
        return std::move(error).hint("Pass a vmlinux (ELF) or a bzImage.");
    }
}

} // namespace

Result<LoadedKernel> load_kernel(const GuestMemory& memory, const ImageFile& file) {
    const auto kind = TRY(kind_of(file));
    if (kind && kind->family == Family::elf)
        return load_elf_image(memory, file);
    if (kind && kind->family == Family::bz_image)
        return load_bz_image(memory, file);
    return fail(wrong_kind(kind));
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
