// SPDX-License-Identifier: Apache-2.0
// A disk's tasks. A transfer that is not whole is a failure, not a short time.
#include "io.hpp"

#include <fcntl.h>
#include <unistd.h>

namespace io {
namespace {

constexpr uint64_t block = 4096;
// Odd, so that it meets every block of a disk of 2^n blocks once, and far from what reads ahead.
constexpr uint64_t stride = 7919;
// One alone takes too little time to be compared.
constexpr unsigned read_rounds = 8;
constexpr unsigned write_rounds = 4;

int open_disk(const char* file, int flags) {
    const int disk = open(file, flags | O_CLOEXEC);
    if (disk < 0)
        fail_with_errno("open %s", file);
    return disk;
}

// Of a block device as of a file.
uint64_t size_of(int disk) {
    return static_cast<uint64_t>(must("lseek", lseek(disk, 0, SEEK_END)));
}

void must_hold(int disk, uint64_t bytes) {
    const uint64_t size = size_of(disk);
    if (size < bytes)
        fail("the disk has %llu bytes, the task needs %llu", static_cast<unsigned long long>(size),
             static_cast<unsigned long long>(bytes));
}

void whole(const char* call, ssize_t count, uint64_t wanted) {
    if (static_cast<uint64_t>(must(call, count)) == wanted)
        return;
    fail("%s: %zd of %llu bytes", call, count, static_cast<unsigned long long>(wanted));
}

void write_all(int disk, const std::byte* memory, uint64_t bytes) {
    must("lseek", lseek(disk, 0, SEEK_SET));
    for (uint64_t done = 0; done < bytes; done += mib)
        whole("write", write(disk, memory, mib), mib);
    must("fsync", fsync(disk));
}

} // namespace

void disk_reads(const char* file, uint64_t count) {
    const int disk = open_disk(file, O_RDONLY | O_DIRECT);
    must_hold(disk, block);
    const uint64_t blocks = size_of(disk) / block;
    std::byte* const memory = buffer(block);
    const Timed timed("reads");
    for (uint64_t i = 0; i < count; ++i)
        whole("pread", pread(disk, memory, block, static_cast<off_t>(i * stride % blocks * block)), block);
}

void disk_read(const char* file, uint64_t bytes) {
    const int disk = open_disk(file, O_RDONLY | O_DIRECT);
    must_hold(disk, bytes);
    std::byte* const memory = buffer(mib);
    const Timed timed("read", read_rounds);
    for (unsigned round = 0; round < read_rounds; ++round)
        for (uint64_t done = 0; done < bytes; done += mib)
            whole("pread", pread(disk, memory, mib, static_cast<off_t>(done)), mib);
}

void disk_write(const char* file, uint64_t bytes) {
    const int disk = open_disk(file, O_WRONLY);
    must_hold(disk, bytes);
    const std::byte* const memory = buffer(mib);
    // The guest's page cache is memory that the host has yet to find and clear.
    write_all(disk, memory, bytes);
    const Timed timed("write", write_rounds);
    for (unsigned round = 0; round < write_rounds; ++round)
        write_all(disk, memory, bytes);
}

} // namespace io
