// SPDX-License-Identifier: Apache-2.0
// RunningClock: the time that goes by while this process runs. What it stands still for, by SIGSTOP or
// SIGTSTP, in a frozen cgroup or on a suspended host, is left out and counted.
//
// Nothing tells a process of all of these, so one of its threads beats: once nobody has seen a beat for
// longer than `most_between`, the process stood still. Stops shorter than that pass for running time; of a
// longer one what ran since the beat before it counts as stopped, up to one `beat_interval`.
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <functional>
#include <mutex>

namespace casemate {

class RunningClock {
public:
    using time_point = std::chrono::time_point<RunningClock, std::chrono::nanoseconds>;
    static constexpr std::chrono::milliseconds beat_interval{1000};
    // A guest that was told to take 2 s for a lockup (Linux, kernel.watchdog_thresh=1) has to be told of
    // less.
    static constexpr std::chrono::milliseconds most_between{1500};

    // `host_time`: goes on while the process stands still or the host sleeps. `stopped` gets the time of each
    // stop, on the thread that first notices it.
    explicit RunningClock(
        std::function<void(std::chrono::nanoseconds)> stopped = [](auto) {},
        std::chrono::nanoseconds (*host_time)() = boot_time);

    // Any thread, each `beat_interval`. Stops count from the first beat on.
    void beat();
    // Nobody beats from here on.
    void rest();

    // Both notice a stop that is just over, whichever thread is first. Any thread.
    time_point now();
    // How many stops there have been.
    uint64_t stops();

    // CLOCK_BOOTTIME of clock_gettime(2).
    static std::chrono::nanoseconds boot_time();

private:
    static constexpr std::chrono::nanoseconds never = std::chrono::nanoseconds::max();
    std::chrono::nanoseconds look();
    std::chrono::nanoseconds note(std::chrono::nanoseconds time, bool beats);

    const std::function<void(std::chrono::nanoseconds)> m_stopped;
    std::chrono::nanoseconds (*const m_host_time)();
    // Held to write what follows; the beat last, so that who sees it sees the stop before it.
    std::mutex m_mutex;
    std::atomic<uint64_t> m_stops = 0;
    std::atomic<std::chrono::nanoseconds> m_stopped_time{};
    std::atomic<std::chrono::nanoseconds> m_beat = never;
};

} // namespace casemate
