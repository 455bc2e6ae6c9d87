// SPDX-License-Identifier: Apache-2.0
#include "base/running_clock.hpp"

#include <atomic>
#include <doctest/doctest.h>
#include <thread>
#include <vector>

namespace casemate {
namespace {

using namespace std::chrono_literals;
using std::chrono::nanoseconds;

std::atomic<nanoseconds> host_time{};

// A clock that has begun, on a host whose time the test sets.
struct Clocked {
    std::vector<nanoseconds> told;
    RunningClock clock{[this](nanoseconds time) { told.push_back(time); }, [] { return host_time.load(); }};
    RunningClock::time_point begin;

    Clocked() {
        host_time = 1h;
        clock.beat();
        begin = clock.now();
    }
    static void pass(nanoseconds time) { host_time = host_time.load() + time; }
    nanoseconds ran() { return clock.now() - begin; }
};

TEST_CASE("time goes by while the clock is beaten") {
    Clocked f;
    for (int i = 0; i < 100; ++i) {
        Clocked::pass(RunningClock::most_between);
        f.clock.beat();
    }
    CHECK(f.ran() == 100 * RunningClock::most_between);
    CHECK(f.clock.stops() == 0);
    CHECK(f.told.empty());
}

TEST_CASE("a stop is left out, and told once") {
    Clocked f;
    Clocked::pass(1s);
    f.clock.beat();
    Clocked::pass(1h);
    CHECK(f.clock.stops() == 1);
    CHECK(f.clock.stops() == 1);
    CHECK(f.ran() == 1s);
    f.clock.beat();
    Clocked::pass(1s);
    CHECK(f.ran() == 2s);
    CHECK(f.clock.stops() == 1);
    CHECK(f.told == std::vector<nanoseconds>{1h});
}

TEST_CASE("whoever goes on first after a stop, all others learn of it") {
    Clocked f;
    const uint64_t before = f.clock.stops();
    Clocked::pass(3s);
    SUBCASE("the thread that beats") {
        f.clock.beat();
    }
    SUBCASE("one that asks for the time") {
        CHECK(f.ran() == 0s);
    }
    SUBCASE("one that asks for stops") {
        CHECK(f.clock.stops() == before + 1);
    }
    Clocked::pass(1s);
    f.clock.beat();
    CHECK(f.clock.stops() == before + 1);
    CHECK(f.ran() == 1s);
}

TEST_CASE("the longest time between beats is no stop, a nanosecond more is one") {
    Clocked f;
    Clocked::pass(RunningClock::most_between);
    CHECK(f.clock.stops() == 0);
    Clocked::pass(1ns);
    CHECK(f.clock.stops() == 1);
    CHECK(f.ran() == 0s);
}

TEST_CASE("nothing is a stop before the first beat, nor after the last") {
    Clocked f;
    f.clock.rest();
    Clocked::pass(1h);
    CHECK(f.clock.stops() == 0);
    CHECK(f.ran() == 1h);
    f.clock.beat();
    CHECK(f.clock.stops() == 0);
    Clocked::pass(1h);
    CHECK(f.clock.stops() == 1);
}

TEST_CASE("a thread that was interrupted between two readings turns no time back") {
    Clocked f;
    Clocked::pass(1s);
    f.clock.beat();
    host_time = host_time.load() - 500ms; // what it had read before
    f.clock.beat();
    Clocked::pass(500ms + RunningClock::most_between);
    CHECK(f.clock.stops() == 0);
}

TEST_CASE("of threads that notice a stop at once one tells, and all see it") {
    for (int round = 0; round < 200; ++round) {
        host_time = 1h;
        std::atomic<unsigned> told = 0;
        RunningClock clock([&](nanoseconds) { ++told; }, [] { return host_time.load(); });
        clock.beat();
        host_time = 2h;
        std::atomic<unsigned> saw = 0;
        {
            const auto look = [&] { saw += clock.stops() == 1 ? 1 : 0; };
            const std::jthread beating([&] {
                clock.beat();
                look();
            });
            const std::jthread one(look);
            const std::jthread another(look);
            const std::jthread third(look);
        }
        CHECK(told == 1);
        CHECK(saw == 4);
    }
}

TEST_CASE("the host's time goes on") {
    const nanoseconds before = RunningClock::boot_time();
    std::this_thread::sleep_for(2ms);
    CHECK(RunningClock::boot_time() - before >= 2ms);
}

} // namespace
} // namespace casemate
