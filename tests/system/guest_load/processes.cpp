// SPDX-License-Identifier: Apache-2.0
// Processes, threads, signals, tracing, timers and what they talk through.
#include "load.hpp"

#include <array>
#include <atomic>
#include <cerrno>
#include <csignal>
#include <cstdint>
#include <cstdio>
#include <ctime>
#include <mutex>
#include <sched.h>
#include <spawn.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <sys/user.h>
#include <sys/wait.h>
#include <thread>
#include <unistd.h>
#include <vector>

namespace load {
namespace {

// The words of a program run that ends with `status`.
struct Answer {
    char status[12];
    std::array<char*, 4> words;

    explicit Answer(unsigned number)
        : status{}
        , words{const_cast<char*>(self), const_cast<char*>(answer_word), status, nullptr} {
        (void)std::snprintf(status, sizeof status, "%u", number);
    }
    Answer(const Answer&) = delete;
    Answer& operator=(const Answer&) = delete;
    ~Answer() = default;
};

void fork_exec(unsigned rounds) {
    for (unsigned i = 0; i < rounds; ++i) {
        Answer answer(i % 100);
        const pid_t child = start_child([&] {
            execv(self, answer.words.data());
            fail_with_errno("execv");
        });
        expect_end(child, exited(static_cast<int>(i % 100)));
    }
}

// glibc's posix_spawn is clone(CLONE_VM | CLONE_VFORK).
void vfork_exec(unsigned rounds) {
    for (unsigned i = 0; i < rounds; ++i) {
        Answer answer(i % 100);
        pid_t child = -1;
        errno = posix_spawn(&child, self, nullptr, nullptr, answer.words.data(), environ);
        if (errno != 0)
            fail_with_errno("posix_spawn");
        expect_end(child, exited(static_cast<int>(i % 100)));
    }
}

// Processes that fork, so that some die before and some after their parents.
void fork_tree(unsigned rounds) {
    for (unsigned i = 0; i < rounds; i += 7) {
        in_child([] {
            for (int depth = 0; depth < 2; ++depth)
                must("fork", fork());
            while (wait(nullptr) > 0) {
            }
        });
    }
}

void threads(unsigned rounds) {
    constexpr unsigned together = 8;
    constexpr unsigned steps = 64;
    std::mutex mutex;
    uint64_t guarded = 0;
    std::atomic<uint64_t> counted = 0;
    uint64_t started = 0;
    for (unsigned i = 0; i < rounds; i += together) {
        std::vector<std::jthread> batch;
        for (unsigned one = 0; one < together; ++one, ++started) {
            batch.emplace_back([&] {
                for (unsigned step = 0; step < steps; ++step) {
                    const std::lock_guard lock(mutex);
                    ++guarded;
                    counted += 1;
                    if (step % 16 == 0)
                        sched_yield();
                }
            });
        }
    }
    check(guarded == started * steps && counted == guarded, "threads lost an addition");
}

volatile sig_atomic_t signals_seen = 0;
volatile sig_atomic_t value_seen = 0;
void* fault_page = nullptr;

void on_signal(int /*number*/, siginfo_t* info, void* /*context*/) {
    signals_seen = signals_seen + 1;
    value_seen = info->si_value.sival_int;
}

void on_fault(int /*number*/, siginfo_t* info, void* /*context*/) {
    if (info->si_addr != fault_page || mprotect(fault_page, 4096, PROT_READ | PROT_WRITE) < 0)
        _exit(1);
    signals_seen = signals_seen + 1;
}

void signals(unsigned rounds) {
    struct sigaction action{};
    action.sa_sigaction = on_signal;
    action.sa_flags = SA_SIGINFO;
    must("sigaction", sigaction(SIGUSR1, &action, nullptr));
    static std::array<std::byte, 32768> stack;
    const stack_t alternate{.ss_sp = stack.data(), .ss_flags = 0, .ss_size = stack.size()};
    must("sigaltstack", sigaltstack(&alternate, nullptr));
    action.sa_sigaction = on_fault;
    action.sa_flags = SA_SIGINFO | SA_ONSTACK;
    must("sigaction", sigaction(SIGSEGV, &action, nullptr));
    fault_page = mmap(nullptr, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    check(fault_page != MAP_FAILED, "mmap");

    for (unsigned i = 0; i < rounds; ++i) {
        signals_seen = 0;
        // A signal to oneself is taken before the call returns (POSIX, kill).
        sigval value{};
        value.sival_int = static_cast<int>(i);
        must("sigqueue", sigqueue(getpid(), SIGUSR1, value));
        check(signals_seen == 1 && value_seen == static_cast<int>(i), "a queued signal did not come");
        must("mprotect", mprotect(fault_page, 4096, PROT_NONE));
        *static_cast<volatile unsigned*>(fault_page) = i;
        check(signals_seen == 2 && *static_cast<volatile unsigned*>(fault_page) == i, "no fault was handled");
    }
    for (unsigned i = 0; i < rounds; i += 10) {
        const pid_t child = start_child([] {
            for (;;)
                pause();
        });
        must("kill", kill(child, SIGTERM));
        expect_end(child, SIGTERM);
    }
}

volatile long traced_value = 0;

[[gnu::noinline]] long traced_function(long value) {
    asm volatile("" : "+r"(value));
    return value + traced_value;
}

void expect_stop(pid_t child, int signal) {
    int status = 0;
    must("waitpid", waitpid(child, &status, 0));
    check(WIFSTOPPED(status) && WSTOPSIG(status) == signal, "a traced child did not stop as told");
}

// A debugger's day: a breakpoint in the child's text, its memory changed, single steps.
void trace(unsigned rounds) {
    constexpr long breakpoint = 0xcc;
    const auto function = reinterpret_cast<uintptr_t>(&traced_function);
    auto* const text = reinterpret_cast<long*>(&traced_function);
    auto* const data = const_cast<long*>(&traced_value);
    for (unsigned i = 0; i < rounds; ++i) {
        const pid_t child = start_child([] {
            must("ptrace", ptrace(PTRACE_TRACEME, 0, nullptr, nullptr));
            must("raise", raise(SIGSTOP));
            end_child(static_cast<int>(traced_function(3)));
        });
        expect_stop(child, SIGSTOP);
        const long value = static_cast<long>(i % 50);
        must("PTRACE_POKEDATA", ptrace(PTRACE_POKEDATA, child, data, value));
        errno = 0;
        const long code = ptrace(PTRACE_PEEKTEXT, child, text, nullptr);
        if (errno != 0)
            fail_with_errno("PTRACE_PEEKTEXT");
        must("PTRACE_POKETEXT", ptrace(PTRACE_POKETEXT, child, text, (code & ~0xffL) | breakpoint));
        must("PTRACE_CONT", ptrace(PTRACE_CONT, child, nullptr, nullptr));
        expect_stop(child, SIGTRAP);
        user_regs_struct registers{};
        must("PTRACE_GETREGS", ptrace(PTRACE_GETREGS, child, nullptr, &registers));
        check(registers.rip == function + 1 && registers.rdi == 3, "the breakpoint was not where it was set");
        registers.rip = function;
        must("PTRACE_SETREGS", ptrace(PTRACE_SETREGS, child, nullptr, &registers));
        must("PTRACE_POKETEXT", ptrace(PTRACE_POKETEXT, child, text, code));
        for (int step = 0; step < 2; ++step) {
            must("PTRACE_SINGLESTEP", ptrace(PTRACE_SINGLESTEP, child, nullptr, nullptr));
            expect_stop(child, SIGTRAP);
        }
        must("PTRACE_CONT", ptrace(PTRACE_CONT, child, nullptr, nullptr));
        expect_end(child, exited(static_cast<int>(value + 3)));
    }
}

// Numbers to a child and back, by two pipes and by a socket pair.
void pipes(unsigned rounds) {
    int there[2];
    int back[2];
    int pair[2];
    must("pipe", pipe(there));
    must("pipe", pipe(back));
    must("socketpair", socketpair(AF_UNIX, SOCK_SEQPACKET, 0, pair));
    const pid_t child = start_child([&] {
        for (unsigned i = 0; i < rounds; ++i) {
            unsigned number = 0;
            check(read(there[0], &number, sizeof number) == sizeof number && number == i,
                  "pipe to the child");
            number *= 3;
            check(write(back[1], &number, sizeof number) == sizeof number, "pipe to the parent");
            check(recv(pair[1], &number, sizeof number, 0) == sizeof number && number == i * 5, "socket");
            number *= 7;
            check(send(pair[1], &number, sizeof number, 0) == sizeof number, "socket to the parent");
        }
    });
    for (unsigned i = 0; i < rounds; ++i) {
        unsigned number = i;
        check(write(there[1], &number, sizeof number) == sizeof number, "pipe to the child");
        check(read(back[0], &number, sizeof number) == sizeof number && number == i * 3,
              "pipe from the child");
        number = i * 5;
        check(send(pair[0], &number, sizeof number, 0) == sizeof number, "socket to the child");
        check(recv(pair[0], &number, sizeof number, 0) == sizeof number && number == i * 35,
              "socket from the child");
    }
    expect_end(child, 0);
}

void add(int epoll, int fd) {
    epoll_event event{.events = EPOLLIN, .data = {.fd = fd}};
    must("epoll_ctl", epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event));
}

void expect_event(int epoll, int fd) {
    epoll_event event{};
    uint64_t count = 0;
    check(must("epoll_wait", epoll_wait(epoll, &event, 1, -1)) == 1 && event.data.fd == fd,
          "epoll named the wrong descriptor");
    check(read(fd, &count, sizeof count) == sizeof count && count == 1, "an event counted other than 1");
}

void timers(unsigned rounds) {
    const int epoll = must("epoll_create1", epoll_create1(0));
    const int timer = must("timerfd_create", timerfd_create(CLOCK_MONOTONIC, 0));
    const int event = must("eventfd", eventfd(0, 0));
    add(epoll, timer);
    add(epoll, event);
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGRTMIN);
    must("sigprocmask", sigprocmask(SIG_BLOCK, &set, nullptr));
    sigevent notify{};
    notify.sigev_notify = SIGEV_SIGNAL;
    notify.sigev_signo = SIGRTMIN;
    timer_t posix{};
    must("timer_create", timer_create(CLOCK_REALTIME, &notify, &posix));
    for (unsigned i = 0; i < rounds; ++i) {
        const itimerspec soon{.it_interval = {}, .it_value = {.tv_sec = 0, .tv_nsec = 50'000 + i}};
        must("timerfd_settime", timerfd_settime(timer, 0, &soon, nullptr));
        expect_event(epoll, timer);
        const uint64_t one = 1;
        check(write(event, &one, sizeof one) == sizeof one, "eventfd");
        expect_event(epoll, event);
        must("timer_settime", timer_settime(posix, 0, &soon, nullptr));
        check(must("sigwaitinfo", sigwaitinfo(&set, nullptr)) == SIGRTMIN, "the wrong signal");
        const timespec before{.tv_sec = 0, .tv_nsec = 1000};
        must("nanosleep", nanosleep(&before, nullptr));
    }
    must("timer_delete", timer_delete(posix));
}

// Prints the time since boot: for a shell, which has only hundredths of a second.
void clock(unsigned /*rounds*/) {
    timespec now{};
    must("clock_gettime", clock_gettime(CLOCK_MONOTONIC, &now));
    std::printf("us %ld\n", now.tv_sec * 1'000'000 + now.tv_nsec / 1000);
}

void affinity(unsigned rounds) {
    cpu_set_t all;
    must("sched_getaffinity", sched_getaffinity(0, sizeof all, &all));
    std::vector<size_t> cpus;
    for (size_t cpu = 0; cpu < CPU_SETSIZE; ++cpu)
        if (CPU_ISSET(cpu, &all))
            cpus.push_back(cpu);
    for (unsigned i = 0; i < rounds; ++i) {
        const size_t cpu = cpus[i % cpus.size()];
        cpu_set_t one;
        CPU_ZERO(&one);
        CPU_SET(cpu, &one);
        must("sched_setaffinity", sched_setaffinity(0, sizeof one, &one));
        check(sched_getcpu() == static_cast<int>(cpu), "not on the CPU asked for");
    }
}

constexpr Step all_steps[] = {
    {"fork_exec", fork_exec}, {"vfork_exec", vfork_exec}, {"fork_tree", fork_tree}, {"threads", threads},
    {"signals", signals},     {"trace", trace},           {"pipes", pipes},         {"timers", timers},
    {"affinity", affinity},   {"clock", clock},
};

} // namespace

std::span<const Step> process_steps() {
    return all_steps;
}

} // namespace load
