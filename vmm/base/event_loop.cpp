// SPDX-License-Identifier: Apache-2.0
#include "base/event_loop.hpp"

#include <cerrno>
#include <chrono>
#include <sched.h>
#include <utility>

namespace casemate {
namespace {

int usable_cpus() {
    cpu_set_t cpus;
    return sched_getaffinity(0, sizeof(cpus), &cpus) == 0 ? CPU_COUNT(&cpus) : 1;
}

} // namespace

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

int EventLoop::wait(Events& ready, int timeout_ms) {
    return epoll_wait(m_epoll.get(), ready.data(), static_cast<int>(ready.size()), timeout_ms);
}

int EventLoop::poll_then_wait(Events& ready) {
    const auto begin = std::chrono::steady_clock::now();
    const auto waited = [begin] { return std::chrono::steady_clock::now() - begin; };
    int count = 0;
    while (count == 0 && waited() < m_poll_window.length())
        count = wait(ready, 0);
    if (count == 0)
        count = wait(ready, -1);
    m_poll_window.waited(waited());
    return count;
}

void EventLoop::handle(const Events& ready, int count) {
    for (size_t i = 0; std::cmp_less(i, count) && !m_stopping; ++i) {
        std::shared_ptr<Handler> handler;
        {
            const std::lock_guard lock(m_mutex);
            const auto found = m_handlers.find(ready[i].data.fd);
            if (found != m_handlers.end())
                handler = found->second;
        }
        if (handler)
            (*handler)(ready[i].events);
    }
}

void EventLoop::run() {
    // Whoever makes the next event ready needs a CPU meanwhile.
    const bool may_poll = usable_cpus() > 1;
    Events ready;
    while (!m_stopping) {
        const bool soon = std::exchange(m_next_is_soon, false);
        handle(ready, soon && may_poll ? poll_then_wait(ready) : wait(ready, -1));
    }
}

bool EventLoop::poll() {
    Events ready;
    const int count = wait(ready, 0);
    handle(ready, count);
    return count > 0;
}

void EventLoop::stop() {
    m_stopping = true;
    signal_event(m_wake);
}

} // namespace casemate
