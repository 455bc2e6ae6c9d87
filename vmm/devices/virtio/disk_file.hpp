// SPDX-License-Identifier: Apache-2.0
// DiskFile: a Disk over a DiskImage, by io_uring where the host permits it, else by plain system calls on the
// I/O thread.
#pragma once

#include "base/event_loop.hpp"
#include "base/units.hpp"
#include "devices/virtio/disk.hpp"
#include "devices/virtio/disk_image.hpp"

#include <deque>
#include <memory>
#include <span>
#include <string>
#include <vector>

struct io_uring; // NOLINT(readability-identifier-naming): liburing's

namespace casemate::virtio {

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

    // A request is handed to the host by pieces, and no further one in a turn while so much is there: for the
    // host copies between RAM and its page cache on the thread that asks, and the machine's end waits for it.
    static constexpr uint64_t piece_bytes = 1_MiB;
    static constexpr uint64_t most_bytes_in_flight = 4 * piece_bytes;

    static Result<std::unique_ptr<DiskFile>> create(const Options& options, EventLoop& loop, const Log& log);
    // `image` may say less than its file can: tests do.
    static Result<std::unique_ptr<DiskFile>> create(DiskImage image, const Options& options, EventLoop& loop);
    DiskFile(const DiskFile&) = delete;
    DiskFile& operator=(const DiskFile&) = delete;
    ~DiskFile() override;

    const DiskProperties& properties() const override { return m_image.properties; }
    void set_client(DiskClient& client) override { m_client = &client; }
    void queue(uint32_t tag, const DiskRequest& request) override;
    void start() override;

    bool uses_io_uring() const { return m_ring != nullptr; }

private:
    // What the host is asked to do with a piece.
    enum class Step : uint8_t {
        none,
        read,
        write,
        flush,
        punch_hole,
        zero_range,
        discard, // of a block device
    };
    struct Job {
        DiskRequest request;
        uint64_t done_bytes = 0;
        Step step = Step::none;
        bool in_ring = false;
        uint64_t piece_bytes = 0;       // what the host has of it, or gets next
        std::vector<iovec> part;        // the vectors of a piece that is not all of the request
        std::span<const iovec> vectors; // of the piece
    };
    struct CloseRing {
        void operator()(io_uring* ring) const;
    };
    using Ring = std::unique_ptr<io_uring, CloseRing>;

    DiskFile(DiskImage image, Fd event, Ring ring, const Options& options, EventLoop& loop);
    static Result<Ring> create_ring(uint32_t depth, const Fd& event);

    // What the host gets next of the job.
    void plan(Job& job) const;
    void plan_discard(Job& job) const;
    void plan_zeroes(Job& job) const;
    static void take_vectors(Job& job);
    static void take_zeroes(Job& job);

    void start_after(uint64_t begun);
    // Three ways to have the piece done.
    bool do_at_once(uint32_t tag);
    void hand_to_ring(uint32_t tag);
    int perform(const Job& job) const;
    void finish(uint32_t tag, int result);
    bool find_other_step(Job& job, int error);
    unsigned reap();
    void announce_completions(bool wanted);
    void handle_event();

    DiskImage m_image;
    Fd m_event; // counts completions of the ring, or says that the I/O thread has work
    Ring m_ring;
    EventLoop* m_loop;
    DiskClient* m_client = nullptr;
    std::vector<Job> m_jobs;        // by tag
    std::deque<uint32_t> m_queued;  // tags that the host may have next
    std::deque<uint32_t> m_waiting; // tags that the next events perform on the I/O thread, one each
    uint32_t m_in_flight = 0;       // in the ring
    uint64_t m_bytes_in_flight = 0;
    bool m_can_read_cached = true; // reads that fail rather than wait
    bool m_can_discard_by_ring = true;
};

} // namespace casemate::virtio
