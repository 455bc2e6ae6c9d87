// SPDX-License-Identifier: Apache-2.0
#include "cli/terminal_guard.hpp"

#include "base/fd.hpp"

#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <doctest/doctest.h>
#include <exception>
#include <functional>
#include <pty.h>
#include <sys/ioctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

namespace casemate {
namespace {

#ifdef __SANITIZE_THREAD__ // GCC's
constexpr bool runs_under_tsan = true;
#else
constexpr bool runs_under_tsan = false;
#endif

struct Pty {
    Fd user;
    Fd tty;
    Pty() {
        int master = -1;
        int slave = -1;
        REQUIRE(openpty(&master, &slave, nullptr, nullptr, nullptr) == 0);
        user = Fd(master);
        tty = Fd(slave);
    }
    bool is_raw() const {
        termios modes{};
        REQUIRE(tcgetattr(tty.get(), &modes) == 0);
        return (modes.c_lflag & (ICANON | ECHO | ISIG)) == 0;
    }
};

void by_default() {
    const rlimit no_core{};
    setrlimit(RLIMIT_CORE, &no_core);
    for (int number = 1; number <= SIGRTMAX; ++number)
        static_cast<void>(std::signal(number, SIG_DFL)); // the test runner's
}

// raise(3) knows nothing of the signals that glibc keeps for itself.
void send_to_self(int number) {
    syscall(SYS_tgkill, getpid(), gettid(), number);
}

// Runs `body` in a child that has made the terminal its controlling one and raw.
pid_t start(const Pty& pty, const std::function<void()>& body) {
    const pid_t child = fork();
    REQUIRE(child >= 0);
    if (child != 0)
        return child;
    by_default();
    setsid();
    ioctl(pty.tty.get(), TIOCSCTTY, 0);
    {
        Terminal terminal(pty.tty.get());
        const TerminalGuard guard(terminal.modes());
        if (!terminal.enter_raw() || !pty.is_raw())
            _exit(99);
        body();
    }
    _exit(0);
}

int wait_for(pid_t child, int flags = 0) {
    int status = 0;
    REQUIRE(waitpid(child, &status, flags) == child);
    return status;
}

TEST_CASE("the terminal is restored at a normal end") {
    const Pty pty;
    const int status = wait_for(start(pty, [] {}));
    CHECK(WIFEXITED(status));
    CHECK(WEXITSTATUS(status) == 0);
    CHECK_FALSE(pty.is_raw());
}

TEST_CASE("the terminal is restored whatever signal ends the process, with its wait status") {
    int ended = 0;
    for (int number = 1; number <= SIGRTMAX; ++number) {
        if (number == SIGKILL || number == SIGSTOP || number == SIGTSTP || number == SIGTTIN ||
            number == SIGTTOU)
            continue;
        if (runs_under_tsan && (number == 32 || number == 33))
            continue; // TSan runs no handler that its sigaction(2) has not seen, and glibc's refuses these
        CAPTURE(number);
        // What the kernel makes of it without us.
        const pid_t plain = fork();
        REQUIRE(plain >= 0);
        if (plain == 0) {
            by_default();
            send_to_self(number);
            _exit(0);
        }
        const bool deadly = WIFSIGNALED(wait_for(plain)) && number != SIGPIPE && number != SIGXFSZ;
        const Pty pty;
        const int status = wait_for(start(pty, [number] { send_to_self(number); }));
        if (deadly) {
            CHECK(WIFSIGNALED(status));
            CHECK(WTERMSIG(status) == number);
            ++ended;
        } else {
            CHECK(WIFEXITED(status));
        }
        CHECK_FALSE(pty.is_raw());
    }
    CHECK(ended == (runs_under_tsan ? 51 : 53));
}

TEST_CASE("the terminal is restored by exit, by an exception that nobody catches, and by who asks for it") {
    const Pty left;
    std::fflush(nullptr);                                     // else the child writes out what waits here
    int status = wait_for(start(left, [] { std::exit(3); })); // NOLINT(concurrency-mt-unsafe)
    CHECK(WEXITSTATUS(status) == 3);
    CHECK_FALSE(left.is_raw());
    const Pty thrown;
    status = wait_for(start(thrown, [] { std::terminate(); }));
    CHECK(WTERMSIG(status) == SIGABRT);
    CHECK_FALSE(thrown.is_raw());
    const Pty asked;
    status = wait_for(start(asked, [] {
        TerminalGuard::restore_terminal();
        _exit(4);
    }));
    CHECK(WEXITSTATUS(status) == 4);
    CHECK_FALSE(asked.is_raw());
}

TEST_CASE("a signal that the caller ignores on purpose stays ignored") {
    const Pty pty;
    const pid_t child = fork();
    REQUIRE(child >= 0);
    if (child == 0) {
        by_default();
        static_cast<void>(std::signal(SIGHUP, SIG_IGN));
        setsid();
        ioctl(pty.tty.get(), TIOCSCTTY, 0);
        Terminal terminal(pty.tty.get());
        const TerminalGuard guard(terminal.modes());
        if (!terminal.enter_raw())
            _exit(99);
        raise(SIGHUP);
        _exit(pty.is_raw() ? 0 : 1);
    }
    const int status = wait_for(child);
    CHECK(WIFEXITED(status));
    CHECK(WEXITSTATUS(status) == 0);
}

TEST_CASE("the terminal is restored when the process crashes by itself") {
    const Pty fault;
    int status = wait_for(start(fault, [] { *static_cast<volatile int*>(nullptr) = 1; })); // NOLINT
    CHECK(WTERMSIG(status) == SIGSEGV);
    CHECK_FALSE(fault.is_raw());
    const Pty abandoned;
    status = wait_for(start(abandoned, [] { std::abort(); }));
    CHECK(WTERMSIG(status) == SIGABRT);
    CHECK_FALSE(abandoned.is_raw());
}

TEST_CASE("stopping restores the terminal and continuing makes it raw again") {
    const Pty pty;
    // A child's child: its process group has a parent in the session, else SIGTSTP would not stop it.
    const pid_t leader = start(pty, [&] {
        const pid_t job = fork();
        if (job == 0) {
            // Not before the parent below has put this job into the foreground.
            while (tcgetpgrp(pty.tty.get()) != getpid())
                usleep(1000);
            raise(SIGTSTP);
            _exit(pty.is_raw() ? 0 : 1);
        }
        setpgid(job, job);
        tcsetpgrp(pty.tty.get(), job);
        int job_status = 0;
        waitpid(job, &job_status, WUNTRACED);
        if (!WIFSTOPPED(job_status) || pty.is_raw())
            _exit(2);
        kill(job, SIGCONT);
        waitpid(job, &job_status, 0);
        _exit(WEXITSTATUS(job_status));
    });
    const int status = wait_for(leader);
    CHECK(WIFEXITED(status));
    CHECK(WEXITSTATUS(status) == 0);
}

TEST_CASE("a pipe that nobody reads, or no terminal at all, ends nothing") {
    const Pty pty;
    const int status = wait_for(start(pty, [] { raise(SIGPIPE); }));
    CHECK(WIFEXITED(status));
    const Terminal none(-1);
    CHECK_FALSE(none.modes());
    const TerminalGuard guard(none.modes());
}

TEST_CASE("the guard gives the signals back") {
    {
        const Pty pty;
        const Terminal terminal(pty.tty.get());
        const TerminalGuard guard(terminal.modes());
    }
    struct sigaction action{};
    sigaction(SIGTSTP, nullptr, &action);
    CHECK((action.sa_handler == SIG_DFL));
    sigaction(SIGPIPE, nullptr, &action);
    CHECK((action.sa_handler == SIG_DFL));
}

} // namespace
} // namespace casemate
