// SPDX-License-Identifier: Apache-2.0
// Disk and DiskFile: the backing of a block device: a raw image file or a host block device, by io_uring
// where the host permits it, else by plain system calls on the I/O thread.
#pragma once

#include "base/error.hpp"
#include "base/event_loop.hpp"
#include "base/fd.hpp"
#include "base/units.hpp"

#include <cerrno>
#include <cstdint>
#include <deque>
#include <memory>
#include <span>
#include <string>
#include <sys/uio.h>
#include <vector>

struct io_uring; // NOLINT(readability-identifier-naming): liburing's

namespace casemate::virtio {

enum class DiskOperation : uint8_t {
    read,
    write,
    flush,              // what was written before and completed is on stable storage when this completes
    discard,            // the bytes read as anything from now on; here: as zeroes
    write_zeroes,       // space stays allocated
    write_zeroes_unmap, // space may be given back
};

struct DiskRequest {
    DiskOperation operation = DiskOperation::flush;
    uint64_t offset = 0;              // in bytes; the client has checked it against the size
    uint64_t bytes = 0;               // of discards and zeroes; of reads and writes the vectors' sum
    std::span<const iovec> vectors{}; // of reads and writes; lives until the request completes
};

// The completion's error when the image ends before its size at creation: somebody truncated it.
constexpr int disk_shrunk_error = ENODATA;

// Learns of completions, on the I/O thread, never from inside queue() or start().
class DiskClient {
public:
    DiskClient() = default;
    DiskClient(const DiskClient&) = delete;
    DiskClient& operator=(const DiskClient&) = delete;
    virtual ~DiskClient() = default;
    // `error` is an errno value, 0 for success. May queue more.
    virtual void disk_done(uint32_t tag, int error) = 0;
    // No more disk_done() for now: the time to tell the driver and to start what was queued.
    virtual void disk_batch_done() = 0;
};

// Everything but create is for the I/O thread.
class Disk {
public:
    Disk() = default;
    Disk(const Disk&) = delete;
    Disk& operator=(const Disk&) = delete;
    // Drops what the host was not handed yet and waits until nothing is in flight; completions are not
    // reported any more. What was reported before is in the image.
    virtual ~Disk() = default;

    virtual uint64_t size_bytes() const = 0;
    virtual uint32_t logical_block_bytes() const = 0;
    virtual uint32_t physical_block_bytes() const = 0;
    virtual bool read_only() const = 0;
    virtual bool can_discard() const = 0;

    // Not owned; set before the first request.
    virtual void set_client(DiskClient& client) = 0;
    // `tag` is below the depth given at creation and not in flight.
    virtual void queue(uint32_t tag, const DiskRequest& request) = 0;
    // Hands to the host what was queued, by pieces and as much as it may have at a time.
    virtual void start() = 0;
};

class DiskFile final : public Disk {
public:
    enum class Engine {
        automatic, // io_uring, or synchronous where it is forbidden
        io_uring,
        synchronous,
    };
    struct Options {
        std::string path;
        bool read_only = false;
        Engine engine = Engine::automatic;
        uint32_t depth = 128; // most requests in flight
    };

    // A request is handed to the host by pieces, and no further one while so much is there: for the host
    // copies between RAM and its page cache on the thread that asks, and the machine's end waits for it.
    static constexpr uint64_t piece_bytes = 1_MiB;
    static constexpr uint64_t most_bytes_in_flight = 4 * piece_bytes;

    // Opens and locks: one writer or many readers, other virtual machine monitors with the same habit
    // included.
    static Result<std::unique_ptr<DiskFile>> create(const Options& options, EventLoop& loop);
    DiskFile(const DiskFile&) = delete;
    DiskFile& operator=(const DiskFile&) = delete;
    ~DiskFile() override;

    uint64_t size_bytes() const override { return m_geometry.size_bytes; }
    uint32_t logical_block_bytes() const override { return m_geometry.logical_block_bytes; }
    uint32_t physical_block_bytes() const override { return m_geometry.physical_block_bytes; }
    bool read_only() const override { return m_read_only; }
    bool can_discard() const override { return m_geometry.can_discard; }
    void set_client(DiskClient& client) override { m_client = &client; }
    void queue(uint32_t tag, const DiskRequest& request) override;
    void start() override;

    bool uses_io_uring() const { return m_ring != nullptr; }

private:
    struct Geometry {
        uint64_t size_bytes = 0;
        uint32_t logical_block_bytes = 512;
        uint32_t physical_block_bytes = 512;
        bool can_discard = false;
        bool is_file = false;
    };
    struct Job {
        DiskRequest request;
        uint64_t done_bytes = 0;
        uint64_t piece_bytes = 0;       // what the host has of it, or gets next
        std::vector<iovec> part;        // the vectors of a piece that is not all of the request
        std::span<const iovec> vectors; // of the piece
    };
    struct CloseRing {
        void operator()(io_uring* ring) const;
    };
    using Ring = std::unique_ptr<io_uring, CloseRing>;

    DiskFile(Fd file, Fd event, Ring ring, const Geometry& geometry, const Options& options, EventLoop& loop);
    static Result<Geometry> measure(int descriptor, const Options& options);
    static Result<Ring> create_ring(uint32_t depth, const Fd& event);

    bool shrunk() const;
    static void cut_piece(Job& job);
    void issue(uint32_t tag);
    void prepare(uint32_t tag);
    int perform(uint32_t tag) const;
    void finish(uint32_t tag, int result);
    void handle_event();

    Fd m_file;
    Fd m_event; // counts completions of the ring, or says that m_waiting has work
    Ring m_ring;
    Geometry m_geometry;
    bool m_read_only;
    EventLoop* m_loop;
    DiskClient* m_client = nullptr;
    std::vector<Job> m_jobs;        // by tag
    std::deque<uint32_t> m_queued;  // tags that the host may have next
    std::deque<uint32_t> m_waiting; // tags that the next events perform on the I/O thread, one each
    uint32_t m_in_flight = 0;       // in the ring
    uint64_t m_bytes_in_flight = 0;
};

} // namespace casemate::virtio
