// SPDX-License-Identifier: Apache-2.0
#include "machine/watch.hpp"

#include <atomic>
#include <chrono>
#include <doctest/doctest.h>
#include <mutex>
#include <thread>
#include <vector>

namespace casemate {
namespace {

using namespace std::chrono_literals;

struct Watched {
    std::mutex mutex;
    RunningClock clock;
    std::vector<Watch::Clock::time_point> due;
    std::thread::id thread;
    std::atomic<unsigned> audits = 0;
    std::atomic<unsigned> progress = 0;
    std::atomic<unsigned> deadlines = 0;
    std::unique_ptr<Watch> watch = Watch::create(clock, {.audit =
                                                             [this](Watch::Clock::time_point time) {
                                                                 const std::lock_guard lock(mutex);
                                                                 due.push_back(time);
                                                                 thread = std::this_thread::get_id();
                                                                 ++audits;
                                                             },
                                                         .check_progress = [this] { ++progress; },
                                                         .check_lock_deadline = [this] { ++deadlines; }})
                                       .value();
};

void wait_for(const std::atomic<unsigned>& count, unsigned wanted) {
    while (count < wanted)
        std::this_thread::sleep_for(1ms);
}

TEST_CASE("audits come round after round, each told when it was due, on a thread of their own") {
    Watched f;
    const auto begin = Watch::Clock::now();
    f.watch->audit_every(5ms);
    f.watch->start();
    wait_for(f.audits, 4);
    f.watch->stop();
    CHECK(f.progress == 0);
    CHECK(f.deadlines == 0);
    CHECK(f.thread != std::this_thread::get_id());
    auto before = begin;
    for (const auto time : f.due) {
        CHECK(time >= before + 5ms);
        CHECK(time <= Watch::Clock::now());
        before = time;
    }
}

TEST_CASE("each timer has its own handler") {
    Watched f;
    f.watch->start();
    f.watch->check_lock_deadline_after(0s);
    f.watch->check_progress_every(1ms);
    wait_for(f.deadlines, 1);
    wait_for(f.progress, 3);
    f.watch->stop();
    CHECK(f.deadlines == 1);
    CHECK(f.audits == 0);
}

std::atomic<std::chrono::nanoseconds> host_time{};

TEST_CASE("a stop of the process brings no deadline") {
    host_time = 1h;
    RunningClock clock([](auto) {}, [] { return host_time.load(); });
    std::atomic<unsigned> deadlines = 0;
    std::atomic<unsigned> audits = 0;
    const auto watch = Watch::create(clock, {.audit = [&](auto) { ++audits; },
                                             .check_progress = [] {},
                                             .check_lock_deadline = [&] { ++deadlines; }})
                           .value();
    watch->start();
    watch->check_lock_deadline_after(10ms);
    watch->audit_every(5ms);
    host_time = 2h; // so that the timer finds that all of this has passed
    wait_for(audits, 20);
    CHECK(clock.stops() == 1);
    CHECK(deadlines == 0);
    host_time = 2h + 10ms;
    wait_for(deadlines, 1);
    watch->stop();
    CHECK(deadlines == 1);
}

TEST_CASE("nothing is called once it has stopped, whoever sets a timer then") {
    Watched f;
    f.watch->audit_every(1ms);
    f.watch->start();
    wait_for(f.audits, 1);
    f.watch->stop();
    const unsigned audits = f.audits;
    f.watch->audit_every(1ms);
    f.watch->check_progress_every(1ms);
    std::this_thread::sleep_for(20ms);
    f.watch->stop();
    CHECK(f.audits == audits);
    CHECK(f.progress == 0);
}

TEST_CASE("a watch that was never started is destroyed like any other") {
    Watched f;
    f.watch->audit_every(1ms);
    f.watch->stop();
    CHECK(f.audits == 0);
}

} // namespace
} // namespace casemate
