// SPDX-License-Identifier: Apache-2.0
// Terminal: the modes of the user's terminal while a guest's console is on it.
//
// It keeps no global state and installs no signal handler; cli/terminal_guard.hpp restores the modes when the
// process dies instead.
#pragma once

#include "base/error.hpp"

#include <optional>
#include <termios.h>

namespace casemate {

struct TerminalModes {
    int descriptor;
    termios cooked; // as the user had it
    termios raw;    // every key goes to the guest
};

// False only for a background job: it must not touch its controlling terminal. Safe in signal handlers.
bool in_foreground(int descriptor);

class Terminal {
public:
    // Reads the modes; changes nothing. `descriptor`, not owned, may be anything, also closed.
    explicit Terminal(int descriptor);
    Terminal(const Terminal&) = delete;
    Terminal& operator=(const Terminal&) = delete;
    ~Terminal();

    // None when the descriptor is no terminal.
    const std::optional<TerminalModes>& modes() const { return m_modes; }

    // Does nothing when there is no terminal, or in the background: call it again once in_foreground().
    Result<void> enter_raw();
    // As the user had it. Also done on destruction.
    void restore();

private:
    std::optional<TerminalModes> m_modes;
    bool m_entered = false;
};

} // namespace casemate
