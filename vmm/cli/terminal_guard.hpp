// SPDX-License-Identifier: Apache-2.0
// TerminalGuard: gives the user's terminal back when the process dies or stops by a signal.
//
// A signal handler can only reach globals, so this one file has some. They are why it lives in the command
// line tool: an embedder's signals are not the library's to take.
#pragma once

#include "devices/terminal.hpp"

#include <array>
#include <csignal>
#include <optional>
#include <sys/types.h>

namespace casemate {

// Construct it before Terminal::enter_raw(), from the main thread, at most one at a time. While it lives:
// - signals that end the process restore the terminal first, then do so with the same wait status. A signal
//   that the caller blocks, to take it from a signalfd, is left to the caller;
// - SIGTSTP restores the terminal and stops; SIGCONT makes it raw again, in the foreground;
// - SIGTTIN and SIGTTOU are ignored, so a job put into the background runs on, without its input, and so is
//   SIGPIPE: a console that nobody reads is no reason to end a guest. Nor is a disk image at RLIMIT_FSIZE,
//   whose SIGXFSZ is ignored: the write then fails with EFBIG and the guest sees an I/O error.
// Seccomp filters that kill cannot be caught; those that trap (SIGSYS) can.
class TerminalGuard {
public:
    explicit TerminalGuard(const std::optional<TerminalModes>& modes);
    TerminalGuard(const TerminalGuard&) = delete;
    TerminalGuard& operator=(const TerminalGuard&) = delete;
    // Restores the terminal, then the signals.
    ~TerminalGuard();

private:
    static constexpr std::array ignored{SIGTTIN, SIGTTOU, SIGPIPE, SIGXFSZ};
    static constexpr std::array deadly{SIGHUP, SIGINT,  SIGQUIT, SIGTERM, SIGSEGV, SIGBUS, SIGILL,
                                       SIGFPE, SIGABRT, SIGTRAP, SIGSYS,  SIGXCPU, SIGALRM};
    static constexpr std::array job_control{SIGTSTP, SIGCONT};

    struct Saved {
        int number;
        struct sigaction action;
    };
    void replace(int number, struct sigaction action);

    std::array<Saved, ignored.size() + deadly.size() + job_control.size()> m_saved{};
    size_t m_saved_count = 0;
};

} // namespace casemate
