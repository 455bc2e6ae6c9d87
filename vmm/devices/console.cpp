// SPDX-License-Identifier: Apache-2.0
#include "devices/console.hpp"

#include <algorithm>
#include <array>
#include <cerrno>
#include <fmt/core.h>
#include <poll.h>
#include <sys/epoll.h>
#include <utility>

namespace casemate {
namespace {

using namespace std::chrono_literals;

// Between bursts the guest is left alone for as long as it took to read the last one, so that on a slow host
// too half of its time is free to do something with what it read.
constexpr std::chrono::nanoseconds min_pause = 1ms;
constexpr std::chrono::nanoseconds max_pause = 20ms;

// How often a job in the background looks whether it has come to the foreground.
constexpr auto foreground_interval = 1s;

} // namespace

Result<std::unique_ptr<Console>> Console::create(EventLoop& loop, Terminal& terminal, const Log& log,
                                                 Options options) {
    std::unique_ptr<Console> console(new Console(loop, terminal, log, std::move(options)));
    Console& self = *console;
    self.m_output_timer = TRY(Timer::create(loop, [&self] { self.write_out(); }));
    self.m_input_timer = TRY(Timer::create(loop, [&self] { self.feed_guest(); }));
    self.m_foreground_timer = TRY(Timer::create(loop, [&self] { self.look_for_foreground(); }));
    return console;
}

Console::Console(EventLoop& loop, Terminal& terminal, const Log& log, Options options)
    : m_loop(loop)
    , m_terminal(terminal)
    , m_log(log)
    , m_options(std::move(options))
    , m_output(m_options.output, HostStream::Direction::output)
    , m_input(m_options.input, HostStream::Direction::input) {}

Console::~Console() {
    unwatch_output();
    unwatch_input();
}

Result<void> Console::start(Serial& serial) {
    m_serial = &serial;
    // On the loop's thread from here on.
    m_foreground_timer.set(0ns);
    return {};
}

// Output.

void Console::send(std::byte character) {
    const std::lock_guard lock(m_mutex);
    if (m_reader_stopped || m_queued >= limit_bytes) {
        ++m_dropped;
        ++m_lost;
        return;
    }
    m_pending.push_back(character);
    ++m_queued;
    if (!std::exchange(m_flush_due, true))
        m_output_timer.set(flush_delay);
    else if (m_queued == flush_bytes)
        m_output_timer.set(0ns);
}

bool Console::can_send() {
    const std::lock_guard lock(m_mutex);
    m_held_back = !m_reader_stopped && m_queued >= hold_bytes;
    return !m_held_back;
}

void Console::write_out() {
    for (unsigned batches = 0;;) {
        if (m_written == m_writing.size()) {
            // A guest that prints without pause must not keep the I/O thread from its other descriptors.
            if (batches++ == most_batches) {
                m_output_timer.set(0ns);
                return;
            }
            m_writing.clear();
            m_written = 0;
            uint64_t dropped = 0;
            {
                const std::lock_guard lock(m_mutex);
                m_writing.swap(m_pending);
                m_flush_due = !m_writing.empty();
                if (!m_flush_due)
                    dropped = std::exchange(m_dropped, 0);
            }
            report_dropped(dropped);
            if (m_writing.empty()) {
                unwatch_output();
                m_blocked = false;
                return;
            }
        }
        const auto outcome = m_output.write(std::span(m_writing).subspan(m_written));
        switch (outcome.status) {
        case HostStream::Status::done:
            wrote(outcome.bytes);
            break;
        case HostStream::Status::blocked:
        case HostStream::Status::denied:
            wait_for_reader(outcome.error);
            return;
        case HostStream::Status::ended:
            lose_reader(outcome.error);
            return;
        }
    }
}

void Console::wrote(size_t bytes) {
    m_written += bytes;
    m_blocked = false;
    bool resume = false;
    uint64_t dropped = 0;
    {
        const std::lock_guard lock(m_mutex);
        m_queued -= bytes;
        if (std::exchange(m_reader_stopped, false))
            dropped = std::exchange(m_dropped, 0);
        if (m_held_back && m_queued < hold_bytes) {
            m_held_back = false;
            resume = true;
        }
    }
    report_dropped(dropped);
    if (resume)
        m_serial->resume_transmit();
}

void Console::wait_for_reader(int error) {
    m_output_error = error;
    const auto now = Clock::now();
    const auto unread = m_output.unread();
    // A full pipe polls writable only when a whole page of it is free; what is unread shrinks byte by byte.
    if (!std::exchange(m_blocked, true) || unread < m_unread)
        m_waited = {};
    else // what comes much too late was late with the whole process, and the reader perhaps too
        m_waited += std::min<Clock::duration>(now - m_looked, m_options.patience / 4);
    m_looked = now;
    m_unread = unread;
    if (m_waited >= m_options.patience) {
        bool resume = false;
        {
            const std::lock_guard lock(m_mutex);
            m_reader_stopped = true;
            resume = std::exchange(m_held_back, false);
        }
        // Until then nothing is lost.
        tell_loss();
        if (resume)
            m_serial->resume_transmit();
    }
    // Regular files on a full disk cannot be watched: the timer tries again.
    if (!m_output_watched)
        m_output_watched =
            m_loop.add(m_output.watchable(), EPOLLOUT, [this](uint32_t) { write_out(); }).has_value();
    m_output_timer.set(std::min<std::chrono::nanoseconds>(m_options.patience / 8, 1s));
}

void Console::lose_reader(int error) {
    m_output_error = error;
    unwatch_output();
    m_writing.clear();
    m_written = 0;
    bool resume = false;
    {
        const std::lock_guard lock(m_mutex);
        m_dropped += m_queued;
        m_lost += m_queued;
        m_queued = 0;
        m_pending.clear();
        m_reader_stopped = true;
        resume = std::exchange(m_held_back, false);
    }
    tell_loss();
    if (resume)
        m_serial->resume_transmit();
}

void Console::tell_loss() {
    if (!std::exchange(m_loss_told, true))
        m_log.host(fmt::format("console: {}; the guest runs on, and what is lost of its output is counted",
                               why_lost()));
}

std::string Console::why_lost() const {
    switch (m_output_error) {
    case EAGAIN:
        return "nobody reads standard output";
    case EPIPE:
        return "the reader of standard output is gone";
    case EBADF:
        return "standard output is closed";
    default:
        return "cannot write to standard output: " + describe_errno(m_output_error);
    }
}

Console::Loss Console::loss() {
    const std::lock_guard lock(m_mutex);
    const uint64_t bytes = m_lost + m_queued;
    return {.bytes = bytes, .why = bytes != 0 ? why_lost() : ""};
}

void Console::unwatch_output() {
    // Removed, not paused: epoll reports a closed other end whatever it waits for.
    if (std::exchange(m_output_watched, false))
        m_loop.remove(m_output.watchable());
}

void Console::report_dropped(uint64_t bytes) {
    // Of one that never reads again the end tells.
    if (bytes != 0 && !m_output.ended())
        m_log.guest(m_dropped_site,
                    fmt::format("console: {} bytes were not read in time and dropped", bytes));
}

void Console::finish(std::chrono::milliseconds most, int hurry) {
    const auto until = Clock::now() + most;
    // Batch by batch; a guest left no more than limit_bytes.
    write_out();
    while (m_output_watched) {
        const auto left = std::chrono::duration_cast<std::chrono::milliseconds>(until - Clock::now());
        if (left <= 0ms)
            break;
        std::array entries{pollfd{.fd = m_output.watchable(), .events = POLLOUT, .revents = 0},
                           pollfd{.fd = hurry, .events = POLLIN, .revents = 0}};
        poll(entries.data(), entries.size(),
             static_cast<int>(std::clamp<int64_t>(std::min(m_options.patience / 8, left).count(), 1, 1000)));
        if (entries[1].revents != 0)
            break;
        write_out();
        const std::lock_guard lock(m_mutex);
        if (m_reader_stopped)
            break;
    }
    unwatch_output();
}

// Input.

void Console::resume_receive() {
    const auto took = Clock::now() - m_fed.load();
    m_input_timer.set(std::clamp<std::chrono::nanoseconds>(took, min_pause, max_pause));
}

void Console::look_for_foreground() {
    if (const auto& modes = m_terminal.modes(); modes && !in_foreground(modes->descriptor)) {
        m_foreground_timer.set(foreground_interval);
        return;
    }
    m_in_background = false;
    if (const auto raw = m_terminal.enter_raw(); !raw)
        m_log.host(raw.error().message());
    watch_input();
    feed_guest();
}

void Console::input_ready() {
    read_input();
    feed_guest();
}

bool Console::read_input() {
    std::array<std::byte, read_bytes> buffer;
    const auto outcome = m_input.read(buffer);
    switch (outcome.status) {
    case HostStream::Status::done:
        break;
    case HostStream::Status::blocked:
        return false;
    case HostStream::Status::denied:
        unwatch_input();
        m_in_background = true;
        m_foreground_timer.set(foreground_interval);
        return false;
    case HostStream::Status::ended:
        unwatch_input();
        return false;
    }
    const auto bytes = std::span(buffer).first(outcome.bytes);
    if (!m_terminal.modes()) {
        m_received.insert(m_received.end(), bytes.begin(), bytes.end());
        return true;
    }
    for (const std::byte byte : bytes) {
        const auto step = m_escapes.next(byte);
        m_received.insert(m_received.end(), step.characters, step.characters + step.count);
        obey(step.command);
    }
    return true;
}

void Console::feed_guest() {
    do {
        m_fed = Clock::now();
        const size_t taken = m_serial->receive(m_received);
        m_received.erase(m_received.begin(), m_received.begin() + static_cast<std::ptrdiff_t>(taken));
    } while (m_received.empty() && !m_input_watchable && read_input());

    const size_t most = m_terminal.modes() ? typed_ahead_bytes : read_bytes;
    if (m_received.size() >= most)
        unwatch_input();
    else if (m_received.empty())
        watch_input();
}

void Console::obey(EscapeCommand command) {
    switch (command) {
    case EscapeCommand::none:
        break;
    case EscapeCommand::quit:
        if (m_options.quit)
            m_options.quit();
        break;
    case EscapeCommand::power_button:
        if (m_options.press_power_button)
            m_options.press_power_button();
        break;
    case EscapeCommand::help:
        m_log.host(EscapeParser::help);
        break;
    }
}

void Console::watch_input() {
    if (m_input_watched || !m_input_watchable || m_in_background || m_input.ended())
        return;
    m_input_watched =
        m_loop.add(m_input.watchable(), EPOLLIN, [this](uint32_t) { input_ready(); }).has_value();
    // Regular files and /dev/null are always ready: read whenever the guest has taken all.
    m_input_watchable = m_input_watched;
}

void Console::unwatch_input() {
    if (std::exchange(m_input_watched, false))
        m_loop.remove(m_input.watchable());
}

} // namespace casemate
