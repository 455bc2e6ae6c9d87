// SPDX-License-Identifier: Apache-2.0
// HostStream: one of the user's standard descriptors, read or written without ever blocking.
//
// O_NONBLOCK belongs to the open file description, which the user's shell and the other processes of a
// pipeline share: setting it here would break them, now or when this process is killed. So terminals and
// pipes are opened a second time through /proc, sockets have a flag for each call, and regular files do not
// block.
#pragma once

#include "base/fd.hpp"

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>

namespace casemate {

class HostStream {
public:
    enum class Direction : uint8_t { input, output };
    enum class Status : uint8_t {
        done,    // `bytes` were moved
        blocked, // not now; a watch on watchable() tells when
        denied,  // a terminal refuses a process in the background
        ended,   // end of file, reader gone, or broken: never again
    };
    struct Outcome {
        Status status = Status::ended;
        size_t bytes = 0;
        int error = 0; // of a write that was blocked or ended, an errno value
    };

    // Does not own `descriptor`, which stays open as long as the stream. A closed one (or -1) is a stream
    // that has ended.
    HostStream(int descriptor, Direction direction);

    Outcome read(std::span<std::byte> into);
    // May move a part.
    Outcome write(std::span<const std::byte> bytes);

    // What to watch in an EventLoop. Regular files and /dev/null cannot be watched (EPERM): they never block.
    int watchable() const { return m_second ? m_second.get() : m_descriptor; }
    bool ended() const { return m_kind == Kind::closed; }
    // How many bytes the other end has not read, where the host can tell: pipes only.
    std::optional<int> unread() const;

private:
    enum class Kind : uint8_t { closed, unblocking, reopened, socket, polled_pipe, polled };
    static Kind kind_of(int descriptor, Direction direction, Fd& second);
    bool is_ready(short events) const;

    int m_descriptor;
    Fd m_second; // of our own, with O_NONBLOCK; or none
    Kind m_kind;
};

} // namespace casemate
