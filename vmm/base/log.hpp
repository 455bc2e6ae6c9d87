// SPDX-License-Identifier: Apache-2.0
// Log: the monitor's messages on stderr. What a guest can cause is limited per call site.
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <mutex>
#include <string_view>

namespace casemate {

// One per place that reports something a guest did. A guest that repeats itself costs a counter, not a log.
class LogSite {
private:
    friend class Log;
    // The first `burst` messages pass, then one every `interval`, which also tells how many were dropped.
    static constexpr unsigned burst = 5;
    static constexpr std::chrono::seconds interval{1};

    std::mutex m_mutex;
    unsigned m_passed = 0;
    uint64_t m_suppressed = 0;
    std::chrono::steady_clock::time_point m_last;
};

// Thread-safe; each message is one line and one write(2).
class Log {
public:
    // Does not own the descriptor. A negative one drops every message.
    explicit Log(int descriptor)
        : m_descriptor(descriptor) {}

    // Something the user should know: not limited. Who does not read stderr is waited for once, for
    // `patience`; what then does not go out is dropped and counted, for neither the watch over a guest nor
    // its end may depend on that.
    void host(std::string_view message) const;
    static constexpr std::chrono::milliseconds patience{500};
    // Something the guest did: limited by `site`, and dropped while writing it would block.
    void guest(LogSite& site, std::string_view message) const;
    // Messages of host() that did not go out: nobody reads, or the descriptor takes no more.
    uint64_t lost() const;

private:
    bool has_room(std::chrono::milliseconds wait) const;

    int m_descriptor;
    mutable std::mutex m_mutex; // one message at a time between the look and the write
    mutable std::atomic<bool> m_reader_stopped = false;
    mutable uint64_t m_dropped = 0; // of the host's messages, since the last that went out
    mutable uint64_t m_lost = 0;    // of them, ever
};

} // namespace casemate
