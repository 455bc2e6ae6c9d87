// SPDX-License-Identifier: Apache-2.0
#include "devices/virtio/disk_image.hpp"

#include "base/file_kind.hpp"
#include "base/units.hpp"
#include "devices/virtio/device_limits.hpp"

#include <algorithm>
#include <array>
#include <bit>
#include <fcntl.h>
#include <fmt/format.h>
#include <linux/falloc.h>
#include <linux/fs.h>
#include <linux/magic.h>
#include <span>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/vfs.h>
#include <unistd.h>

namespace casemate::virtio {
namespace {

constexpr uint64_t sector_bytes = 512;
constexpr uint32_t file_block_bytes = 4096;

Result<Fd> open_image(const std::string& path, bool read_only) {
    const std::string tried = fmt::format("open disk image {}", path);
    // Asked before opening, because opening a FIFO or a terminal has effects.
    struct stat status{};
    if (stat(path.c_str(), &status) != 0)
        return fail(Error::system(tried, errno).blame(Blame::usage));
    if (!S_ISREG(status.st_mode) && !S_ISBLK(status.st_mode))
        return fail(Error::usage(tried + ": neither a regular file nor a block device"));
    // On a block device O_EXCL without O_CREAT refuses one that is mounted or otherwise claimed: open(2).
    const int exclusive = S_ISBLK(status.st_mode) && !read_only ? O_EXCL : 0;
    auto file = open_file(path.c_str(), (read_only ? O_RDONLY : O_RDWR) | exclusive);
    // A device that was set read-only may open all the same, and then refuses each write.
    int device_read_only = 0;
    if (file && !read_only && S_ISBLK(status.st_mode) &&
        ioctl(file->get(), BLKROGET, &device_read_only) == 0 && device_read_only != 0)
        file = fail(Error::system(tried, EROFS));
    if (!file) {
        const int number = file.error().number();
        Error error = Error::system(tried, number).blame(Blame::usage);
        if (number == EBUSY)
            return fail(
                std::move(error).hint("the host uses the device: unmount it, or attach it read-only"));
        if (!read_only && (number == EACCES || number == EROFS || number == EPERM))
            return fail(std::move(error).hint("make it writable, or attach it read-only"));
        return fail(std::move(error));
    }
    return file;
}

// An open-file-description lock on every byte: dropped with the descriptor, even by a kill.
Result<void> lock_image(int descriptor, const std::string& path, bool read_only) {
    struct flock lock{};
    lock.l_type = read_only ? F_RDLCK : F_WRLCK;
    lock.l_whence = SEEK_SET;
    if (fcntl(descriptor, F_OFD_SETLK, &lock) == 0)
        return {};
    const int number = errno;
    Error error = Error::system(fmt::format("lock disk image {}", path), number);
    if (number == EAGAIN || number == EACCES)
        return fail(std::move(error)
                        .blame(Blame::usage)
                        .hint("another process uses it; stop that one, or attach it read-only in both"));
    return fail(std::move(error));
}

Result<void> measure_device(DiskImage& image, dev_t device) {
    const int descriptor = image.file.get();
    DiskProperties& properties = image.properties;
    int logical = 0;
    if (ioctl(descriptor, BLKGETSIZE64, &properties.size) != 0)
        return fail(Error::system("BLKGETSIZE64", errno));
    if (ioctl(descriptor, BLKSSZGET, &logical) != 0)
        return fail(Error::system("BLKSSZGET", errno));
    properties.logical_block = static_cast<uint32_t>(logical);

    // The rest is for speed: what the host does not tell is left out. BLKALIGNOFF gives -1 for a device whose
    // parts disagree.
    unsigned physical = 0;
    unsigned least = 0;
    unsigned best = 0;
    int first = 0;
    if (ioctl(descriptor, BLKPBSZGET, &physical) == 0)
        properties.physical_block = std::max(physical, properties.logical_block);
    if (ioctl(descriptor, BLKALIGNOFF, &first) == 0 && first > 0)
        properties.first_physical_block = static_cast<uint32_t>(first) % properties.physical_block;
    if (ioctl(descriptor, BLKIOMIN, &least) == 0)
        properties.least_io = least;
    if (ioctl(descriptor, BLKIOOPT, &best) == 0)
        properties.best_io = best;

    const auto limits = read_device_limits(fmt::format("/sys/dev/block/{}:{}", major(device), minor(device)));
    if (!limits || properties.read_only)
        return {};
    properties.most_discard = limits->discard_max;
    properties.discard_granularity = std::max(limits->discard_granularity, properties.logical_block);
    properties.most_write_zeroes = limits->write_zeroes_max;
    image.first_granule = limits->discard_alignment % properties.discard_granularity;
    return {};
}

void measure_file(DiskImage& image, const struct stat& status) {
    const int descriptor = image.file.get();
    DiskProperties& properties = image.properties;
    properties.size = align_down(static_cast<uint64_t>(status.st_size), sector_bytes);
    properties.logical_block = sector_bytes;
    properties.physical_block = status.st_blksize >= file_block_bytes ? file_block_bytes : sector_bytes;
    struct statfs system{};
    // These have no reads or writes that do not block, so io_uring would give each to a thread.
    image.in_memory =
        fstatfs(descriptor, &system) == 0 && (system.f_type == TMPFS_MAGIC || system.f_type == RAMFS_MAGIC);
    if (properties.read_only)
        return;
    // Behind the end a hole changes nothing, and tells whether the file system can.
    constexpr int keep = FALLOC_FL_KEEP_SIZE;
    image.can_punch_holes =
        fallocate(descriptor, keep | FALLOC_FL_PUNCH_HOLE, status.st_size, file_block_bytes) == 0;
    if (image.can_punch_holes) {
        properties.most_discard = properties.size;
        properties.discard_granularity = properties.physical_block;
    } else {
        // Zeroes behind the end would take space, so this is asked only of files to which it matters: a hole
        // in a file reads as zeroes, and where there are neither, zeroes can be written.
        image.can_zero_ranges =
            fallocate(descriptor, keep | FALLOC_FL_ZERO_RANGE, status.st_size, file_block_bytes) == 0;
    }
    if (image.can_punch_holes || image.can_zero_ranges)
        properties.most_write_zeroes = properties.size;
}

// Every disk is raw, and what a guest wrote to its first sector must not keep it from its next start: so this
// is said, and no reason to refuse.
void tell_format(const DiskImage& image, const std::string& path, const Log& log) {
    std::array<std::byte, file_kind_start_bytes> start;
    const ssize_t got = pread(image.file.get(), start.data(), start.size(), 0);
    const auto kind = file_kind(std::span(start).first(static_cast<size_t>(std::max<ssize_t>(got, 0))));
    if (!kind)
        return;
    if (kind->family == FileKind::Family::disk_format)
        log.host(
            fmt::format("disk image {} begins as {}, and the guest gets its bytes as they are; if you mean "
                        "the disk in it: qemu-img convert -O raw {} RAW",
                        path, kind->what, path));
    else if (kind->family == FileKind::Family::compressed)
        log.host(
            fmt::format("disk image {} begins as {}, and the guest gets its bytes as they are; if you mean "
                        "what is in it, unpack it first",
                        path, kind->what));
}

} // namespace

Result<DiskImage> DiskImage::open(const std::string& path, bool read_only, const Log& log) {
    DiskImage image;
    image.file = TRY(open_image(path, read_only));
    image.properties.read_only = read_only;
    TRY(lock_image(image.file.get(), path, read_only));
    const std::string tried = fmt::format("measure disk image {}", path);
    struct stat status{};
    if (fstat(image.file.get(), &status) != 0)
        return fail(Error::system(tried, errno));
    image.is_device = S_ISBLK(status.st_mode);
    if (image.is_device) {
        if (auto done = measure_device(image, status.st_rdev); !done)
            return fail(Error(tried).because_of(std::move(done).error()));
    } else {
        measure_file(image, status);
    }
    const uint64_t size = image.properties.size;
    if (size == 0)
        return fail(Error::usage(tried + ": smaller than one sector")
                        .hint("give it a size first, for example: truncate -s 1G FILE"));
    const auto file_bytes = static_cast<uint64_t>(status.st_size);
    if (!image.is_device && size != file_bytes)
        log.host(
            fmt::format("disk image {}: {} bytes are no whole number of 512-byte sectors: the guest does "
                        "not see the last {}; 'truncate -s %512' makes the last sector whole",
                        path, file_bytes, file_bytes - size));
    tell_format(image, path, log);
    return image;
}

// Writing behind the end of a truncated image would bring it back full of zeroes.
bool DiskImage::shrunk() const {
    struct stat status{};
    return !is_device &&
           (fstat(file.get(), &status) != 0 || static_cast<uint64_t>(status.st_size) < properties.size);
}

} // namespace casemate::virtio
