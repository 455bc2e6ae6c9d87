// SPDX-License-Identifier: Apache-2.0
// Watch: what looks at a machine from time to time, on a thread that no device shares, so that nothing a
// guest asks of its devices keeps it waiting. It beats for the machine's clock, and ends nothing for time in
// which the whole process stood still.
#pragma once

#include "base/error.hpp"
#include "base/event_loop.hpp"
#include "base/running_clock.hpp"
#include "devices/timer.hpp"

#include <atomic>
#include <chrono>
#include <functional>
#include <memory>
#include <thread>

namespace casemate {

class Watch {
public:
    using Clock = std::chrono::steady_clock;
    // On the watch's thread; each returns soon.
    struct Handlers {
        std::function<void(Clock::time_point)> audit; // `due`: when this round should have begun
        std::function<void()> check_progress;
        std::function<void()> check_lock_deadline;
    };
    // `clock` outlives the watch.
    static Result<std::unique_ptr<Watch>> create(RunningClock& clock, Handlers handlers);
    Watch(const Watch&) = delete;
    Watch& operator=(const Watch&) = delete;
    ~Watch() { stop(); }

    // Each once, from any thread, also before start().
    void audit_every(std::chrono::milliseconds interval);
    void check_progress_every(std::chrono::milliseconds interval);
    // `delay`: of the time that the process runs.
    void check_lock_deadline_after(std::chrono::milliseconds delay);

    // Throws std::system_error when the host has no thread left.
    void start();
    // No handler runs when it returns. Not on the watch's thread; any number of times.
    void stop();

private:
    Watch(RunningClock& clock, Handlers handlers, std::unique_ptr<EventLoop> loop)
        : m_clock(clock)
        , m_handlers(std::move(handlers))
        , m_loop(std::move(loop)) {}
    void beat();
    void audit();
    void check_progress();
    void check_lock_deadline();
    void schedule_audit();

    RunningClock& m_clock;
    const Handlers m_handlers;
    std::unique_ptr<EventLoop> m_loop;
    std::atomic<std::chrono::milliseconds> m_audit_interval{};
    std::atomic<std::chrono::milliseconds> m_progress_interval{};
    std::atomic<Clock::time_point> m_audit_due{};
    std::atomic<RunningClock::time_point> m_deadline{};
    Timer m_beat_timer;
    Timer m_audit_timer;
    Timer m_progress_timer;
    Timer m_deadline_timer;
    std::thread m_thread;
};

} // namespace casemate
