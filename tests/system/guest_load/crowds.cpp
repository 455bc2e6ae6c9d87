// SPDX-License-Identifier: Apache-2.0
// As many processes as the kernel has room for, and whether all that room comes back.
#include "load.hpp"

#include <array>
#include <cerrno>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <sched.h>
#include <sys/types.h>
#include <unistd.h>
#include <vector>

namespace load {
namespace {

// Runs on each CPU, so that the kernel threads there borrow this address space and none that has ended.
void visit_cpus() {
    cpu_set_t all;
    must("sched_getaffinity", sched_getaffinity(0, sizeof all, &all));
    for (size_t cpu = 0; cpu < CPU_SETSIZE; ++cpu) {
        if (!CPU_ISSET(cpu, &all))
            continue;
        cpu_set_t one;
        CPU_ZERO(&one);
        CPU_SET(cpu, &one);
        must("sched_setaffinity", sched_setaffinity(0, sizeof one, &one));
    }
    must("sched_setaffinity", sched_setaffinity(0, sizeof all, &all));
}

// Prints how many roots the kernel has in use, this process's among them.
void arena_used(unsigned /*rounds*/) {
    constexpr const char* status = "/sys/kernel/security/casemate/status";
    constexpr const char* word = "\narena_used ";
    static std::array<char, 4096> text;
    visit_cpus();
    must(status, read_file(status, text));
    const char* const line = std::strstr(text.data(), word);
    check(line != nullptr, "the kernel's status has no arena_used");
    std::printf("arena_used %lu\n", std::strtoul(line + std::strlen(word), nullptr, 10));
}

// Processes that all wait, and all end when this goes.
class Crowd {
public:
    Crowd() { must("pipe", pipe(m_gate)); }
    Crowd(const Crowd&) = delete;
    Crowd& operator=(const Crowd&) = delete;
    ~Crowd() {
        close(m_gate[0]);
        close(m_gate[1]);
        for (const pid_t child : m_children)
            expect_end(child, 0);
    }
    // One more, or false and errno.
    bool grow() {
        const pid_t child = fork();
        if (child == 0) {
            char byte = 0;
            close(m_gate[1]);
            end_child(read(m_gate[0], &byte, 1) == 0 ? 0 : 1);
        }
        if (child > 0)
            m_children.push_back(child);
        return child > 0;
    }
    size_t size() const { return m_children.size(); }

private:
    int m_gate[2]{};
    std::vector<pid_t> m_children;
};

// Forks until the kernel has no room for one more, lets all end, and finds room for as many again.
void exhaust(unsigned rounds) {
    size_t room = 0;
    for (unsigned i = 0; i < rounds; ++i) {
        Crowd crowd;
        int error = 0;
        // What has ended may still be borrowed, so it counts as full only when that is over.
        for (bool last = false;;) {
            if (crowd.grow()) {
                last = false;
                continue;
            }
            error = errno;
            check(error == ENOMEM || error == EAGAIN, "fork failed other than for want of room");
            if (last)
                break;
            visit_cpus();
            last = true;
        }
        // A program needs an address space of its own before it replaces the one that starts it.
        if (error == ENOMEM) {
            char word[] = "1";
            std::array<char*, 4> words{const_cast<char*>(self), const_cast<char*>(answer_word), word,
                                       nullptr};
            check(execv(self, words.data()) < 0 && errno == ENOMEM, "a program was run without room");
        }
        if (i == 0) {
            room = crowd.size();
            dprintf(STDOUT_FILENO, "workload: exhaust found room for %zu processes, then %s\n", room,
                    std::strerror(error));
        }
        if (crowd.size() != room) {
            errno = 0;
            fail("room for %zu processes, then for %zu", room, crowd.size());
        }
    }
}

// As many processes as `rounds`, which are killed by one signal.
void exit_storm(unsigned rounds) {
    pid_t group = 0;
    std::vector<pid_t> children;
    for (unsigned i = 0; i < rounds; ++i) {
        children.push_back(start_child([] {
            for (;;)
                pause();
        }));
        group = children.front();
        must("setpgid", setpgid(children.back(), group));
    }
    must("kill", kill(-group, SIGKILL));
    for (const pid_t child : children)
        expect_end(child, SIGKILL);
}

constexpr Step all_steps[] = {{"arena_used", arena_used}, {"exhaust", exhaust}, {"exit_storm", exit_storm}};

} // namespace

std::span<const Step> crowd_steps() {
    return all_steps;
}

} // namespace load
