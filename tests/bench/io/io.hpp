// SPDX-License-Identifier: Apache-2.0
// What the tasks of bench-io share: how they tell their time.
#pragma once

#include "programs/failure.hpp"

#include <cstddef>
#include <cstdint>

namespace io {

constexpr uint64_t mib = 1U << 20U;

using failure::check, failure::fail, failure::fail_with_errno, failure::must;

// Seconds of CLOCK_MONOTONIC.
double now();

// A line "bench: WHAT VALUE", which has left this process when say() returns.
void say(const char* what, double value);

// A task between the lines "bench: begin NAME" and "bench: end NAME ROUNDS", by which another clock can tell
// its time; then "bench: NAME_s SECONDS", of one round.
class Timed {
public:
    explicit Timed(const char* name, unsigned rounds = 1);
    ~Timed();
    Timed(const Timed&) = delete;
    Timed& operator=(const Timed&) = delete;
    Timed(Timed&&) = delete;
    Timed& operator=(Timed&&) = delete;

private:
    const char* m_name;
    unsigned m_rounds;
    double m_begin;
};

// Memory that O_DIRECT takes. It lives as long as the process.
std::byte* buffer(size_t bytes);

// `count` blocks of 4 KiB, one at a time, all over the disk.
void disk_reads(const char* file, uint64_t count);
// The first `bytes` of the disk, several times, 1 MiB at a time, past the page cache of this machine.
void disk_read(const char* file, uint64_t bytes);
// The same, written through the page cache and then flushed with fsync(2).
void disk_write(const char* file, uint64_t bytes);

enum class Way { send, receive };
// One TCP connection, of which this end waits for the other or goes to it, and `bytes` over it. `name` is the
// task's.
void tcp_listen(const char* name, Way way, uint64_t bytes);
void tcp_connect(const char* name, const char* address, Way way, uint64_t bytes);

// `count` echo requests, one after another; says the median of the round trips in microseconds.
void ping(const char* name, const char* address, uint64_t count);

} // namespace io
