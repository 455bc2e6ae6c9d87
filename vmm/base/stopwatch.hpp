// SPDX-License-Identifier: Apache-2.0
// Stopwatch: adds the time that it lives to a counter of nanoseconds.
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>

namespace casemate {

class Stopwatch {
public:
    // The counter outlives this.
    explicit Stopwatch(std::atomic<uint64_t>& nanoseconds)
        : m_nanoseconds(nanoseconds) {}
    Stopwatch(const Stopwatch&) = delete;
    Stopwatch& operator=(const Stopwatch&) = delete;
    ~Stopwatch() {
        const auto took = std::chrono::steady_clock::now() - m_begin;
        m_nanoseconds += static_cast<uint64_t>(std::chrono::nanoseconds(took).count());
    }

private:
    std::atomic<uint64_t>& m_nanoseconds;
    std::chrono::steady_clock::time_point m_begin = std::chrono::steady_clock::now();
};

} // namespace casemate
