// SPDX-License-Identifier: Apache-2.0
#include "base/log.hpp"

#include <fmt/format.h>
#include <iterator>
#include <poll.h>
#include <unistd.h>
#include <utility>

namespace casemate {
namespace {

// Guest text may end up in a message: control characters must not reach the user's terminal. False when not
// all of it went out.
bool write_line(int descriptor, std::string_view prefix, std::string_view message, uint64_t suppressed) {
    fmt::memory_buffer line;
    fmt::format_to(std::back_inserter(line), "casemate: {}", prefix);
    for (const char c : message)
        line.push_back(static_cast<unsigned char>(c) < 0x20 || c == 0x7f ? '?' : c);
    if (suppressed != 0)
        fmt::format_to(std::back_inserter(line), " ({} like it not shown)", suppressed);
    line.push_back('\n');
    return write(descriptor, line.data(), line.size()) == static_cast<ssize_t>(line.size());
}

} // namespace

// pipe(7): POLLOUT promises room for PIPE_BUF bytes.
bool Log::has_room(std::chrono::milliseconds wait) const {
    pollfd ready{.fd = m_descriptor, .events = POLLOUT, .revents = 0};
    return poll(&ready, 1, static_cast<int>(wait.count())) == 1;
}

void Log::host(std::string_view message) const {
    if (m_descriptor < 0)
        return;
    if (!m_reader_stopped && !has_room(patience))
        m_reader_stopped = true;
    const std::lock_guard lock(m_mutex);
    const bool has_reader = has_room({});
    if (!has_reader || !write_line(m_descriptor, "", message, m_dropped)) {
        ++m_dropped;
        ++m_lost;
    } else {
        m_dropped = 0;
    }
    if (has_reader)
        m_reader_stopped = false;
}

uint64_t Log::lost() const {
    const std::lock_guard lock(m_mutex);
    return m_lost;
}

void Log::guest(LogSite& site, std::string_view message) const {
    if (m_descriptor < 0)
        return;
    uint64_t suppressed = 0;
    {
        const std::lock_guard lock(site.m_mutex);
        const auto now = std::chrono::steady_clock::now();
        if (site.m_passed >= LogSite::burst && now - site.m_last < LogSite::interval) {
            ++site.m_suppressed;
            return;
        }
        ++site.m_passed;
        site.m_last = now;
        suppressed = std::exchange(site.m_suppressed, 0);
    }
    // Who does not read stderr must not stop a device thread.
    const std::lock_guard lock(m_mutex);
    if (!has_room({})) {
        const std::lock_guard site_lock(site.m_mutex);
        site.m_suppressed += suppressed + 1;
        return;
    }
    write_line(m_descriptor, "guest: ", message, suppressed);
}

} // namespace casemate
