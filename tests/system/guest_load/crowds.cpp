// SPDX-License-Identifier: Apache-2.0
// As many processes as the kernel has room for, whether all that room comes back, and who pays for it.
#include "load.hpp"

#include <algorithm>
#include <array>
#include <cerrno>
#include <cinttypes>
#include <csignal>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fcntl.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <unistd.h>
#include <vector>

namespace load {
namespace {

constexpr uint64_t page = 4096;

// Prints how many roots the kernel has in use, this process's among them.
void arena_used(unsigned /*rounds*/) {
    constexpr const char* status = "/sys/kernel/security/casemate/status";
    constexpr const char* word = "\narena_used ";
    static std::array<char, 4096> text;
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
        while (crowd.grow()) {
        }
        const int error = errno;
        check(error == ENOMEM || error == EAGAIN, "fork failed other than for want of room");
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
        if (crowd.size() != room)
            fail("room for %zu processes, then for %zu", room, crowd.size());
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

// A user keeps a file of each process that has ended, /proc/PID/mem, and with it what the kernel has left of
// its address space. That must not be a root, or with as many as a process may have files nobody forks again.
void hold_exited(unsigned rounds) {
    constexpr uid_t nobody = 65534;
    in_child([rounds] {
        must("setgid", setgid(nobody));
        must("setuid", setuid(nobody));
        must("PR_SET_DUMPABLE", prctl(PR_SET_DUMPABLE, 1, 0, 0, 0)); // else its children's files are root's
        for (unsigned i = 0; i < rounds; ++i) {
            const pid_t child = start_child([] { pause(); });
            char path[32];
            (void)std::snprintf(path, sizeof path, "/proc/%d/mem", child);
            must(path, open(path, O_RDONLY | O_CLOEXEC));
            must("kill", kill(child, SIGKILL));
            expect_end(child, SIGKILL);
        }
    });
}

struct Range {
    uint64_t start, bytes;
};

// The largest range of page tables that is locked.
Range arena() {
    static std::array<char, 65536> text;
    must("locks", read_file("/sys/kernel/security/casemate/locks", text));
    Range largest{};
    for (const char* line = text.data(); *line != 0; line = std::strchr(line, '\n') + 1) {
        Range range{};
        char kind[16];
        check(std::sscanf(line, "%" SCNx64 " %" SCNu64 " %15s", &range.start, &range.bytes, kind) == 3, line);
        if (std::strcmp(kind, "page_table") == 0 && range.bytes > largest.bytes)
            largest = range;
    }
    return largest;
}

// How many of its pages are charged to a cgroup, which the kernel names by an inode.
size_t charged(const Range& range, uint64_t group) {
    const int file = must("kpagecgroup", open("/proc/kpagecgroup", O_RDONLY | O_CLOEXEC));
    std::vector<uint64_t> groups(range.bytes / page);
    const auto size = static_cast<ssize_t>(groups.size() * sizeof(uint64_t));
    const auto offset = static_cast<off_t>(range.start / page * sizeof(uint64_t));
    check(pread(file, groups.data(), static_cast<size_t>(size), offset) == size, "read of kpagecgroup");
    close(file);
    return static_cast<size_t>(std::count(groups.begin(), groups.end(), group));
}

// Roots are charged to the memory cgroup of who has them: of the cgroup "charged", in which this runs alone.
void charge(unsigned rounds) {
    struct stat group{};
    must("cgroup", stat("/sys/fs/cgroup/charged", &group));
    const Range range = arena();
    const auto expect = [&](size_t want, const char* when) {
        if (const size_t found = charged(range, group.st_ino); found != want)
            fail("%zu roots are charged %s, not %zu", found, when, want);
    };
    expect(1, "before");
    {
        Crowd crowd;
        for (unsigned i = 0; i < rounds; ++i)
            check(crowd.grow(), "fork failed");
        expect(rounds + 1, "with children");
    }
    expect(1, "after");
}

constexpr Step all_steps[] = {{"arena_used", arena_used},
                              {"exhaust", exhaust},
                              {"exit_storm", exit_storm},
                              {"hold_exited", hold_exited},
                              {"charge", charge}};

} // namespace

std::span<const Step> crowd_steps() {
    return all_steps;
}

} // namespace load
