// SPDX-License-Identifier: Apache-2.0
#include "cli/end_requests.hpp"

#include <doctest/doctest.h>

namespace casemate {
namespace {

using Step = EndRequests::Step;
using namespace std::chrono_literals;

const auto start = EndRequests::Clock::time_point{} + 1h;

TEST_CASE("the first signal presses the power button, the second ends the guest") {
    for (const int first : {SIGINT, SIGTERM, SIGHUP})
        for (const int second : {SIGINT, SIGTERM}) {
            CAPTURE(first);
            CAPTURE(second);
            EndRequests requests;
            CHECK(requests.take(first, start) == Step::press_power_button);
            CHECK(requests.take(second, start) == Step::end);
        }
}

TEST_CASE("hang-ups are one request however many come, and never the second") {
    EndRequests requests;
    CHECK(requests.take(SIGHUP, start) == Step::press_power_button);
    for (int i = 0; i < 10; ++i)
        CHECK(requests.take(SIGHUP, start + 1s) == Step::none);
    EndRequests asked;
    CHECK(asked.take(SIGTERM, start) == Step::press_power_button);
    CHECK(asked.take(SIGHUP, start) == Step::none);
    CHECK(asked.take(SIGHUP, start) == Step::none);
    CHECK(asked.take(SIGTERM, start) == Step::end);
}

TEST_CASE("a guest whose terminal is gone has a time from the first hang-up on") {
    EndRequests requests;
    CHECK_FALSE(requests.patience(start));
    requests.take(SIGTERM, start);
    CHECK_FALSE(requests.patience(start));
    requests.take(SIGHUP, start);
    requests.take(SIGHUP, start + 60s);
    CHECK(requests.patience(start) == EndRequests::hang_up_time);
    CHECK(requests.patience(start + EndRequests::hang_up_time - 1us) == 1ms);
    CHECK(requests.patience(start + EndRequests::hang_up_time) == 0ms);
    CHECK(requests.patience(start + 1h) == 0ms);
}

} // namespace
} // namespace casemate
