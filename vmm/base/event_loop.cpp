// SPDX-License-Identifier: Apache-2.0
#include "base/event_loop.hpp"

#include <array>
#include <cerrno>
#include <sys/epoll.h>

namespace casemate {

EventLoop::EventLoop(Fd epoll, Fd wake)
    : m_epoll(std::move(epoll))
    , m_wake(std::move(wake)) {}

Result<std::unique_ptr<EventLoop>> EventLoop::create() {
    Fd epoll(epoll_create1(EPOLL_CLOEXEC));
    if (!epoll)
        return fail(Error::system("epoll_create1", errno));
    Fd wake = TRY(create_event());
    std::unique_ptr<EventLoop> loop(new EventLoop(std::move(epoll), std::move(wake)));
    TRY(loop->add(loop->m_wake.get(), EPOLLIN, [](uint32_t) {}));
    return loop;
}

Result<void> EventLoop::add(int descriptor, uint32_t events, Handler handler) {
    const std::lock_guard lock(m_mutex);
    epoll_event event{.events = events, .data = {.fd = descriptor}};
    if (epoll_ctl(m_epoll.get(), EPOLL_CTL_ADD, descriptor, &event) != 0)
        return fail(Error::system("epoll_ctl EPOLL_CTL_ADD", errno));
    m_handlers[descriptor] = std::make_shared<Handler>(std::move(handler));
    return {};
}

Result<void> EventLoop::modify(int descriptor, uint32_t events) {
    epoll_event event{.events = events, .data = {.fd = descriptor}};
    if (epoll_ctl(m_epoll.get(), EPOLL_CTL_MOD, descriptor, &event) != 0)
        return fail(Error::system("epoll_ctl EPOLL_CTL_MOD", errno));
    return {};
}

void EventLoop::remove(int descriptor) {
    const std::lock_guard lock(m_mutex);
    epoll_ctl(m_epoll.get(), EPOLL_CTL_DEL, descriptor, nullptr);
    m_handlers.erase(descriptor);
}

int EventLoop::handle_ready(int timeout_ms) {
    std::array<epoll_event, 16> events;
    const int count = epoll_wait(m_epoll.get(), events.data(), events.size(), timeout_ms);
    for (int i = 0; i < count && !m_stopping; ++i) {
        std::shared_ptr<Handler> handler;
        {
            const std::lock_guard lock(m_mutex);
            const auto found = m_handlers.find(events[static_cast<size_t>(i)].data.fd);
            if (found != m_handlers.end())
                handler = found->second;
        }
        if (handler)
            (*handler)(events[static_cast<size_t>(i)].events);
    }
    return count;
}

void EventLoop::run() {
    while (!m_stopping)
        handle_ready(-1);
}

bool EventLoop::poll() {
    return handle_ready(0) > 0;
}

void EventLoop::stop() {
    m_stopping = true;
    signal_event(m_wake);
}

} // namespace casemate
