// SPDX-License-Identifier: Apache-2.0
#include "base/fd.hpp"

#include "base/units.hpp"

#include <cerrno>
#include <fcntl.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/resource.h>
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

Result<Fd> create_memory_file(const char* name, uint64_t size_bytes) {
    constexpr unsigned no_exec_seal = 8; // MFD_NOEXEC_SEAL, linux v6.3; some hosts insist on it
    constexpr unsigned flags = MFD_CLOEXEC | MFD_ALLOW_SEALING;
    Fd fd(memfd_create(name, flags | no_exec_seal));
    if (!fd && errno == EINVAL)
        fd = Fd(memfd_create(name, flags));
    if (!fd)
        return fail(Error::system(std::string("memfd_create ") + name, errno));
    const std::string tried = "allocate " + format_bytes(size_bytes) + " of shared memory";
    // The kernel would send SIGXFSZ.
    rlimit limit{};
    if (getrlimit(RLIMIT_FSIZE, &limit) == 0 && size_bytes > limit.rlim_cur)
        return fail(Error::system(tried, EFBIG).hint("raise the limit on file sizes (ulimit -f)"));
    int failure = 0;
    do
        failure = fallocate(fd.get(), 0, 0, static_cast<off_t>(size_bytes)) == 0 ? 0 : errno;
    while (failure == EINTR);
    if (failure != 0)
        return fail(Error::system(tried, failure));
    return fd;
}

Result<void> seal_memory_file(const Fd& file) {
    constexpr int seals = F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_FUTURE_WRITE | F_SEAL_SEAL;
    if (fcntl(file.get(), F_ADD_SEALS, seals) != 0)
        return fail(Error::system("fcntl F_ADD_SEALS", errno).hint("use Linux 5.1 or later"));
    return {};
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
