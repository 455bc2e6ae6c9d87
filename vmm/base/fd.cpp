// SPDX-License-Identifier: Apache-2.0
#include "base/fd.hpp"

#include <cerrno>
#include <cstdint>
#include <fcntl.h>
#include <sys/eventfd.h>
#include <unistd.h>

namespace casemate {

Fd& Fd::operator=(Fd&& other) noexcept {
    std::swap(m_descriptor, other.m_descriptor);
    return *this;
}

Fd::~Fd() {
    if (m_descriptor >= 0)
        close(m_descriptor);
}

Result<Fd> open_file(const char* path, int flags, unsigned mode) {
    Fd fd(open(path, flags | O_CLOEXEC, mode));
    if (!fd)
        return fail(Error::system(std::string("open ") + path, errno));
    return fd;
}

Result<Fd> create_event() {
    Fd fd(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
    if (!fd)
        return fail(Error::system("eventfd", errno));
    return fd;
}

void signal_event(const Fd& event) {
    const uint64_t one = 1;
    // EAGAIN means that the counter is full, so the reader is woken anyway.
    [[maybe_unused]] const ssize_t written = write(event.get(), &one, sizeof(one));
}

bool consume_event(const Fd& event) {
    uint64_t count = 0;
    return read(event.get(), &count, sizeof(count)) == sizeof(count);
}

} // namespace casemate
