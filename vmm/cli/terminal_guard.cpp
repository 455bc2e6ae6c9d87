// SPDX-License-Identifier: Apache-2.0
#include "cli/terminal_guard.hpp"

#include <algorithm>
#include <atomic>
#include <cassert>
#include <cerrno>
#include <cstdlib>
#include <sys/syscall.h>
#include <unistd.h>

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
    syscall(SYS_tgkill, getpid(), gettid(), number); // raise(3) refuses the signals that glibc uses
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

// glibc keeps the first two real-time signals for itself, 32 and 33, and its sigaction(2) refuses them. Until
// it uses them they end the process as any other. `like` is a signal that has the handler.
void handle_like(int number, int like) {
    // linux v6.12 arch/x86/include/uapi/asm/signal.h: struct sigaction; its restorer is glibc's own.
    struct KernelAction {
        void (*handler)(int);
        unsigned long flags;
        void (*restorer)();
        unsigned long mask;
    } action{};
    if (syscall(SYS_rt_sigaction, like, nullptr, &action, sizeof(action.mask)) == 0)
        syscall(SYS_rt_sigaction, number, &action, nullptr, sizeof(action.mask));
}

constexpr std::array glibc_signals{32, 33};

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
    static const bool at_exit = std::atexit(restore_terminal) == 0;
    static_cast<void>(at_exit);
    // Nothing interrupts a handler half way through changing the modes.
    sigfillset(&action.sa_mask);
    action.sa_handler = on_deadly;
    action.sa_flags = static_cast<int>(SA_RESETHAND | SA_ONSTACK);
    for (int number = 1; number <= SIGRTMAX; ++number)
        if (std::ranges::find(not_deadly, number) == not_deadly.end())
            replace(number, action);
    // The last one is nobody's but the user's, who has it ignored at most.
    for (const int number : glibc_signals)
        handle_like(number, SIGRTMAX);
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
    struct sigaction by_default{};
    by_default.sa_handler = SIG_DFL;
    for (int number = 1; number < NSIG; ++number)
        if (m_replaced.test(static_cast<size_t>(number)))
            sigaction(number, &by_default, nullptr);
    for (const auto& [number, action] : m_handlers)
        sigaction(number, &action, nullptr);
}

void TerminalGuard::restore_terminal() {
    set_modes(guarded_modes.cooked);
}

void TerminalGuard::replace(int number, struct sigaction action) {
    struct sigaction previous{};
    // nohup(1) and shells without job control ignore signals on purpose.
    if (sigaction(number, nullptr, &previous) != 0 || previous.sa_handler == SIG_IGN)
        return;
    sigaction(number, &action, nullptr);
    m_replaced.set(static_cast<size_t>(number));
    if (previous.sa_handler != SIG_DFL)
        m_handlers.emplace_back(number, previous);
}

} // namespace casemate
