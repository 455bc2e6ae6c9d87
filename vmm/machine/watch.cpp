// SPDX-License-Identifier: Apache-2.0
#include "machine/watch.hpp"

#include <pthread.h>
#include <utility>

namespace casemate {

Result<std::unique_ptr<Watch>> Watch::create(RunningClock& clock, Handlers handlers) {
    auto loop = TRY(EventLoop::create());
    std::unique_ptr<Watch> watch(new Watch(clock, std::move(handlers), std::move(loop)));
    Watch& self = *watch;
    self.m_audit_timer = TRY(Timer::create(*self.m_loop, [&self] { self.audit(); }));
    self.m_progress_timer = TRY(Timer::create(*self.m_loop, [&self] { self.check_progress(); }));
    self.m_beat_timer = TRY(Timer::create(*self.m_loop, [&self] { self.beat(); }));
    self.m_deadline_timer = TRY(Timer::create(*self.m_loop, [&self] { self.check_lock_deadline(); }));
    return watch;
}

void Watch::beat() {
    m_clock.beat();
    m_beat_timer.set(RunningClock::beat_interval);
}

void Watch::schedule_audit() {
    const auto interval = m_audit_interval.load();
    m_audit_due = Clock::now() + interval;
    m_audit_timer.set(interval);
}

void Watch::audit_every(std::chrono::milliseconds interval) {
    m_audit_interval = interval;
    schedule_audit();
}

void Watch::audit() {
    m_handlers.audit(m_audit_due);
    schedule_audit();
}

void Watch::check_progress_every(std::chrono::milliseconds interval) {
    m_progress_interval = interval;
    m_progress_timer.set(interval);
}

void Watch::check_progress() {
    m_handlers.check_progress();
    m_progress_timer.set(m_progress_interval.load());
}

void Watch::check_lock_deadline_after(std::chrono::milliseconds delay) {
    m_deadline = m_clock.now() + delay;
    m_deadline_timer.set(delay);
}

void Watch::check_lock_deadline() {
    if (const auto left = m_deadline.load() - m_clock.now(); left > left.zero())
        m_deadline_timer.set(left);
    else
        m_handlers.check_lock_deadline();
}

void Watch::start() {
    beat();
    m_thread = std::thread([this] { m_loop->run(); });
    pthread_setname_np(m_thread.native_handle(), "watch");
}

void Watch::stop() {
    m_loop->stop();
    if (m_thread.joinable())
        m_thread.join();
    m_clock.rest();
}

} // namespace casemate
