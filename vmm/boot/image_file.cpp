// SPDX-License-Identifier: Apache-2.0
#include "boot/image_file.hpp"

#include "memory/layout.hpp"

#include <algorithm>
#include <array>
#include <cerrno>
#include <fcntl.h>
#include <fmt/core.h>
#include <sys/stat.h>
#include <unistd.h>

namespace casemate {

Result<ImageFile> ImageFile::open(const char* path) {
    auto fd = open_file(path, O_RDONLY | O_NONBLOCK);
    if (!fd)
        return fail(std::move(fd).error().blame(Blame::usage));
    return adopt(std::move(*fd));
}

Result<ImageFile> ImageFile::adopt(Fd fd) {
    struct stat status{};
    if (fstat(fd.get(), &status) < 0)
        return fail(Error::system("fstat", errno));
    if (S_ISDIR(status.st_mode))
        return fail(Error::usage("is a directory").hint("Name the file in it."));
    if (!S_ISREG(status.st_mode))
        return fail(Error::usage("is not a regular file").hint("Copy it into one."));
    if (status.st_size <= 0)
        return fail(Error::usage("the file is empty"));
    return ImageFile(std::move(fd), static_cast<uint64_t>(status.st_size));
}

Result<void> ImageFile::read(uint64_t offset, std::span<std::byte> destination) const {
    while (!destination.empty()) {
        const ssize_t got =
            pread(m_fd.get(), destination.data(), destination.size(), static_cast<off_t>(offset));
        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0)
            return fail(Error::system(fmt::format("read {} bytes at {}", destination.size(), offset), errno));
        if (got == 0)
            return fail(Error::usage(
                fmt::format("the file ends at byte {}, {} more are missing", offset, destination.size())));
        destination = destination.subspan(static_cast<size_t>(got));
        offset += static_cast<uint64_t>(got);
    }
    return {};
}

Result<void> ImageFile::read_into(const GuestMemory& memory, GuestRange where, uint64_t offset) const {
    const auto transfer = memory.begin_transfer(std::span(&where, 1), GuestMemory::Direction::into_ram);
    if (!transfer)
        return fail(ram_refused(where, transfer.error()));
    for (const iovec& vector : transfer->vectors()) {
        TRY(read(offset, {static_cast<std::byte*>(vector.iov_base), vector.iov_len}));
        offset += vector.iov_len;
    }
    return {};
}

Result<std::optional<FileKind>> kind_of(const ImageFile& file) {
    std::array<std::byte, file_kind_start_bytes> start_buffer;
    const auto start = std::span(start_buffer).first(std::min<uint64_t>(start_buffer.size(), file.size()));
    TRY(file.read(0, start));
    std::array<std::byte, file_kind_volume_bytes> volume;
    if (!file.holds(file_kind_volume_offset, volume.size()))
        return file_kind(start);
    TRY(file.read(file_kind_volume_offset, volume));
    return file_kind(start, volume);
}

Error wrap(std::string_view tried, Error error) {
    const Blame blame = error.blame();
    return Error(tried, blame).because_of(std::move(error));
}

Error too_little_ram(uint64_t ram_end, uint64_t ram_bytes) {
    if (ram_end > layout::hole_start)
        return Error::usage(fmt::format("needs memory up to {}, but guest RAM has its device hole at {}",
                                        to_string(GuestPhysical{ram_end}),
                                        to_string(GuestPhysical{layout::hole_start})));
    const uint64_t needed = align_up(ram_end, 1_MiB);
    return Error::usage(fmt::format("needs at least {} of RAM, the guest has {}", format_bytes(needed),
                                    format_bytes(ram_bytes)))
        .hint(fmt::format("Give the guest at least --memory {}M.", needed / 1_MiB));
}

Error ram_refused(const GuestRange& range, GuestFault fault) {
    return Error(fmt::format("write guest RAM at {}, {} bytes: {}", to_string(range.start()), range.bytes(),
                             fault == GuestFault::locked ? "locked" : "not RAM"));
}

} // namespace casemate
