// SPDX-License-Identifier: Apache-2.0
// ImageFile: a kernel or initrd on disk, read piecewise or straight into guest RAM.
#pragma once

#include "base/error.hpp"
#include "base/fd.hpp"
#include "base/file_kind.hpp"
#include "memory/guest_memory.hpp"

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string_view>

namespace casemate {

// Errors leave the file's name to the caller, who wraps them in "load kernel <path>".
class ImageFile {
public:
    // Insists on a regular file with something in it. Never blocks on a FIFO.
    static Result<ImageFile> open(const char* path);
    // The same for a descriptor that is open already.
    static Result<ImageFile> adopt(Fd fd);

    // Taken once: a file that shrinks later is an error, one that grows is read up to here.
    uint64_t size() const { return m_size; }
    bool holds(uint64_t offset, uint64_t bytes) const { return offset <= m_size && bytes <= m_size - offset; }

    // Fills all of `destination`.
    Result<void> read(uint64_t offset, std::span<std::byte> destination) const;
    // Fills all of `where`, which must be RAM.
    Result<void> read_into(const GuestMemory& memory, GuestRange where, uint64_t offset) const;

private:
    ImageFile(Fd fd, uint64_t size)
        : m_fd(std::move(fd))
        , m_size(size) {}

    Fd m_fd;
    uint64_t m_size;
};

// What the file is, by its first bytes.
Result<std::optional<FileKind>> kind_of(const ImageFile& file);
// `error` as the reason why `tried` failed, blaming the same side.
Error wrap(std::string_view tried, Error error);
// "needs at least 96 MiB of RAM, the guest has 64 MiB", with what to do; `ram_end` is the lowest end of RAM
// that would do. Also when it asks for more than can lie below the hole.
Error too_little_ram(uint64_t ram_end, uint64_t ram_bytes);
// An access to guest RAM that the monitor had checked and that was refused all the same.
Error ram_refused(const GuestRange& range, GuestFault fault);

} // namespace casemate
