// SPDX-License-Identifier: Apache-2.0
#include "devices/host_stream.hpp"

#include "devices/terminal.hpp"

#include <algorithm>
#include <cerrno>
#include <climits>
#include <fcntl.h>
#include <fmt/core.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

namespace casemate {

HostStream::HostStream(int descriptor, Direction direction)
    : m_descriptor(descriptor)
    , m_kind(kind_of(descriptor, direction, m_second)) {}

HostStream::Kind HostStream::kind_of(int descriptor, Direction direction, Fd& second) {
    struct stat status{};
    if (fstat(descriptor, &status) != 0)
        return Kind::closed;
    if (S_ISSOCK(status.st_mode))
        return Kind::socket;
    const bool pipe = S_ISFIFO(status.st_mode);
    if (!pipe && isatty(descriptor) == 0)
        return Kind::unblocking; // never reopened: a regular file's offset and O_APPEND must stay
    const int access = direction == Direction::input ? O_RDONLY : O_WRONLY;
    auto opened =
        open_file(fmt::format("/proc/self/fd/{}", descriptor).c_str(), access | O_NONBLOCK | O_NOCTTY);
    if (!opened) // another user's terminal (su), or no /proc
        return pipe ? Kind::polled_pipe : Kind::polled;
    second = std::move(*opened);
    return Kind::reopened;
}

bool HostStream::is_ready(short events) const {
    pollfd entry{.fd = m_descriptor, .events = events, .revents = 0};
    return poll(&entry, 1, 0) == 1;
}

HostStream::Outcome HostStream::read(std::span<std::byte> into) {
    if (m_kind == Kind::closed)
        return {};
    ssize_t count = -1;
    do {
        if ((m_kind == Kind::polled || m_kind == Kind::polled_pipe) && !is_ready(POLLIN))
            return {.status = Status::blocked};
        count = m_kind == Kind::socket ? recv(m_descriptor, into.data(), into.size(), MSG_DONTWAIT)
                                       : ::read(watchable(), into.data(), into.size());
    } while (count < 0 && errno == EINTR);
    if (count > 0)
        return {.status = Status::done, .bytes = static_cast<size_t>(count)};
    if (count < 0 && errno == EAGAIN)
        return {.status = Status::blocked};
    // Linux v6.12 drivers/tty/tty_jobctrl.c: __tty_check_change fails so when SIGTTIN is ignored. A terminal
    // that has gone away fails so too.
    if (count < 0 && errno == EIO && !in_foreground(m_descriptor))
        return {.status = Status::denied};
    m_kind = Kind::closed;
    return {};
}

HostStream::Outcome HostStream::write(std::span<const std::byte> bytes) {
    size_t most = bytes.size();
    if (m_kind == Kind::closed)
        return {.error = EBADF};
    if (m_kind == Kind::polled || m_kind == Kind::polled_pipe) {
        if (!is_ready(POLLOUT))
            return {.status = Status::blocked, .error = EAGAIN};
        // pipe(7): a pipe that polls writable has a free buffer of PIPE_BUF bytes; a terminal, room for one.
        most = std::min<size_t>(most, m_kind == Kind::polled_pipe ? PIPE_BUF : 1);
    }
    ssize_t count = -1;
    do {
        count = m_kind == Kind::socket ? send(m_descriptor, bytes.data(), most, MSG_DONTWAIT | MSG_NOSIGNAL)
                                       : ::write(watchable(), bytes.data(), most);
    } while (count < 0 && errno == EINTR);
    if (count >= 0)
        return {.status = Status::done, .bytes = static_cast<size_t>(count)};
    // A full disk may get room again; a hung-up or closed other end never comes back.
    const int error = errno;
    if (error == EAGAIN || error == ENOSPC || error == EDQUOT)
        return {.status = Status::blocked, .error = error};
    m_kind = Kind::closed;
    return {.error = error};
}

std::optional<int> HostStream::unread() const {
    struct stat status{};
    int bytes = 0;
    if (fstat(m_descriptor, &status) == 0 && S_ISFIFO(status.st_mode) &&
        ioctl(m_descriptor, FIONREAD, &bytes) == 0)
        return bytes;
    return std::nullopt;
}

} // namespace casemate
