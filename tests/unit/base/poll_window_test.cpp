// SPDX-License-Identifier: Apache-2.0
#include "base/poll_window.hpp"

#include <doctest/doctest.h>

namespace casemate {
namespace {

using std::chrono::microseconds;

TEST_CASE("a window opens when what is waited for comes soon, as far as it must") {
    PollWindow window;
    CHECK(window.length() == microseconds(0));
    window.waited(microseconds(90));
    const auto first = window.length();
    CHECK(first > microseconds(0));
    CHECK(first < microseconds(90));
    for (int i = 0; i < 10; ++i)
        window.waited(microseconds(90));
    CHECK(window.length() >= microseconds(90));
    CHECK(window.length() < microseconds(2 * 90));
    for (int i = 0; i < 10; ++i)
        window.waited(PollWindow::longest);
    CHECK(window.length() == PollWindow::longest);
}

TEST_CASE("a window closes at the first wait that is longer than any window") {
    PollWindow window;
    for (int i = 0; i < 10; ++i)
        window.waited(microseconds(200));
    CHECK(window.length() >= microseconds(200));
    window.waited(PollWindow::longest + std::chrono::nanoseconds(1));
    CHECK(window.length() == microseconds(0));
}

} // namespace
} // namespace casemate
