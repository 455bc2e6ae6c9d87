// SPDX-License-Identifier: Apache-2.0
#include "devices/virtio/disk_file.hpp"

#include <algorithm>
#include <array>
#include <atomic>
#include <fcntl.h>
#include <liburing.h>
#include <linux/falloc.h>
#include <linux/fs.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <unistd.h>

namespace casemate::virtio {
namespace {

// To give space back costs little a byte; but a device may take its time, and BLKDISCARD waits for it.
constexpr uint64_t hole_bytes = 64 * DiskFile::piece_bytes;
constexpr uint64_t discard_bytes = 16 * DiskFile::piece_bytes;

// linux include/uapi/linux/blkdev.h: BLOCK_URING_CMD_DISCARD, from 6.12 on. addr and addr3 are start and
// length in bytes (block/ioctl.c: blkdev_uring_cmd).
constexpr uint32_t ring_discard = _IO(0x12, 0);

constexpr std::array<std::byte, 4096> zero_page{};

int fallocate_mode(bool hole) {
    return FALLOC_FL_KEEP_SIZE | (hole ? FALLOC_FL_PUNCH_HOLE : FALLOC_FL_ZERO_RANGE);
}

// io_uring_prep_fallocate() takes off_t in liburing 2.3 (Debian 12), __u64 in 2.9 (Debian 13).
struct FallocateArgument {
    uint64_t value;
    operator off_t() const { return static_cast<off_t>(value); }
    operator __u64() const { return value; }
};

} // namespace

void DiskFile::CloseRing::operator()(io_uring* ring) const {
    io_uring_queue_exit(ring);
    delete ring; // NOLINT(cppcoreguidelines-owning-memory): this is the owner's deleter
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

Result<std::unique_ptr<DiskFile>> DiskFile::create(const Options& options, EventLoop& loop, const Log& log) {
    auto image = TRY(DiskImage::open(options.path, options.read_only, log));
    return create(std::move(image), options, loop);
}

Result<std::unique_ptr<DiskFile>> DiskFile::create(DiskImage image, const Options& options, EventLoop& loop) {
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
        new DiskFile(std::move(image), std::move(event), std::move(ring), options, loop));
    TRY(loop.add(descriptor, EPOLLIN, [raw = disk.get()](uint32_t) { raw->handle_event(); }));
    return disk;
}

DiskFile::DiskFile(DiskImage image, Fd event, Ring ring, const Options& options, EventLoop& loop)
    : m_image(std::move(image))
    , m_event(std::move(event))
    , m_ring(std::move(ring))
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

void DiskFile::queue(uint32_t tag, const DiskRequest& request) {
    Job& job = m_jobs[tag];
    job.request = request;
    job.done_bytes = 0;
    if (request.operation == DiskOperation::discard) {
        // A device discards whole blocks. What a request has of others may stay.
        const uint32_t block = m_image.properties.logical_block;
        const uint64_t start = align_up(request.offset, block);
        const uint64_t end = align_down(request.offset + request.bytes, block);
        job.request.offset = start;
        job.request.bytes = end > start ? end - start : 0;
    }
    plan(job);
    m_queued.push_back(tag);
}

void DiskFile::plan(Job& job) const {
    const uint64_t left = job.request.bytes - job.done_bytes;
    job.in_ring = false;
    job.vectors = {};
    switch (job.request.operation) {
    case DiskOperation::read:
    case DiskOperation::write:
        job.step = job.request.operation == DiskOperation::read ? Step::read : Step::write;
        job.piece_bytes = std::min(left, piece_bytes);
        return take_vectors(job);
    case DiskOperation::flush:
        job.step = Step::flush;
        job.piece_bytes = 0;
        return;
    case DiskOperation::discard:
        return plan_discard(job);
    case DiskOperation::write_zeroes:
    case DiskOperation::write_zeroes_unmap:
        return plan_zeroes(job);
    }
}

void DiskFile::plan_discard(Job& job) const {
    const uint64_t granularity = std::max(m_image.properties.discard_granularity, 1U);
    const uint64_t most = std::max(m_image.is_device ? discard_bytes : hole_bytes, granularity);
    const uint64_t start = job.request.offset + job.done_bytes;
    const uint64_t left = job.request.bytes - job.done_bytes;
    job.step = left == 0 ? Step::none : m_image.is_device ? Step::discard : Step::punch_hole;
    job.piece_bytes = left;
    if (left <= most)
        return;
    // Cut between granules: the device ignores parts of one.
    const uint64_t over = (start + most + granularity - m_image.first_granule) % granularity;
    job.piece_bytes = over < most ? most - over : most;
}

void DiskFile::plan_zeroes(Job& job) const {
    const uint32_t block = m_image.properties.logical_block;
    const uint64_t start = job.request.offset + job.done_bytes;
    const uint64_t left = std::min(job.request.bytes - job.done_bytes, piece_bytes);
    const bool hole = job.request.operation == DiskOperation::write_zeroes_unmap && m_image.can_punch_holes;
    const uint64_t before = align_up(start, block) - start;
    if (before == 0 && left >= block && (hole || m_image.can_zero_ranges)) {
        job.step = hole ? Step::punch_hole : Step::zero_range;
        job.piece_bytes = align_down(left, block);
        return;
    }
    // Parts of a device's block, and what the file system cannot do, are written.
    job.step = Step::write;
    job.piece_bytes = before != 0 ? std::min(left, before) : left;
    take_zeroes(job);
}

void DiskFile::take_vectors(Job& job) {
    job.vectors = job.request.vectors;
    if (job.piece_bytes == job.request.bytes)
        return;
    job.part.clear();
    uint64_t skip = job.done_bytes;
    uint64_t left = job.piece_bytes;
    for (const iovec& vector : job.request.vectors) {
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

void DiskFile::take_zeroes(Job& job) {
    job.part.clear();
    for (uint64_t left = job.piece_bytes; left != 0;) {
        const uint64_t taken = std::min<uint64_t>(left, zero_page.size());
        // NOLINTNEXTLINE(cppcoreguidelines-pro-type-const-cast): writes only read it
        job.part.push_back({const_cast<std::byte*>(zero_page.data()), taken});
        left -= taken;
    }
    job.vectors = job.part;
}

void DiskFile::start() {
    start_after(0);
}

// `begun`: bytes of this turn. Bounds it, also against completions that bring new pieces without end.
void DiskFile::start_after(uint64_t begun) {
    const auto may_begin = [&] {
        return !m_queued.empty() && begun < most_bytes_in_flight && m_bytes_in_flight < most_bytes_in_flight;
    };
    for (bool more = true; more;) {
        while (may_begin()) {
            const uint32_t tag = m_queued.front();
            const uint64_t bytes = std::max(m_jobs[tag].piece_bytes, page_bytes);
            if (do_at_once(tag)) {
                begun += bytes;
                continue;
            }
            if (m_ring == nullptr)
                break;
            begun += bytes;
            m_queued.pop_front();
            hand_to_ring(tag);
        }
        if (m_in_flight == 0)
            break;
        if (io_uring_sq_ready(m_ring.get()) != 0) {
            announce_completions(false);
            io_uring_submit(m_ring.get());
        }
        reap();
        more = may_begin();
        if (!more && m_in_flight != 0) {
            announce_completions(true);
            more = reap() != 0 && may_begin();
        }
    }
    // What the kernel did not take (EAGAIN, EBUSY) is tried again by the next event.
    const bool untaken = m_ring != nullptr && io_uring_sq_ready(m_ring.get()) != 0;
    const bool unbegun = !m_queued.empty() && m_bytes_in_flight < most_bytes_in_flight;
    if (untaken || unbegun || !m_waiting.empty())
        signal_event(m_event);
}

// While start() looks at the ring itself an event for each completion would be a needless turn of the loop.
void DiskFile::announce_completions(bool wanted) {
    // Kernels before 5.8 have no such flag, and announce all.
    io_uring_cq_eventfd_toggle(m_ring.get(), wanted);
    // Partner: the kernel's full barrier between moving the ring's tail and reading the flag (linux v6.12
    // io_uring/io_uring.h: io_cqring_wake). The caller's look at the ring that follows cannot be satisfied
    // before the flag is visible.
    if (wanted)
        std::atomic_thread_fence(std::memory_order_seq_cst);
}

// Does the piece of the first job when that takes no waiting, and says whether it has.
bool DiskFile::do_at_once(uint32_t tag) {
    const Job& job = m_jobs[tag];
    const bool in_memory = m_image.in_memory && (job.step == Step::read || job.step == Step::write);
    if (in_memory || job.step == Step::none) {
        m_queued.pop_front();
        finish(tag, perform(job));
        return true;
    }
    if (m_ring != nullptr || job.step != Step::read || !m_can_read_cached)
        return false;
    const ssize_t result =
        preadv2(m_image.file.get(), job.vectors.data(), static_cast<int>(job.vectors.size()),
                static_cast<off_t>(job.request.offset + job.done_bytes), RWF_NOWAIT);
    if (result <= 0) {
        m_can_read_cached = result == 0 || errno != EOPNOTSUPP;
        return false;
    }
    m_queued.pop_front();
    finish(tag, static_cast<int>(result));
    return true;
}

void DiskFile::hand_to_ring(uint32_t tag) {
    Job& job = m_jobs[tag];
    const bool changes = job.step != Step::read && job.step != Step::flush;
    const bool waits = job.step == Step::discard && !m_can_discard_by_ring;
    // The ring has an entry for every tag, and start() consumes them all unless the kernel lacks memory.
    io_uring_sqe* const entry =
        waits || (changes && m_image.shrunk()) ? nullptr : io_uring_get_sqe(m_ring.get());
    if (entry == nullptr) {
        m_waiting.push_back(tag);
        return;
    }
    const std::span<const iovec> vectors = job.vectors;
    const int file = m_image.file.get();
    const uint64_t offset = job.request.offset + job.done_bytes;
    switch (job.step) {
    case Step::none:
        io_uring_prep_nop(entry);
        break;
    case Step::read:
        io_uring_prep_readv(entry, file, vectors.data(), static_cast<unsigned>(vectors.size()), offset);
        break;
    case Step::write:
        io_uring_prep_writev(entry, file, vectors.data(), static_cast<unsigned>(vectors.size()), offset);
        break;
    case Step::flush:
        io_uring_prep_fsync(entry, file, IORING_FSYNC_DATASYNC);
        break;
    case Step::punch_hole:
    case Step::zero_range:
        io_uring_prep_fallocate(entry, file, fallocate_mode(job.step == Step::punch_hole),
                                FallocateArgument{offset}, FallocateArgument{job.piece_bytes});
        break;
    case Step::discard:
        io_uring_prep_rw(IORING_OP_URING_CMD, entry, file, nullptr, 0, 0);
        entry->cmd_op = ring_discard;
        entry->addr = offset;
        entry->addr3 = job.piece_bytes;
        break;
    }
    io_uring_sqe_set_data64(entry, tag);
    job.in_ring = true;
    ++m_in_flight;
    m_bytes_in_flight += job.piece_bytes;
}

// What the ring would do; the result is in its convention, a count or a negative errno value.
int DiskFile::perform(const Job& job) const {
    const std::span<const iovec> vectors = job.vectors;
    const int file = m_image.file.get();
    const auto offset = static_cast<off_t>(job.request.offset + job.done_bytes);
    const bool changes = job.step != Step::none && job.step != Step::read && job.step != Step::flush;
    if (changes && m_image.shrunk())
        return -disk_shrunk_error;
    ssize_t result = 0;
    switch (job.step) {
    case Step::none:
        break;
    case Step::read:
        result = preadv(file, vectors.data(), static_cast<int>(vectors.size()), offset);
        break;
    case Step::write:
        result = pwritev(file, vectors.data(), static_cast<int>(vectors.size()), offset);
        break;
    case Step::flush:
        result = fdatasync(file);
        break;
    case Step::punch_hole:
    case Step::zero_range:
        result = fallocate(file, fallocate_mode(job.step == Step::punch_hole), offset,
                           static_cast<off_t>(job.piece_bytes));
        break;
    case Step::discard: {
        std::array<uint64_t, 2> range{static_cast<uint64_t>(offset), job.piece_bytes};
        result = ioctl(file, BLKDISCARD, range.data());
        break;
    }
    }
    // One call moves less than 2 GiB, so the count fits (read(2), "Notes").
    return result < 0 ? -errno : static_cast<int>(result);
}

// After `error`: whether the piece, not done by this step, can be by another. More of them may be under way,
// so what is known to fail is no reason to give up.
bool DiskFile::find_other_step(Job& job, int error) {
    const bool zeroes = job.request.operation != DiskOperation::discard;
    if (job.step == Step::punch_hole && zeroes && error == EOPNOTSUPP)
        m_image.can_punch_holes = false;
    else if (job.step == Step::zero_range && error == EOPNOTSUPP)
        m_image.can_zero_ranges = false;
    else if (job.step == Step::discard && job.in_ring && (error == EOPNOTSUPP || error == EINVAL))
        m_can_discard_by_ring = false;
    else
        return false;
    plan(job);
    return true;
}

void DiskFile::finish(uint32_t tag, int result) {
    // Who waited for it may have the next request.
    m_loop->expect_next_soon();
    Job& job = m_jobs[tag];
    const bool moves_data = job.step == Step::read || job.step == Step::write;
    if (result == -EINTR || result == -EAGAIN || (result < 0 && find_other_step(job, -result))) {
        m_queued.push_front(tag);
        return;
    }
    if (result < 0) {
        m_client->disk_done(tag, -result);
        return;
    }
    if (result == 0 && moves_data) {
        m_client->disk_done(tag, job.step == Step::read ? disk_shrunk_error : EIO);
        return;
    }
    job.done_bytes += moves_data ? static_cast<unsigned>(result) : job.piece_bytes;
    if (job.done_bytes == job.request.bytes) {
        m_client->disk_done(tag, 0);
        return;
    }
    // What was begun is ended before others begin.
    plan(job);
    m_queued.push_front(tag);
}

// Reports what the ring has completed, and says how much it was.
unsigned DiskFile::reap() {
    unsigned reaped = 0;
    io_uring_cqe* entry = nullptr;
    while (m_ring != nullptr && io_uring_peek_cqe(m_ring.get(), &entry) == 0) {
        const auto tag = static_cast<uint32_t>(io_uring_cqe_get_data64(entry));
        const int result = entry->res;
        io_uring_cqe_seen(m_ring.get(), entry);
        ++reaped;
        --m_in_flight;
        m_bytes_in_flight -= m_jobs[tag].piece_bytes;
        finish(tag, result);
    }
    return reaped;
}

void DiskFile::handle_event() {
    consume_event(m_event);
    // One piece that may wait: the loop's other descriptors wait meanwhile. start() asks for the next turn.
    std::deque<uint32_t>& here = m_ring != nullptr ? m_waiting : m_queued;
    uint64_t begun = 0;
    if (!here.empty()) {
        const uint32_t tag = here.front();
        here.pop_front();
        begun = m_jobs[tag].piece_bytes;
        finish(tag, perform(m_jobs[tag]));
    }
    reap();
    start_after(begun);
    m_client->disk_batch_done();
}

} // namespace casemate::virtio
