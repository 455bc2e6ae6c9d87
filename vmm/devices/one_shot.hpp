// SPDX-License-Identifier: Apache-2.0
// OneShot: a callback that runs at most once, whichever threads ask for it.
#pragma once

#include <atomic>
#include <functional>
#include <utility>

namespace casemate {

class OneShot {
public:
    // An empty callback is allowed and does nothing.
    explicit OneShot(std::function<void()> callback)
        : m_callback(std::move(callback)) {}

    void operator()() {
        if (!m_done.test_and_set() && m_callback)
            m_callback();
    }

private:
    std::atomic_flag m_done;
    std::function<void()> m_callback;
};

} // namespace casemate
