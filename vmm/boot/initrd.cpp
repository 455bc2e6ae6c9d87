// SPDX-License-Identifier: Apache-2.0
#include "boot/initrd.hpp"

#include "boot/image_file.hpp"
#include "memory/layout.hpp"

#include <algorithm>
#include <fmt/core.h>

namespace casemate {

namespace {

Result<GuestRange> choose_place(const GuestMemory& memory, const LoadedKernel& kernel, uint64_t bytes) {
    const uint64_t low_ram_end = layout::ram_ranges(memory.size())[0].bytes;
    // Past this no amount of RAM helps. The boot page tables reach farther: to 4 GiB.
    const uint64_t ceiling = std::min(kernel.initrd_addr_max, layout::kernel.end() - 1) + 1;
    const uint64_t end = std::min(ceiling, low_ram_end);
    const uint64_t floor = layout::kernel.start.value;

    if (ceiling <= floor)
        return fail(Error::usage("the kernel takes no initrd: its initrd_addr_max is " +
                                 to_string(GuestPhysical{kernel.initrd_addr_max}))
                        .hint("Leave out --initrd."));
    if (bytes <= end) {
        const uint64_t start = align_down(end - bytes, page_bytes);
        if (start >= kernel.occupied.end())
            return GuestRange::of(GuestPhysical{start}, bytes);
    }
    // A kernel at the end of RAM leaves room in front.
    const uint64_t front_end = std::min(end, kernel.occupied.start().value);
    if (bytes <= front_end) {
        const uint64_t start = align_down(front_end - bytes, page_bytes);
        if (start >= floor)
            return GuestRange::of(GuestPhysical{start}, bytes);
    }

    const uint64_t first = align_up(kernel.occupied.end(), page_bytes);
    if (first >= ceiling || bytes > ceiling - first)
        return fail(Error::usage(fmt::format("does not fit: {} bytes, but the kernel takes an initrd only "
                                             "between {} and {}",
                                             bytes, to_string(GuestPhysical{first}),
                                             to_string(GuestPhysical{ceiling})))
                        .hint("Make it smaller, or put its contents on a --disk."));
    return fail(wrap(fmt::format("{} bytes behind a kernel that ends at {}", bytes,
                                 to_string(GuestPhysical{kernel.occupied.end()})),
                     too_little_ram(first + bytes, memory.size())));
}

// Whether Linux takes it is Linux's to say, and it takes much: archives in a row, images of file systems.
// Only what is surely something else is refused.
Result<void> refuse_other_kinds(const ImageFile& file) {
    using Family = FileKind::Family;
    const auto kind = TRY(kind_of(file));
    if (!kind || kind->family == Family::cpio || kind->family == Family::compressed)
        return {};
    Error error = Error::usage(fmt::format("is {}", kind->what));
    switch (kind->family) {
    case Family::bz_image:
    case Family::efi_program:
        return fail(std::move(error).hint("Pass it as --kernel."));
    case Family::elf:
        return fail(std::move(error).hint("Pass a kernel as --kernel, and a program inside a cpio archive."));
    case Family::old_cpio:
    case Family::archive:
        return fail(std::move(error).hint("Make it with cpio -o -H newc."));
    case Family::iso:
        return fail(std::move(error).hint("Pass it as --disk, and the initrd inside it as --initrd."));
    case Family::disk_format:
        return fail(std::move(error).hint("Pass a raw image as --disk."));
    default:
        return fail(std::move(error).hint("Pass a cpio archive, compressed or not."));
    }
}

Result<GuestRange> load(const GuestMemory& memory, const LoadedKernel& kernel, const char* path) {
    const ImageFile file = TRY(ImageFile::open(path));
    TRY(refuse_other_kinds(file));
    const GuestRange place = TRY(choose_place(memory, kernel, file.size()));
    TRY(file.read_into(memory, place, 0));
    return place;
}

} // namespace

Result<GuestRange> load_initrd(const GuestMemory& memory, const LoadedKernel& kernel, const char* path) {
    auto place = load(memory, kernel, path);
    if (!place)
        return fail(wrap(std::string("load initrd ") + path, std::move(place).error()));
    return place;
}

} // namespace casemate
