// SPDX-License-Identifier: Apache-2.0
// Processes of all kinds that come and go at random.
#include "load.hpp"

#include <csignal>
#include <cstdint>
#include <fcntl.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

namespace load {
namespace {

// SplitMix64 (Steele, Lea and Flood, "Fast splittable pseudorandom number generators", 2014)
class Random {
public:
    explicit Random(uint64_t seed)
        : m_state(seed) {}
    uint64_t below(uint64_t bound) {
        uint64_t value = m_state += 0x9e3779b97f4a7c15;
        value = (value ^ (value >> 30U)) * 0xbf58476d1ce4e5b9;
        value = (value ^ (value >> 27U)) * 0x94d049bb133111eb;
        return (value ^ (value >> 31U)) % bound;
    }

private:
    uint64_t m_state;
};

// Steps of all kinds in random order, a process group each, of which a third is killed at a random moment.
void churn(unsigned rounds) {
    constexpr const char* names[] = {
        "fork_exec", "vfork_exec",         "fork_tree",         "threads",   "trace",
        "pipes",     "affinity",           "anonymous",         "ping_pong", "executable",
        "slots",     "exec_among_threads", "exec_among_sharers"};
    // Whoever loses its parent is reaped here.
    must("PR_SET_CHILD_SUBREAPER", prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0));
    Random random(static_cast<uint64_t>(getpid()));
    for (unsigned i = 0; i < rounds; ++i) {
        const char* const name = names[random.below(std::size(names))];
        const Step* const step = find_step(name);
        check(step != nullptr, "no such step");
        const auto turns = static_cast<unsigned>(1 + random.below(8));
        const bool kills = random.below(3) == 0;
        const pid_t child = start_child([&] {
            must("setpgid", setpgid(0, 0));
            // What dies a little later finds its partners gone, and would say so.
            if (kills)
                must("open", dup2(must("open", open("/dev/null", O_WRONLY | O_CLOEXEC)), STDOUT_FILENO));
            step->run(turns);
        });
        if (kills) {
            must("usleep", usleep(static_cast<useconds_t>(random.below(10'000))));
            // It may not be in its group yet.
            if (kill(-child, SIGKILL) < 0)
                must("kill", kill(child, SIGKILL));
        }
        int status = 0;
        must("waitpid", waitpid(child, &status, 0));
        if (status != 0 && !(kills && status == SIGKILL))
            fail("%s ended with %#x", name, static_cast<unsigned>(status));
        (void)kill(-child, SIGKILL);
        while (waitpid(-1, nullptr, 0) > 0) {
        }
    }
}

constexpr Step all_steps[] = {{"churn", churn}};

} // namespace

std::span<const Step> churn_steps() {
    return all_steps;
}

} // namespace load
