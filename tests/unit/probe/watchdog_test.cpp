// SPDX-License-Identifier: Apache-2.0
#include "probe/watchdog.hpp"

#include "pipe.hpp"

#include <atomic>
#include <csignal>
#include <ctime>
#include <doctest/doctest.h>
#include <memory>
#include <semaphore>
#include <sys/wait.h>
#include <thread>
#include <tuple>
#include <unistd.h>

namespace casemate {
namespace {

using std::chrono::milliseconds;
using Clock = std::chrono::steady_clock;

TEST_CASE("work that returns in time is finished, and what it owned is gone") {
    const auto owned = std::make_shared<int>(1);
    const std::weak_ptr<int> watch = owned;
    std::atomic<bool> ran = false;
    const auto end = run_bounded([owned, &ran] { ran = *owned == 1; }, milliseconds(10000), milliseconds(0));
    REQUIRE(end);
    CHECK(*end == BoundedEnd::finished);
    CHECK(ran);
    CHECK(watch.use_count() == 1);
}

TEST_CASE("work that waits longer than its limit, as on a busy host, is left to finish") {
    const auto end = run_bounded([] { std::this_thread::sleep_for(milliseconds(200)); }, milliseconds(100),
                                 milliseconds(0));
    REQUIRE(end);
    CHECK(*end == BoundedEnd::finished);
}

TEST_CASE("work that was stopped with the whole process is left to finish") {
    const Pipe started;
    const Pipe goes_on;
    constexpr milliseconds limit(100);
    const pid_t child = fork();
    REQUIRE(child >= 0);
    if (child == 0) {
        const auto end = run_bounded(
            [&] {
                char byte = 0;
                std::ignore = write(started.write_end.get(), &byte, 1);
                std::ignore = read(goes_on.read_end.get(), &byte, 1);
            },
            limit, milliseconds(0));
        _exit(end && *end == BoundedEnd::finished ? 0 : 1);
    }
    CHECK(read_some(started.read_end.get(), 1).size() == 1);
    kill(child, SIGSTOP);
    int status = 0;
    waitpid(child, &status, WUNTRACED);
    CHECK(WIFSTOPPED(status));
    std::this_thread::sleep_for(11 * limit); // more than the work has in all
    kill(child, SIGCONT);
    std::this_thread::sleep_for(limit / 4);
    CHECK(write(goes_on.write_end.get(), "", 1) == 1);
    waitpid(child, &status, 0);
    CHECK(WIFEXITED(status));
    CHECK(WEXITSTATUS(status) == 0);
}

TEST_CASE("work that computes for ever is interrupted after its limit of CPU time") {
    const std::clock_t before = std::clock();
    const Clock::time_point start = Clock::now();
    const auto end = run_bounded(
        [] {
            sigset_t pending;
            do
                sigpending(&pending);
            while (sigismember(&pending, watchdog_signal) == 0);
        },
        milliseconds(50), milliseconds(10000));
    REQUIRE(end);
    CHECK(*end == BoundedEnd::interrupted);
    // Where it gets hardly any CPU time it is interrupted as work that waits is.
    const bool is_starved = Clock::now() - start >= milliseconds(500);
    CHECK((is_starved || std::clock() - before >= CLOCKS_PER_SEC / 20));
}

TEST_CASE("work that waits for ever is interrupted by the signal") {
    std::atomic<int> interruptions = 0;
    const auto end = run_bounded(
        [&interruptions] {
            // sigwaitinfo stands in for KVM_RUN: it lets in a signal that the thread blocks.
            sigset_t wanted;
            sigemptyset(&wanted);
            sigaddset(&wanted, watchdog_signal);
            if (sigwaitinfo(&wanted, nullptr) == watchdog_signal)
                ++interruptions;
        },
        milliseconds(10), milliseconds(10000));
    REQUIRE(end);
    CHECK(*end == BoundedEnd::interrupted);
    CHECK(interruptions == 1);
}

TEST_CASE("work that ignores the signal is abandoned and the caller goes on") {
    struct Gate {
        std::binary_semaphore open{0};
        std::binary_semaphore passed{0};
    };
    const auto gate = std::make_shared<Gate>();
    const Clock::time_point start = Clock::now();
    const auto end = run_bounded(
        [gate] {
            gate->open.acquire();
            gate->passed.release();
        },
        milliseconds(10), milliseconds(10));
    REQUIRE(end);
    CHECK(*end == BoundedEnd::abandoned);
    CHECK(Clock::now() - start >= milliseconds(110));
    gate->open.release();
    gate->passed.acquire();
}

TEST_CASE("the caller's own signal mask is as before") {
    sigset_t before;
    sigset_t after;
    pthread_sigmask(SIG_SETMASK, nullptr, &before);
    REQUIRE(run_bounded([] {}, milliseconds(10000), milliseconds(0)));
    pthread_sigmask(SIG_SETMASK, nullptr, &after);
    for (int number = 1; number < 32; ++number)
        CHECK(sigismember(&before, number) == sigismember(&after, number));
}

TEST_CASE("the mask for waiting lets the watchdog's signal through and no other") {
    const sigset_t mask = watchdog_wait_mask();
    CHECK(sigismember(&mask, watchdog_signal) == 0);
    CHECK(sigismember(&mask, SIGINT) == 1);
    CHECK(sigismember(&mask, SIGTERM) == 1);
}

} // namespace
} // namespace casemate
