// SPDX-License-Identifier: Apache-2.0
// Runs a program on a new terminal: our stdin is what is typed there, our stdout what it shows; its stderr is
// ours. Says on stderr when the program has made the terminal raw, and whether it left the terminal's
// settings as it found them. Exits as it exits, or with 125 if it is itself that fails.
#include "programs/failure.hpp"

#include <csignal>
#include <cstdio>
#include <cstring>
#include <poll.h>
#include <pty.h>
#include <sys/wait.h>
#include <unistd.h>
#include <utmp.h>

namespace {

using failure::must;

bool copy(int from, int to) {
    char buffer[4096];
    const ssize_t count = read(from, buffer, sizeof buffer);
    return count > 0 && write(to, buffer, static_cast<size_t>(count)) == count;
}

} // namespace

int main(int argc, char** argv) {
    failure::set_manner({.prefix = "with-pty: ", .descriptor = STDERR_FILENO, .status = 125});
    if (argc < 2)
        failure::fail("usage: with-pty PROGRAM [ARGUMENT]...");
    const int messages = must("dup", dup(STDERR_FILENO));
    int master = -1;
    int terminal = -1;
    must("openpty", openpty(&master, &terminal, nullptr, nullptr, nullptr));
    termios before{};
    must("tcgetattr", tcgetattr(terminal, &before));

    const pid_t child = must("fork", fork());
    if (child == 0) {
        close(master);
        must("login_tty", login_tty(must("dup", dup(terminal))));
        must("dup2", dup2(messages, STDERR_FILENO));
        close(terminal);
        // What a shell without job control has in the background ignores these.
        (void)std::signal(SIGINT, SIG_DFL);
        (void)std::signal(SIGQUIT, SIG_DFL);
        execvp(argv[1], argv + 1);
        failure::fail_with_errno("%s", argv[1]);
    }

    // We keep `terminal` open to look at its settings afterwards, so its end is the child's end.
    int status = 0;
    bool typing = true;
    bool raw = false;
    while (waitpid(child, &status, WNOHANG) == 0) {
        pollfd ready[] = {{.fd = master, .events = POLLIN, .revents = 0},
                          {.fd = typing ? 0 : -1, .events = POLLIN, .revents = 0}};
        poll(ready, 2, 100);
        termios now{};
        if (!raw && tcgetattr(terminal, &now) == 0 && (now.c_lflag & (ICANON | ECHO | ISIG)) == 0) {
            raw = true;
            (void)std::fprintf(stderr, "with-pty: terminal raw\n");
        }
        if ((ready[0].revents & POLLIN) != 0)
            copy(master, 1);
        if ((ready[1].revents & (POLLIN | POLLHUP)) != 0)
            typing = copy(0, master);
    }
    for (pollfd left{.fd = master, .events = POLLIN, .revents = 0}; poll(&left, 1, 0) > 0;)
        copy(master, 1);

    termios after{};
    must("tcgetattr", tcgetattr(terminal, &after));
    const bool restored = before.c_iflag == after.c_iflag && before.c_oflag == after.c_oflag &&
                          before.c_cflag == after.c_cflag && before.c_lflag == after.c_lflag &&
                          std::memcmp(before.c_cc, after.c_cc, sizeof before.c_cc) == 0;
    (void)std::fprintf(stderr, "with-pty: terminal %s\n", restored ? "restored" : "left changed");
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}
