// SPDX-License-Identifier: Apache-2.0
#include "base/event_loop.hpp"

#include <doctest/doctest.h>
#include <poll.h>
#include <sys/epoll.h>
#include <thread>

namespace casemate {
namespace {

TEST_CASE("poll calls the handlers of what is ready and does not wait") {
    const auto loop = EventLoop::create().value();
    const Fd event = create_event().value();
    int calls = 0;
    REQUIRE(loop->add(event.get(), EPOLLIN, [&](uint32_t) {
        ++calls;
        consume_event(event);
    }));
    CHECK_FALSE(loop->poll());
    signal_event(event);
    signal_event(event);
    CHECK(loop->poll());
    CHECK_FALSE(loop->poll());
    CHECK(calls == 1);
    loop->remove(event.get());
    signal_event(event);
    CHECK_FALSE(loop->poll());
}

TEST_CASE("a loop that expects the next event soon gets each, soon or late, and can be stopped") {
    const auto loop = EventLoop::create().value();
    const Fd event = create_event().value();
    const Fd answer = create_event().value();
    REQUIRE(loop->add(event.get(), EPOLLIN, [&](uint32_t) {
        consume_event(event);
        loop->expect_next_soon();
        signal_event(answer);
    }));
    std::thread thread([&] { loop->run(); });
    pollfd answered{.fd = answer.get(), .events = POLLIN, .revents = 0};
    for (int i = 0; i < 300; ++i) {
        if (i % 100 == 99)
            std::this_thread::sleep_for(2 * PollWindow::longest);
        signal_event(event);
        CHECK(::poll(&answered, 1, 10'000) == 1);
        consume_event(answer);
    }
    loop->stop();
    thread.join();
}

} // namespace
} // namespace casemate
