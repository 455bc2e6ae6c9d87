// SPDX-License-Identifier: Apache-2.0
// Fd: the owner of one file descriptor; memory files; and eventfds, the way parts wake each other.
#pragma once

#include "base/error.hpp"

#include <cstdint>
#include <utility>

namespace casemate {

class Fd {
public:
    Fd() = default;
    // Takes ownership; -1 means none.
    explicit Fd(int descriptor)
        : m_descriptor(descriptor) {}
    Fd(Fd&& other) noexcept
        : m_descriptor(std::exchange(other.m_descriptor, -1)) {}
    Fd& operator=(Fd&& other) noexcept;
    Fd(const Fd&) = delete;
    Fd& operator=(const Fd&) = delete;
    ~Fd();

    // The descriptor for a system call; the Fd keeps ownership.
    int get() const { return m_descriptor; }
    explicit operator bool() const { return m_descriptor >= 0; }

private:
    int m_descriptor = -1;
};

// open(2) with O_CLOEXEC added. The error names the path.
Result<Fd> open_file(const char* path, int flags, unsigned mode = 0);

// memfd_create(2): a close-on-exec file of `size_bytes` zeroed bytes, whose memory is allocated: no access to
// it fails for want of any. `name` is for /proc.
Result<Fd> create_memory_file(const char* name, uint64_t size_bytes);
// From now on the file keeps its size, and only mappings that exist write to it. fcntl(2), F_ADD_SEALS.
Result<void> seal_memory_file(const Fd& file);

// A non-blocking, close-on-exec eventfd with count 0.
Result<Fd> create_event();
// Adds 1; never blocks, safe from any thread and from a signal handler.
void signal_event(const Fd& event);
// Resets the count to 0; true when it was above 0.
bool consume_event(const Fd& event);

} // namespace casemate
