// SPDX-License-Identifier: Apache-2.0
// DiskImage: a raw image file or a host block device, opened and locked, and what the host can do with it.
#pragma once

#include "base/error.hpp"
#include "base/fd.hpp"
#include "base/log.hpp"
#include "devices/virtio/disk.hpp"

#include <string>

namespace casemate::virtio {

struct DiskImage {
    Fd file;
    DiskProperties properties;
    bool is_device = false;
    // Reads and writes copy and wait for nobody, unless the host is short of memory.
    bool in_memory = false;
    // Of fallocate(2); what a file turns out not to have is found when it is asked for.
    bool can_punch_holes = true;
    bool can_zero_ranges = true;
    uint32_t first_granule = 0; // of discards, in bytes

    // One writer or many readers, other virtual machine monitors with the same habit included. Says on the
    // log what of the image a guest will not see, and when it begins like a format that is not raw.
    static Result<DiskImage> open(const std::string& path, bool read_only, const Log& log);

    // Somebody truncated the file below its size at open().
    bool shrunk() const;
};

} // namespace casemate::virtio
