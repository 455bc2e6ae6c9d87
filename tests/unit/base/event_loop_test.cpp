// SPDX-License-Identifier: Apache-2.0
#include "base/event_loop.hpp"

#include <doctest/doctest.h>
#include <sys/epoll.h>

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

} // namespace
} // namespace casemate
