// SPDX-License-Identifier: Apache-2.0
#include "cli/terminal_guard.hpp"

#include <atomic>
#include <cassert>
#include <cerrno>

namespace casemate {
namespace {

// Written while no handler is installed; `guarding` publishes it to handlers on any thread.
TerminalModes guarded_modes;
std::atomic<bool> guarding = false;
static_assert(std::atomic<bool>::is_always_lock_free, "used in signal handlers");

// Everything below is async-signal-safe: signal-safety(7).

void set_modes(const termios& modes) {
    if (guarding && in_foreground(guarded_modes.descriptor))
        tcsetattr(guarded_modes.descriptor, TCSANOW, &modes);
}

// SA_RESETHAND has put the default action back. The raised signal is delivered when the handler returns and
// its mask goes, so a core dump shows the place of the fault.
void on_deadly(int number) {
    const int saved_errno = errno;
    set_modes(guarded_modes.cooked);
    static_cast<void>(raise(number));
    errno = saved_errno;
}

// Stops by the default action, so that the shell sees SIGTSTP and an orphaned process group, which nobody
// could continue, runs on.
void on_stop(int number) {
    const int saved_errno = errno;
    set_modes(guarded_modes.cooked);
    struct sigaction stop{};
    struct sigaction handler{};
    stop.sa_handler = SIG_DFL;
    sigaction(number, &stop, &handler);
    static_cast<void>(raise(number));
    sigset_t only_this;
    sigset_t mask;
    sigemptyset(&only_this);
    sigaddset(&only_this, number);
    pthread_sigmask(SIG_UNBLOCK, &only_this, &mask); // stops here
    pthread_sigmask(SIG_SETMASK, &mask, nullptr);
    sigaction(number, &handler, nullptr);
    set_modes(guarded_modes.raw);
    errno = saved_errno;
}

void on_continue(int) {
    const int saved_errno = errno;
    set_modes(guarded_modes.raw);
    errno = saved_errno;
}

} // namespace

TerminalGuard::TerminalGuard(const std::optional<TerminalModes>& modes) {
    assert(!guarding);
    struct sigaction action{};
    sigemptyset(&action.sa_mask);
    action.sa_handler = SIG_IGN;
    for (const int number : ignored)
        replace(number, action);
    if (!modes)
        return;

    guarded_modes = *modes;
    guarding = true;
    // Nothing interrupts a handler half way through changing the modes.
    sigfillset(&action.sa_mask);
    action.sa_handler = on_deadly;
    action.sa_flags = static_cast<int>(SA_RESETHAND | SA_ONSTACK);
    for (const int number : deadly)
        replace(number, action);
    action.sa_flags = SA_RESTART | SA_ONSTACK;
    action.sa_handler = on_stop;
    replace(SIGTSTP, action);
    action.sa_handler = on_continue;
    replace(SIGCONT, action);
}

TerminalGuard::~TerminalGuard() {
    if (guarding) {
        set_modes(guarded_modes.cooked);
        guarding = false;
    }
    for (size_t i = 0; i < m_saved_count; ++i)
        sigaction(m_saved[i].number, &m_saved[i].action, nullptr);
}

void TerminalGuard::replace(int number, struct sigaction action) {
    struct sigaction previous{};
    sigaction(number, nullptr, &previous);
    // nohup(1) and shells without job control ignore signals on purpose.
    if (previous.sa_handler == SIG_IGN)
        return;
    sigaction(number, &action, nullptr);
    m_saved[m_saved_count++] = {.number = number, .action = previous};
}

} // namespace casemate
