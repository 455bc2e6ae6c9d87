// SPDX-License-Identifier: Apache-2.0
// EventLog: what happens to a machine, one JSON object a line (RFC 8259, UTF-8), for programs.
#pragma once

#include "base/error.hpp"
#include "base/fd.hpp"
#include "base/log.hpp"

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

// Thread-safe. Without a file every event is dropped. The process must ignore SIGPIPE and SIGXFSZ.
class EventLog {
public:
    EventLog() = default;
    // Appends to `path`, which is created, for its owner only, when it is not there; "-" is stderr. Never
    // waits: what a pipe's reader or a full disk does not take is dropped by whole lines and counted. A FIFO
    // may get its reader later: until then it keeps what it has room for. `log`, which outlives it, hears
    // once when the first event is lost.
    static Result<EventLog> open(const char* path, const Log* log = nullptr);
    // Not while another thread uses `other`.
    EventLog(EventLog&& other) noexcept;
    EventLog& operator=(EventLog&&) = delete;
    EventLog(const EventLog&) = delete;
    EventLog& operator=(const EventLog&) = delete;
    ~EventLog();

    // {"event":"<name>","time":<seconds since open, 6 decimals>,<fields>}: one line, one write(2) where the
    // file takes it whole. Control characters are escaped, bytes that are not UTF-8 replaced.
    void write(std::string_view name, const EventFields& fields);
    // Events that did not go out.
    uint64_t dropped() const;
    // The same, with the last one when its line is not complete, and why. When no more come.
    struct Loss {
        uint64_t events = 0;
        std::string why; // empty when nothing is lost
    };
    Loss loss();

private:
    enum class Kind {
        non_blocking, // a file, or a description of our own with O_NONBLOCK
        socket,       // not to be reopened; MSG_DONTWAIT does the same
        shared,       // O_NONBLOCK would change it for other processes too
    };
    EventLog(std::string path, Fd fd, Kind kind)
        : m_path(std::move(path))
        , m_fd(std::move(fd))
        , m_kind(kind) {}
    static Result<EventLog> standard_error();
    static Result<EventLog> open_path(const char* path);

    std::string line_of(std::string_view name, const EventFields& fields) const;
    size_t put(std::string_view bytes);
    bool put_rest();
    bool put_line(const std::string& line);
    void tell_loss(const std::string& why) const;
    std::string why_lost() const;

    mutable std::mutex m_mutex;
    std::string m_path; // "stderr" for "-"
    const Log* m_log = nullptr;
    Fd m_fd;
    Kind m_kind = Kind::non_blocking;
    std::chrono::steady_clock::time_point m_opened = std::chrono::steady_clock::now();
    std::string m_rest; // the end of a line whose start went out
    uint64_t m_dropped = 0;
    int m_failure = 0; // why the file last took no more, an errno value
};

// Lets a burst through and then one a second; what it holds back is counted. Not thread-safe.
class RateLimit {
public:
    using Clock = std::chrono::steady_clock;
    static constexpr unsigned burst = 1024;
    static constexpr std::chrono::milliseconds interval{1000};
    // Whether the event may pass; then `suppressed` is how many were held back since the last that did.
    struct Pass {
        bool passes = false;
        uint64_t suppressed = 0;
    };
    Pass take(Clock::time_point now);

private:
    unsigned m_passed = 0;
    uint64_t m_suppressed = 0;
    Clock::time_point m_last;
};

} // namespace casemate
