// SPDX-License-Identifier: Apache-2.0
#include "devices/virtio/disk_file.hpp"

#include "base/units.hpp"

#include <algorithm>
#include <fcntl.h>
#include <fmt/format.h>
#include <liburing.h>
#include <linux/falloc.h>
#include <linux/fs.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

namespace casemate::virtio {
namespace {

constexpr uint64_t sector_bytes = 512;

// fallocate(2) works on block devices too: it zeroes and discards there (linux v6.12 block/fops.c:
// blkdev_fallocate).
int fallocate_mode(DiskOperation operation) {
    return FALLOC_FL_KEEP_SIZE |
           (operation == DiskOperation::write_zeroes ? FALLOC_FL_ZERO_RANGE : FALLOC_FL_PUNCH_HOLE);
}

// io_uring_prep_fallocate() takes off_t in liburing 2.3 (Debian 12), __u64 in 2.9 (Debian 13).
struct FallocateArgument {
    uint64_t value;
    operator off_t() const { return static_cast<off_t>(value); }
    operator __u64() const { return value; }
};

bool moves_data(DiskOperation operation) {
    return operation == DiskOperation::read || operation == DiskOperation::write;
}

Result<Fd> open_image(const DiskFile::Options& options) {
    const std::string tried = fmt::format("open disk image {}", options.path);
    // Asked before opening, because opening a FIFO or a terminal has effects.
    struct stat status{};
    if (stat(options.path.c_str(), &status) != 0)
        return fail(Error::system(tried, errno).blame(Blame::usage));
    if (!S_ISREG(status.st_mode) && !S_ISBLK(status.st_mode))
        return fail(Error::usage(tried + ": neither a regular file nor a block device"));
    // On a block device O_EXCL without O_CREAT refuses one that is mounted or otherwise claimed: open(2).
    const int exclusive = S_ISBLK(status.st_mode) && !options.read_only ? O_EXCL : 0;
    auto file = open_file(options.path.c_str(), (options.read_only ? O_RDONLY : O_RDWR) | exclusive);
    if (!file) {
        const int number = file.error().number();
        Error error = Error::system(tried, number).blame(Blame::usage);
        if (number == EBUSY)
            return fail(
                std::move(error).hint("the host uses the device: unmount it, or attach it read-only"));
        if (!options.read_only && (number == EACCES || number == EROFS || number == EPERM))
            return fail(std::move(error).hint("make it writable, or attach it read-only"));
        return fail(std::move(error));
    }
    return file;
}

// An open-file-description lock on every byte: dropped with the descriptor, even by a kill.
Result<void> lock_image(int descriptor, const DiskFile::Options& options) {
    struct flock lock{};
    lock.l_type = options.read_only ? F_RDLCK : F_WRLCK;
    lock.l_whence = SEEK_SET;
    if (fcntl(descriptor, F_OFD_SETLK, &lock) == 0)
        return {};
    const int number = errno;
    Error error = Error::system(fmt::format("lock disk image {}", options.path), number);
    if (number == EAGAIN || number == EACCES)
        return fail(std::move(error)
                        .blame(Blame::usage)
                        .hint("another process uses it; stop that one, or attach it read-only in both"));
    return fail(std::move(error));
}

} // namespace

void DiskFile::CloseRing::operator()(io_uring* ring) const {
    io_uring_queue_exit(ring);
    delete ring; // NOLINT(cppcoreguidelines-owning-memory): this is the owner's deleter
}

Result<DiskFile::Geometry> DiskFile::measure(int descriptor, const Options& options) {
    const std::string tried = fmt::format("measure disk image {}", options.path);
    struct stat status{};
    if (fstat(descriptor, &status) != 0)
        return fail(Error::system(tried, errno));
    Geometry geometry;
    if (S_ISBLK(status.st_mode)) {
        int logical = 0;
        unsigned physical = 0;
        if (ioctl(descriptor, BLKGETSIZE64, &geometry.size_bytes) != 0 ||
            ioctl(descriptor, BLKSSZGET, &logical) != 0 || ioctl(descriptor, BLKPBSZGET, &physical) != 0)
            return fail(Error::system(tried, errno));
        geometry.logical_block_bytes = static_cast<uint32_t>(logical);
        geometry.physical_block_bytes = std::max(physical, geometry.logical_block_bytes);
        geometry.can_discard = !options.read_only;
    } else {
        geometry.is_file = true;
        geometry.size_bytes = align_down(static_cast<uint64_t>(status.st_size), sector_bytes);
        geometry.physical_block_bytes = status.st_blksize >= 4096 ? 4096 : sector_bytes;
        // Punching behind the end changes nothing and tells whether the file system can.
        geometry.can_discard =
            !options.read_only &&
            fallocate(descriptor, fallocate_mode(DiskOperation::discard), status.st_size, 4096) == 0;
    }
    if (geometry.size_bytes == 0)
        return fail(Error::usage(tried + ": smaller than one sector")
                        .hint("give it a size first, for example: truncate -s 1G FILE"));
    return geometry;
}

Result<DiskFile::Ring> DiskFile::create_ring(uint32_t depth, const Fd& event) {
    auto plain = std::make_unique<io_uring>();
    if (const int result = io_uring_queue_init(depth, plain.get(), 0); result < 0)
        return fail(Error::system("io_uring_setup", -result));
    Ring ring(plain.release());
    if (const int result = io_uring_register_eventfd(ring.get(), event.get()); result < 0)
        return fail(Error::system("io_uring_register", -result));
    return ring;
}

Result<std::unique_ptr<DiskFile>> DiskFile::create(const Options& options, EventLoop& loop) {
    Fd file = TRY(open_image(options));
    TRY(lock_image(file.get(), options));
    const Geometry geometry = TRY(measure(file.get(), options));
    Fd event = TRY(create_event());
    Ring ring;
    if (options.engine != Engine::synchronous) {
        auto created = create_ring(options.depth, event);
        // Containers and hardened hosts forbid io_uring; the disk works without, only with less overlap.
        if (!created && options.engine == Engine::io_uring)
            return fail(std::move(created).error());
        if (created)
            ring = *std::move(created);
    }
    const int descriptor = event.get();
    std::unique_ptr<DiskFile> disk(
        new DiskFile(std::move(file), std::move(event), std::move(ring), geometry, options, loop));
    TRY(loop.add(descriptor, EPOLLIN, [raw = disk.get()](uint32_t) { raw->handle_event(); }));
    return disk;
}

DiskFile::DiskFile(Fd file, Fd event, Ring ring, const Geometry& geometry, const Options& options,
                   EventLoop& loop)
    : m_file(std::move(file))
    , m_event(std::move(event))
    , m_ring(std::move(ring))
    , m_geometry(geometry)
    , m_read_only(options.read_only)
    , m_loop(&loop)
    , m_jobs(options.depth) {}

DiskFile::~DiskFile() {
    m_loop->remove(m_event.get());
    // The kernel must not write into memory that the client frees after this.
    while (m_in_flight != 0) {
        const int result = io_uring_submit_and_wait(m_ring.get(), 1);
        if (result < 0 && result != -EINTR && result != -EAGAIN && result != -EBUSY)
            break;
        const unsigned ready = io_uring_cq_ready(m_ring.get());
        io_uring_cq_advance(m_ring.get(), ready);
        m_in_flight -= ready;
    }
}

// Writing behind the end of a truncated image would bring it back full of zeroes.
bool DiskFile::shrunk() const {
    struct stat status{};
    return m_geometry.is_file && (fstat(m_file.get(), &status) != 0 ||
                                  static_cast<uint64_t>(status.st_size) < m_geometry.size_bytes);
}

void DiskFile::queue(uint32_t tag, const DiskRequest& request) {
    Job& job = m_jobs[tag];
    job.request = request;
    job.done_bytes = 0;
    cut_piece(job);
    m_queued.push_back(tag);
}

// What the host gets next of the job.
void DiskFile::cut_piece(Job& job) {
    const DiskRequest& request = job.request;
    // To give space back costs nothing a byte.
    const uint64_t most = request.operation == DiskOperation::discard ? 64 * piece_bytes : piece_bytes;
    job.piece_bytes = std::min(request.bytes - job.done_bytes, most);
    job.vectors = request.vectors;
    if (!moves_data(request.operation) || job.piece_bytes == request.bytes)
        return;
    job.part.clear();
    uint64_t skip = job.done_bytes;
    uint64_t left = job.piece_bytes;
    for (const iovec& vector : request.vectors) {
        const uint64_t skipped = std::min<uint64_t>(skip, vector.iov_len);
        const uint64_t taken = std::min<uint64_t>(left, vector.iov_len - skipped);
        skip -= skipped;
        left -= taken;
        if (taken != 0)
            job.part.push_back({static_cast<std::byte*>(vector.iov_base) + skipped, taken});
        if (left == 0)
            break;
    }
    job.vectors = job.part;
}

void DiskFile::issue(uint32_t tag) {
    const DiskOperation operation = m_jobs[tag].request.operation;
    const bool changes = operation != DiskOperation::read && operation != DiskOperation::flush;
    if (changes && shrunk())
        m_waiting.push_back(tag);
    else
        prepare(tag);
}

void DiskFile::prepare(uint32_t tag) {
    // The ring has an entry for every tag, and start() consumes them all unless the kernel lacks memory.
    io_uring_sqe* const entry = io_uring_get_sqe(m_ring.get());
    if (entry == nullptr) {
        m_waiting.push_back(tag);
        return;
    }
    const Job& job = m_jobs[tag];
    const DiskRequest& request = job.request;
    const std::span<const iovec> vectors = job.vectors;
    const uint64_t offset = request.offset + job.done_bytes;
    switch (request.operation) {
    case DiskOperation::read:
        io_uring_prep_readv(entry, m_file.get(), vectors.data(), static_cast<unsigned>(vectors.size()),
                            offset);
        break;
    case DiskOperation::write:
        io_uring_prep_writev(entry, m_file.get(), vectors.data(), static_cast<unsigned>(vectors.size()),
                             offset);
        break;
    case DiskOperation::flush:
        io_uring_prep_fsync(entry, m_file.get(), IORING_FSYNC_DATASYNC);
        break;
    case DiskOperation::discard:
    case DiskOperation::write_zeroes:
    case DiskOperation::write_zeroes_unmap:
        io_uring_prep_fallocate(entry, m_file.get(), fallocate_mode(request.operation),
                                FallocateArgument{offset}, FallocateArgument{job.piece_bytes});
        break;
    }
    io_uring_sqe_set_data64(entry, tag);
    ++m_in_flight;
    m_bytes_in_flight += job.piece_bytes;
}

// What the ring would do; the result is in its convention, a count or a negative errno value.
int DiskFile::perform(uint32_t tag) const {
    const Job& job = m_jobs[tag];
    const DiskRequest& request = job.request;
    const std::span<const iovec> vectors = job.vectors;
    const auto offset = static_cast<off_t>(request.offset + job.done_bytes);
    if (request.operation != DiskOperation::read && request.operation != DiskOperation::flush && shrunk())
        return -disk_shrunk_error;
    ssize_t result = 0;
    switch (request.operation) {
    case DiskOperation::read:
        result = preadv(m_file.get(), vectors.data(), static_cast<int>(vectors.size()), offset);
        break;
    case DiskOperation::write:
        result = pwritev(m_file.get(), vectors.data(), static_cast<int>(vectors.size()), offset);
        break;
    case DiskOperation::flush:
        result = fdatasync(m_file.get());
        break;
    case DiskOperation::discard:
    case DiskOperation::write_zeroes:
    case DiskOperation::write_zeroes_unmap:
        result = fallocate(m_file.get(), fallocate_mode(request.operation), offset,
                           static_cast<off_t>(job.piece_bytes));
        break;
    }
    // One call moves less than 2 GiB, so the count fits (read(2), "Notes").
    return result < 0 ? -errno : static_cast<int>(result);
}

void DiskFile::finish(uint32_t tag, int result) {
    Job& job = m_jobs[tag];
    if (result == -EINTR || result == -EAGAIN) {
        m_queued.push_front(tag);
        return;
    }
    // Not every device can give space back and promise zeroes.
    if (result == -EOPNOTSUPP && job.request.operation == DiskOperation::write_zeroes_unmap) {
        job.request.operation = DiskOperation::write_zeroes;
        m_queued.push_front(tag);
        return;
    }
    if (result < 0) {
        m_client->disk_done(tag, -result);
        return;
    }
    if (result == 0 && moves_data(job.request.operation)) {
        m_client->disk_done(tag, job.request.operation == DiskOperation::read ? disk_shrunk_error : EIO);
        return;
    }
    job.done_bytes += moves_data(job.request.operation) ? static_cast<unsigned>(result) : job.piece_bytes;
    if (job.done_bytes == job.request.bytes) {
        m_client->disk_done(tag, 0);
        return;
    }
    // What was begun is ended before others begin.
    cut_piece(job);
    m_queued.push_front(tag);
}

void DiskFile::start() {
    while (m_ring != nullptr && !m_queued.empty() && m_bytes_in_flight < most_bytes_in_flight) {
        const uint32_t tag = m_queued.front();
        m_queued.pop_front();
        issue(tag);
    }
    if (m_ring != nullptr && io_uring_sq_ready(m_ring.get()) != 0)
        io_uring_submit(m_ring.get());
    // What the kernel did not take (EAGAIN, EBUSY) is tried again by the next event.
    const bool more = m_ring != nullptr ? io_uring_sq_ready(m_ring.get()) != 0 : !m_queued.empty();
    if (more || !m_waiting.empty())
        signal_event(m_event);
}

void DiskFile::handle_event() {
    consume_event(m_event);
    // One piece: the loop's other descriptors wait meanwhile. start() asks for the next turn.
    std::deque<uint32_t>& here = m_ring != nullptr ? m_waiting : m_queued;
    if (!here.empty()) {
        const uint32_t tag = here.front();
        here.pop_front();
        finish(tag, perform(tag));
    }
    if (m_ring != nullptr) {
        io_uring_cqe* entry = nullptr;
        while (io_uring_peek_cqe(m_ring.get(), &entry) == 0) {
            const auto tag = static_cast<uint32_t>(io_uring_cqe_get_data64(entry));
            const int result = entry->res;
            io_uring_cqe_seen(m_ring.get(), entry);
            --m_in_flight;
            m_bytes_in_flight -= m_jobs[tag].piece_bytes;
            finish(tag, result);
        }
    }
    m_client->disk_batch_done();
    start();
}

} // namespace casemate::virtio
