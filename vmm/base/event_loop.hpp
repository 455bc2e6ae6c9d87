// SPDX-License-Identifier: Apache-2.0
// EventLoop: one thread that waits on descriptors and calls who registered them.
#pragma once

#include "base/error.hpp"
#include "base/fd.hpp"
#include "base/poll_window.hpp"

#include <array>
#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <sys/epoll.h>
#include <unordered_map>

namespace casemate {

class EventLoop {
public:
    // `events` as epoll_event.events. Runs on the loop's thread.
    using Handler = std::function<void(uint32_t events)>;

    static Result<std::unique_ptr<EventLoop>> create();
    EventLoop(const EventLoop&) = delete;
    EventLoop& operator=(const EventLoop&) = delete;
    ~EventLoop() = default;

    // Watches `descriptor` (not owned; remove it before closing it) for `events`: EPOLLIN and so on, level
    // triggered unless EPOLLET is among them. Any thread. Fails with EPERM for regular files, EEXIST when
    // watched already.
    Result<void> add(int descriptor, uint32_t events, Handler handler);
    // Changes what is waited for; 0 pauses. Any thread.
    Result<void> modify(int descriptor, uint32_t events);
    // No call of the handler starts after this returns when called on the loop's thread or when the loop is
    // not running; from another thread one call may still be under way.
    void remove(int descriptor);

    // Runs on the calling thread until stop().
    void run();
    // Any thread, any number of times.
    void stop();
    // Calls the handlers of what is ready now and returns whether there were any: for a caller with a loop of
    // its own, who takes the place of the loop's thread.
    bool poll();
    // On the loop's thread: the next event is likely within microseconds, so run() may poll for it before it
    // sleeps, for a time that adapts (PollWindow).
    void expect_next_soon() { m_next_is_soon = true; }

private:
    EventLoop(Fd epoll, Fd wake);
    using Events = std::array<epoll_event, 16>;
    // What is ready, and how much; -1 with errno.
    int wait(Events& ready, int timeout_ms);
    int poll_then_wait(Events& ready);
    void handle(const Events& ready, int count);

    Fd m_epoll;
    Fd m_wake;
    std::atomic<bool> m_stopping = false;
    bool m_next_is_soon = false; // this and the next: the loop's thread alone
    PollWindow m_poll_window;
    std::mutex m_mutex; // guards m_handlers; never held while a handler runs
    std::unordered_map<int, std::shared_ptr<Handler>> m_handlers;
};

} // namespace casemate
