// SPDX-License-Identifier: Apache-2.0
#include "base/running_clock.hpp"

#include <ctime>
#include <utility>

namespace casemate {

using std::chrono::nanoseconds;

nanoseconds RunningClock::boot_time() {
    timespec now{};
    clock_gettime(CLOCK_BOOTTIME, &now);
    return std::chrono::seconds(now.tv_sec) + nanoseconds(now.tv_nsec);
}

RunningClock::RunningClock(std::function<void(nanoseconds)> stopped, nanoseconds (*host_time)())
    : m_stopped(std::move(stopped))
    , m_host_time(host_time) {}

void RunningClock::beat() {
    note(m_host_time(), true);
}

void RunningClock::rest() {
    const std::lock_guard lock(m_mutex);
    m_beat = never;
}

RunningClock::time_point RunningClock::now() {
    const nanoseconds time = look();
    return time_point(time - m_stopped_time.load());
}

uint64_t RunningClock::stops() {
    look();
    return m_stops;
}

nanoseconds RunningClock::look() {
    // Read first: a beat that comes in between is then the later one.
    const nanoseconds beat = m_beat;
    const nanoseconds time = m_host_time();
    return time - beat <= most_between ? time : note(time, false);
}

nanoseconds RunningClock::note(nanoseconds time, bool beats) {
    nanoseconds stopped{0};
    {
        const std::lock_guard lock(m_mutex);
        const nanoseconds gap = time - m_beat.load();
        if (gap > most_between) {
            stopped = gap;
            m_stopped_time = m_stopped_time.load() + gap;
            ++m_stops;
        }
        if (stopped != nanoseconds(0) || (beats && (gap > nanoseconds(0) || m_beat.load() == never)))
            m_beat = time;
    }
    if (stopped != nanoseconds(0))
        m_stopped(stopped);
    return time;
}

} // namespace casemate
