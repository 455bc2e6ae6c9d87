// SPDX-License-Identifier: Apache-2.0
// TerminalGuard: gives the user's terminal back when the process dies or stops by a signal.
//
// A signal handler can only reach globals, so this one file has some. They are why it lives in the command
// line tool: an embedder's signals are not the library's to take.
#pragma once

#include "devices/terminal.hpp"

#include <array>
#include <bitset>
#include <csignal>
#include <optional>
#include <sys/types.h>
#include <utility>
#include <vector>

namespace casemate {

// Construct it before Terminal::enter_raw(), from the main thread, at most one at a time. While it lives:
// - every signal whose default action ends the process, real-time ones too, restores the terminal first and
//   then does so with the same wait status; only SIGKILL cannot be caught. A signal that the caller blocks,
//   to take it from a signalfd, is left to the caller;
// - SIGTSTP restores the terminal and stops; SIGCONT makes it raw again, in the foreground;
// - SIGTTIN and SIGTTOU are ignored, so a job put into the background runs on, without its input, and so is
//   SIGPIPE: a console that nobody reads is no reason to end a guest. Nor is a disk image at RLIMIT_FSIZE,
//   whose SIGXFSZ is ignored: the write then fails with EFBIG and the guest sees an I/O error.
// exit(3) restores it too. Seccomp filters that kill cannot be caught; those that trap (SIGSYS) can.
class TerminalGuard {
public:
    explicit TerminalGuard(const std::optional<TerminalModes>& modes);
    TerminalGuard(const TerminalGuard&) = delete;
    TerminalGuard& operator=(const TerminalGuard&) = delete;
    // Restores the terminal, then the signals.
    ~TerminalGuard();

    // For who ends the process without unwinding. Async-signal-safe; nothing when no guard lives.
    static void restore_terminal();

private:
    static constexpr std::array ignored{SIGTTIN, SIGTTOU, SIGPIPE, SIGXFSZ};
    // signal(7): ignored by default, or not to be caught; or stops, or handled here otherwise.
    static constexpr std::array not_deadly{SIGCHLD, SIGURG,  SIGWINCH, SIGCONT, SIGKILL, SIGSTOP,
                                           SIGTSTP, SIGTTIN, SIGTTOU,  SIGPIPE, SIGXFSZ};

    void replace(int number, struct sigaction action);

    std::bitset<NSIG> m_replaced;
    std::vector<std::pair<int, struct sigaction>> m_handlers; // of those replaced that had one
};

} // namespace casemate
