// SPDX-License-Identifier: Apache-2.0
// Timer: a one-shot alarm that runs a handler on an EventLoop's thread.
#pragma once

#include "base/event_loop.hpp"

#include <chrono>
#include <functional>
#include <utility>

namespace casemate {

class Timer {
public:
    // The loop must outlive the timer. Destroy it on the loop's thread, or when the loop does not run.
    static Result<Timer> create(EventLoop& loop, std::function<void()> handler);
    // Empty: set() must not be called.
    Timer() = default;
    Timer(Timer&&) = default;
    Timer& operator=(Timer&& other) noexcept;
    Timer(const Timer&) = delete;
    Timer& operator=(const Timer&) = delete;
    ~Timer();

    // Any thread, one system call. Replaces what was set before.
    void set(std::chrono::nanoseconds delay) const;

private:
    Timer(EventLoop& loop, Fd descriptor)
        : m_loop(&loop)
        , m_descriptor(std::move(descriptor)) {}

    EventLoop* m_loop = nullptr;
    Fd m_descriptor;
};

} // namespace casemate
