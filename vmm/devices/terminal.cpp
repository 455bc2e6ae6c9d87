// SPDX-License-Identifier: Apache-2.0
#include "devices/terminal.hpp"

#include <cerrno>
#include <unistd.h>

namespace casemate {
namespace {

termios raw_from(termios modes) {
    const tcflag_t output = modes.c_oflag;
    cfmakeraw(&modes);
    // The monitor's own messages end in a bare newline and go to the same terminal. The guest's lines end in
    // "\r\n", which a second "\r" does not change.
    modes.c_oflag = output;
    modes.c_cc[VMIN] = 1;
    modes.c_cc[VTIME] = 0;
    return modes;
}

} // namespace

bool in_foreground(int descriptor) {
    // Fails when this is not our controlling terminal: then there is no job control to respect.
    const pid_t foreground = tcgetpgrp(descriptor);
    return foreground < 0 || foreground == getpgrp();
}

Terminal::Terminal(int descriptor) {
    termios cooked{};
    if (tcgetattr(descriptor, &cooked) == 0)
        m_modes = TerminalModes{.descriptor = descriptor, .cooked = cooked, .raw = raw_from(cooked)};
}

Terminal::~Terminal() {
    restore();
}

Result<void> Terminal::enter_raw() {
    if (!m_modes || !in_foreground(m_modes->descriptor))
        return {};
    m_entered = true;
    if (tcsetattr(m_modes->descriptor, TCSANOW, &m_modes->raw) != 0)
        return fail(Error::system("set the terminal to raw mode", errno));
    return {};
}

void Terminal::restore() {
    if (m_modes && m_entered && in_foreground(m_modes->descriptor))
        tcsetattr(m_modes->descriptor, TCSANOW, &m_modes->cooked);
    m_entered = false;
}

} // namespace casemate
