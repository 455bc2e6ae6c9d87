// SPDX-License-Identifier: Apache-2.0
// Disk: what is behind a block device, and DiskClient, who learns of its completions.
#pragma once

#include <cerrno>
#include <cstdint>
#include <span>
#include <sys/uio.h>

namespace casemate::virtio {

enum class DiskOperation : uint8_t {
    read,
    write,
    flush,              // what was written before and completed is on stable storage when this completes
    discard,            // the bytes read as anything from now on
    write_zeroes,       // space stays allocated
    write_zeroes_unmap, // space may be given back
};

struct DiskRequest {
    DiskOperation operation = DiskOperation::flush;
    uint64_t offset = 0; // in bytes, whole sectors of 512; the client has checked it against the size
    uint64_t bytes = 0;  // of discards and zeroes; of reads and writes the vectors' sum
    std::span<const iovec> vectors{}; // of reads and writes; lives until the request completes
};

// The completion's error when the image ends before its size at creation: somebody truncated it.
constexpr int disk_shrunk_error = ENODATA;

// Sizes in bytes. Block sizes and the discard granularity are powers of two or, the latter, any whole number
// of logical blocks.
struct DiskProperties {
    uint64_t size = 0; // whole logical blocks
    bool read_only = false;
    uint32_t logical_block = 512; // smaller requests work, more slowly
    uint32_t physical_block = 512;
    uint32_t first_physical_block = 0; // where one begins: a partition may start in the middle of one
    uint32_t least_io = 0;             // requests that suit the device, 0 where it has no opinion
    uint32_t best_io = 0;
    // Each operation by itself: 0 says that there is none.
    uint64_t most_discard = 0;
    uint32_t discard_granularity = 0;
    uint64_t most_write_zeroes = 0;
};

// Learns of completions, on the I/O thread: from inside start(), never from inside queue().
class DiskClient {
public:
    DiskClient() = default;
    DiskClient(const DiskClient&) = delete;
    DiskClient& operator=(const DiskClient&) = delete;
    virtual ~DiskClient() = default;
    // `error` is an errno value, 0 for success. May queue more, and does not start it.
    virtual void disk_done(uint32_t tag, int error) = 0;
    // Requests were done outside of the client's calls of start(), and no more for now: the time to tell the
    // driver, and to start what was queued.
    virtual void disk_batch_done() = 0;
};

// Everything but construction is for the I/O thread.
class Disk {
public:
    Disk() = default;
    Disk(const Disk&) = delete;
    Disk& operator=(const Disk&) = delete;
    // Drops what the host was not handed yet and waits until nothing is in flight; completions are not
    // reported any more. What was reported before is in the image.
    virtual ~Disk() = default;

    virtual const DiskProperties& properties() const = 0;

    // Not owned; set before the first request.
    virtual void set_client(DiskClient& client) = 0;
    // `tag` is below the depth given at creation and not in flight.
    virtual void queue(uint32_t tag, const DiskRequest& request) = 0;
    // Hands to the host what was queued, by pieces and as much as it may have at a time, and reports what
    // that did at once. The rest is reported later.
    virtual void start() = 0;
};

} // namespace casemate::virtio
