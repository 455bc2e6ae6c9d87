// SPDX-License-Identifier: Apache-2.0
// Starts a monitor and prints the CPU time in microseconds that it has used, all threads together, when it
// first enters a guest; then kills it. A seccomp filter stops the monitor at each KVM_RUN
// (seccomp_unotify(2)). Those of its first thread go on: a monitor tries the host out there and has threads
// for its guest's CPUs.
#include "programs/failure.hpp"

#include <csignal>
#include <cstddef>
#include <cstdio>
#include <ctime>
#include <fstream>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/kvm.h>
#include <linux/seccomp.h>
#include <string>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

namespace {

using failure::fail, failure::fail_with_errno, failure::must;

int64_t microseconds(clockid_t clock) {
    timespec now{};
    must("clock_gettime", clock_gettime(clock, &now));
    return now.tv_sec * 1000000 + now.tv_nsec / 1000;
}

int stop_at_kvm_run() {
    sock_filter program[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_ioctl, 0, 3),
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, args[1])),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, KVM_RUN, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_USER_NOTIF),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    const sock_fprog filter{.len = sizeof program / sizeof *program, .filter = program};
    must("PR_SET_NO_NEW_PRIVS", prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0));
    return static_cast<int>(must(
        "seccomp", syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_NEW_LISTENER, &filter)));
}

std::string name_of(pid_t thread) {
    std::ifstream file("/proc/" + std::to_string(thread) + "/comm");
    std::string name;
    std::getline(file, name);
    return name;
}

struct Shared {
    int listener; // the child's number for it
    int64_t at_exec;
};

} // namespace

int main(int argc, char** argv) {
    if (argc < 2) {
        (void)std::fputs("usage: before-kvm-run MONITOR [ARGUMENT]...\n", stderr);
        return 2;
    }
    failure::Manner manner{.prefix = "before-kvm-run: ", .descriptor = STDERR_FILENO, .status = 125};
    failure::set_manner(manner);
    void* const page =
        mmap(nullptr, sizeof(Shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (page == MAP_FAILED)
        fail_with_errno("mmap");
    auto* const shared = static_cast<Shared*>(page);
    int channel[2];
    must("socketpair", socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, channel));

    const pid_t child = must("fork", fork());
    char token = 0;
    if (child == 0) {
        // What keeps the monitor from starting counts as its own words.
        manner.prefix = "";
        failure::set_manner(manner);
        // Without the parent's end, a read ends when the parent is gone.
        close(channel[0]);
        shared->listener = stop_at_kvm_run();
        if (write(channel[1], &token, 1) != 1 || read(channel[1], &token, 1) != 1)
            _exit(125);
        close(shared->listener);
        shared->at_exec = microseconds(CLOCK_PROCESS_CPUTIME_ID);
        execvp(argv[1], argv + 1);
        fail_with_errno("%s", argv[1]);
    }
    close(channel[1]);
    if (read(channel[0], &token, 1) != 1)
        fail("no filter");
    const long pidfd = must("pidfd_open", syscall(SYS_pidfd_open, child, 0));
    const long listener = must("pidfd_getfd", syscall(SYS_pidfd_getfd, pidfd, shared->listener, 0));
    if (write(channel[0], &token, 1) != 1)
        fail("the monitor is gone");

    clockid_t clock{};
    for (bool probes = true; probes;) {
        seccomp_notif stopped{};
        if (ioctl(static_cast<int>(listener), SECCOMP_IOCTL_NOTIF_RECV, &stopped) < 0 ||
            clock_getcpuclockid(child, &clock) != 0)
            fail("it ended without KVM_RUN");
        probes = name_of(static_cast<pid_t>(stopped.pid)) == "probe";
        seccomp_notif_resp go_on{
            .id = stopped.id, .val = 0, .error = 0, .flags = SECCOMP_USER_NOTIF_FLAG_CONTINUE};
        if (probes)
            must("SECCOMP_IOCTL_NOTIF_SEND",
                 ioctl(static_cast<int>(listener), SECCOMP_IOCTL_NOTIF_SEND, &go_on));
    }
    (void)std::printf("%lld\n", static_cast<long long>(microseconds(clock) - shared->at_exec));
    kill(child, SIGKILL);
    waitpid(child, nullptr, 0);
    return 0;
}
