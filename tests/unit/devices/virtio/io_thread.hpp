// SPDX-License-Identifier: Apache-2.0
// IoThread: an EventLoop on a thread of its own, as devices have it, and a way to run test steps there.
#pragma once

#include "base/event_loop.hpp"

#include <chrono>
#include <doctest/doctest.h>
#include <functional>
#include <future>
#include <sys/epoll.h>
#include <thread>

namespace casemate::virtio {

class IoThread {
public:
    IoThread() {
        REQUIRE(m_loop->add(m_event.get(), EPOLLIN, [this](uint32_t) {
            consume_event(m_event);
            (*m_step)();
        }));
        m_thread = std::thread([this] { m_loop->run(); });
    }
    IoThread(const IoThread&) = delete;
    IoThread& operator=(const IoThread&) = delete;
    ~IoThread() {
        m_loop->stop();
        m_thread.join();
    }

    EventLoop& loop() { return *m_loop; }

    // Runs `step` on the thread and waits for its end.
    void run(std::function<void()> step) {
        std::packaged_task<void()> task(std::move(step));
        m_step = &task;
        signal_event(m_event);
        task.get_future().get();
        m_step = nullptr;
    }
    // Whether `condition`, asked on the thread, comes true within five seconds.
    bool eventually(const std::function<bool()>& condition) {
        const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(5);
        while (std::chrono::steady_clock::now() < end) {
            bool met = false;
            run([&] { met = condition(); });
            if (met)
                return true;
            std::this_thread::sleep_for(std::chrono::milliseconds(1));
        }
        return false;
    }

private:
    std::unique_ptr<EventLoop> m_loop = EventLoop::create().value();
    Fd m_event = create_event().value();
    std::packaged_task<void()>* m_step = nullptr;
    std::thread m_thread;
};

} // namespace casemate::virtio
