// SPDX-License-Identifier: Apache-2.0
// Console: the cable between a guest's serial port and the user's standard input and output.
//
// Output is gathered for a moment and written in one piece on the I/O thread, so a character costs the guest
// its exit and nothing more. A slow reader holds the guest back and loses nothing; one that has stopped
// reading is given up after a while, and what the guest sends is dropped and counted until it reads again.
//
// Input is read from the host only as the guest takes it, in bursts with pauses: were a receive FIFO always
// full, Linux's interrupt handler would never finish and overflow its own buffer.
#pragma once

#include "base/event_loop.hpp"
#include "base/log.hpp"
#include "base/units.hpp"
#include "devices/escape_parser.hpp"
#include "devices/host_stream.hpp"
#include "devices/serial.hpp"
#include "devices/terminal.hpp"
#include "devices/timer.hpp"

#include <atomic>
#include <cerrno>
#include <chrono>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

namespace casemate {

class Console final : public SerialLine {
public:
    struct Options {
        int input = 0; // not owned, may be closed
        int output = 1;
        // A reader that takes nothing for so long has stopped.
        std::chrono::milliseconds patience = std::chrono::seconds(10);
        // What the user asks for by escape commands, on the I/O thread.
        std::function<void()> quit;
        std::function<void()> press_power_button;
    };

    // `terminal` is the one on the input descriptor, if any; it need not be raw yet. All must outlive the
    // console.
    static Result<std::unique_ptr<Console>> create(EventLoop& loop, Terminal& terminal, const Log& log,
                                                   Options options);
    Console(const Console&) = delete;
    Console& operator=(const Console&) = delete;
    // When the loop does not run.
    ~Console() override;

    // Connects the port, which must outlive the console's last event. Once, before the guest runs.
    Result<void> start(Serial& serial);
    // Writes what is left, as patiently as before, but no longer than `most`, and not after `hurry`, a
    // descriptor or -1, has become readable. After the guest and the loop have stopped.
    void finish(std::chrono::milliseconds most = std::chrono::hours(1), int hurry = -1);
    // What the guest printed and did not get out, and why. After finish().
    struct Loss {
        uint64_t bytes = 0;
        std::string why; // empty when nothing is lost
    };
    Loss loss();

    void send(std::byte character) override;
    bool can_send() override;
    void resume_receive() override;

private:
    using Clock = std::chrono::steady_clock;

    // The guest is held back when this much waits. Linux's console sends 16 characters every 160 ms even
    // then, so the limit is far enough away for any patience.
    static constexpr size_t hold_bytes = 32_KiB;
    static constexpr size_t limit_bytes = 48_KiB;
    static constexpr size_t flush_bytes = 4_KiB;
    static constexpr unsigned most_batches = 4; // written in one turn
    static constexpr std::chrono::milliseconds flush_delay{2};
    static constexpr size_t read_bytes = 4_KiB;
    // A terminal is read on when the guest is not: escape commands come in the same stream.
    static constexpr size_t typed_ahead_bytes = 64_KiB;

    Console(EventLoop& loop, Terminal& terminal, const Log& log, Options options);

    void write_out();
    void wrote(size_t bytes);
    void wait_for_reader(int error);
    void lose_reader(int error);
    void tell_loss();
    std::string why_lost() const;
    void unwatch_output();
    void report_dropped(uint64_t bytes);

    void input_ready();
    bool read_input();
    void feed_guest();
    void obey(EscapeCommand command);
    void watch_input();
    void unwatch_input();
    void look_for_foreground();

    EventLoop& m_loop;
    Terminal& m_terminal;
    const Log& m_log;
    const Options m_options;
    Serial* m_serial = nullptr;

    // The I/O thread's own.
    HostStream m_output;
    std::vector<std::byte> m_writing;
    size_t m_written = 0; // of m_writing
    bool m_blocked = false;
    bool m_output_watched = false;
    std::optional<int> m_unread;
    Clock::time_point m_looked;
    Clock::duration m_waited{}; // for a reader that took nothing
    LogSite m_dropped_site;
    bool m_loss_told = false;
    int m_output_error = EAGAIN; // why it was blocked or ended

    HostStream m_input;
    EscapeParser m_escapes;
    std::vector<std::byte> m_received;
    bool m_input_watched = false;
    bool m_input_watchable = true;
    bool m_in_background = true; // until found otherwise

    // When the guest was last fed: the time it takes to read a burst tells how long to leave it alone.
    std::atomic<Clock::time_point> m_fed{};

    std::mutex m_mutex; // guards all below; inside the Serial's lock, never held while calling anyone
    std::vector<std::byte> m_pending;
    size_t m_queued = 0;      // in m_pending and m_writing
    uint64_t m_dropped = 0;   // since it was told last
    uint64_t m_lost = 0;      // ever
    bool m_flush_due = false; // the I/O thread will call write_out()
    bool m_held_back = false; // the guest was told to wait
    bool m_reader_stopped = false;

    // Last: their handlers use all of the above.
    Timer m_output_timer;
    Timer m_input_timer;
    Timer m_foreground_timer;
};

} // namespace casemate
