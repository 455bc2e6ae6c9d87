// SPDX-License-Identifier: Apache-2.0
#include "devices/virtio/rng.hpp"

#include "driver.hpp"

#include <algorithm>
#include <doctest/doctest.h>
#include <string>

namespace casemate::virtio {
namespace {

constexpr uint64_t ram_bytes = 1_MiB;
constexpr uint64_t rings = 0x10000;
constexpr uint64_t data = 0x40000;

struct RecordingHost final : Host {
    int notified = 0;
    int again = 0;
    std::string broken;
    void notify_queue(uint16_t) override { ++notified; }
    void process_again(uint16_t) override { ++again; }
    void notify_config() override {}
    void break_device(std::string_view reason) override { broken = reason; }
};

struct Fixture {
    GuestMemory memory = GuestMemory::create(ram_bytes).value();
    DriverQueue driver{memory, rings, 64};
    Queue queue = Queue::create(memory, driver.setup()).value();
    RecordingHost host;
    Rng rng{memory};
    Fixture() {
        Queue* const queues[] = {&queue};
        rng.activate(0, queues, host);
    }
    std::vector<std::byte> bytes(uint64_t start, size_t count) const {
        std::vector<std::byte> out(count);
        REQUIRE(memory.read(GuestRange::of({start}, count), out));
        return out;
    }
};

TEST_CASE("a request is filled to its last byte and not past it") {
    Fixture f;
    const uint16_t head = f.driver.add({{data, 5000, true}, {data + 0x4000, 3000, true}});
    f.rng.process_queue(0);
    CHECK(f.driver.take_used() == Used{head, 8000});
    CHECK(f.host.notified == 1);
    CHECK(f.bytes(data + 4968, 32) != std::vector<std::byte>(32));
    CHECK(f.bytes(data + 0x4000 + 2968, 32) != std::vector<std::byte>(32));
    CHECK(f.bytes(data + 5000, 32) == std::vector<std::byte>(32));
    CHECK(f.bytes(data + 0x4000 + 3000, 32) == std::vector<std::byte>(32));
}

TEST_CASE("a giant request gets its share") {
    Fixture f;
    const uint16_t head = f.driver.add({{data, 0xffffffff, true}});
    f.rng.process_queue(0);
    CHECK(f.driver.take_used() == Used{head, Rng::max_request_bytes});
}

TEST_CASE("many requests are served in turns") {
    Fixture f;
    for (int i = 0; i < 40; ++i)
        f.driver.add({{data, 16, true}});
    f.rng.process_queue(0);
    CHECK(f.host.again == 1);
    CHECK(f.driver.used_index() < 40);
    for (int i = 0; i < 3; ++i)
        f.rng.process_queue(0);
    CHECK(f.driver.used_index() == 40);
    CHECK(f.host.again == 2);
    CHECK_FALSE(f.driver.no_notify());
}

TEST_CASE("large requests are served one a turn") {
    Fixture f;
    for (int i = 0; i < 3; ++i)
        f.driver.add({{data, 0x10000, true}});
    for (int turn = 1; turn <= 3; ++turn) {
        f.rng.process_queue(0);
        CHECK(f.driver.used_index() == turn);
        CHECK(f.host.again == turn);
    }
}

TEST_CASE("a request to read, an empty one and one outside RAM break the device") {
    Fixture f;
    SUBCASE("readable part") {
        f.driver.add({{data, 16}, {data, 16, true}});
    }
    SUBCASE("empty") {
        f.driver.add({{data, 0, true}});
    }
    SUBCASE("outside RAM") {
        f.driver.add({{ram_bytes - 1, 2, true}});
    }
    SUBCASE("bad chain") {
        f.driver.offer(64);
    }
    f.rng.process_queue(0);
    CHECK(f.host.broken == "bad request");
    CHECK_FALSE(f.driver.take_used());
}

TEST_CASE("locked memory stays as it is") {
    Fixture f;
    struct LockData : WriteGate {
        bool may_write(const GuestRange& range) const override {
            return !range.overlaps(GuestRange::of({data}, page_bytes));
        }
    } gate;
    f.memory.set_write_gate(&gate);
    f.driver.add({{data, 16, true}});
    f.rng.process_queue(0);
    CHECK(f.host.broken == "request for locked memory");
    CHECK(f.bytes(data, 16) == std::vector<std::byte>(16));
}

TEST_CASE("after a reset nothing is touched, and a missing queue is no trouble") {
    Fixture f;
    bool done = false;
    f.rng.reset([&] { done = true; });
    CHECK(done);
    f.driver.add({{data, 16, true}});
    f.rng.process_queue(0);
    CHECK_FALSE(f.driver.take_used());
    Queue* const none[] = {nullptr};
    f.rng.activate(0, none, f.host);
    f.rng.process_queue(0);
    CHECK(f.host.broken.empty());
}

} // namespace
} // namespace casemate::virtio
