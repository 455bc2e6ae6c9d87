// SPDX-License-Identifier: Apache-2.0
#include "devices/timer.hpp"

#include <algorithm>
#include <cerrno>
#include <sys/epoll.h>
#include <sys/timerfd.h>
#include <unistd.h>

namespace casemate {

Result<Timer> Timer::create(EventLoop& loop, std::function<void()> handler) {
    Fd descriptor(timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC));
    if (!descriptor)
        return fail(Error::system("timerfd_create", errno));
    const int number = descriptor.get();
    TRY(loop.add(number, EPOLLIN, [number, run = std::move(handler)](uint32_t) {
        uint64_t expirations = 0;
        // Nothing to read means that another thread has set it anew since it expired.
        if (read(number, &expirations, sizeof(expirations)) == sizeof(expirations))
            run();
    }));
    return Timer(loop, std::move(descriptor));
}

Timer& Timer::operator=(Timer&& other) noexcept {
    std::swap(m_loop, other.m_loop);
    std::swap(m_descriptor, other.m_descriptor);
    return *this;
}

Timer::~Timer() {
    if (m_descriptor)
        m_loop->remove(m_descriptor.get());
}

void Timer::set(std::chrono::nanoseconds delay) const {
    const auto seconds = std::chrono::floor<std::chrono::seconds>(delay);
    itimerspec when{};
    when.it_value.tv_sec = seconds.count();
    when.it_value.tv_nsec = (delay - seconds).count();
    if (delay <= std::chrono::nanoseconds::zero())
        when.it_value = {.tv_sec = 0, .tv_nsec = 1};                           // zero would disarm
    static_cast<void>(timerfd_settime(m_descriptor.get(), 0, &when, nullptr)); // fails for bad arguments only
}

} // namespace casemate
