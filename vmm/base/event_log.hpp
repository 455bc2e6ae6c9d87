// SPDX-License-Identifier: Apache-2.0
// EventLog: what happens to a machine, one JSON object a line (RFC 8259, UTF-8), for programs.
#pragma once

#include "base/error.hpp"
#include "base/fd.hpp"

#include <chrono>
#include <cstdint>
#include <mutex>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

namespace casemate {

// A member's value. Addresses are strings, "0x...": JSON numbers lose bits above 2^53.
using EventValue = std::variant<bool, uint64_t, std::string>;
using EventFields = std::vector<std::pair<std::string, EventValue>>;
std::string hex_string(uint64_t value); // "0x1f"

// Thread-safe. Without a file every event is dropped.
class EventLog {
public:
    EventLog() = default;
    // Appends to `path`, which is created when it is not there; "-" is stderr. Never waits: what a pipe's
    // reader does not take is dropped and counted.
    static Result<EventLog> open(const char* path);
    EventLog(EventLog&& other) noexcept;

    // {"event":"<name>","time":<seconds since open, 6 decimals>,<fields>}: one line, one write(2). Bytes that
    // are not UTF-8 are replaced.
    void write(std::string_view name, const EventFields& fields);
    uint64_t dropped() const;

private:
};

// Lets a burst through and then one a tenth of a second; what it holds back is counted. Not thread-safe.
class RateLimit {
public:
    using Clock = std::chrono::steady_clock;
    static constexpr unsigned burst = 32;
    static constexpr std::chrono::milliseconds interval{100};
    // Whether the event may pass; then `suppressed` is how many were held back since the last that did.
    struct Pass {
        bool passes = false;
        uint64_t suppressed = 0;
    };
    Pass take(Clock::time_point now);

private:
};

} // namespace casemate
