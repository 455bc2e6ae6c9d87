// SPDX-License-Identifier: Apache-2.0
#include "memory/guest_memory.hpp"

#include "memory/layout.hpp"

#include <array>
#include <atomic>
#include <chrono>
#include <doctest/doctest.h>
#include <thread>
#include <vector>

namespace casemate {
namespace {

GuestRange range(uint64_t start, uint64_t bytes) {
    return GuestRange::of(GuestPhysical{start}, bytes);
}

struct RefuseOnePage : WriteGate {
    GuestRange locked = range(0x3000, page_bytes);
    bool may_write(const GuestRange& asked) const override { return !locked.overlaps(asked); }
};

TEST_CASE("the last byte of RAM is readable, one past is not, and neither is a range that wraps") {
    const auto memory = GuestMemory::create(1_MiB);
    REQUIRE(memory);
    std::array<std::byte, 2> two{};
    CHECK(memory->read(range(1_MiB - 2, 2), two));
    CHECK(memory->read(range(1_MiB - 1, 2), two).error() == GuestFault::outside_ram);
    CHECK_FALSE(GuestRange::from_guest(GuestValue(~uint64_t{0}), GuestValue(uint64_t{2})));
    CHECK(GuestRange::from_guest(GuestValue(~uint64_t{0} - 1), GuestValue(uint64_t{1})));
    CHECK(memory->write(GuestPhysical{~0ULL}, two).error() == GuestFault::outside_ram);
    CHECK_FALSE(memory->load_acquire(GuestPhysical{~1ULL}));
}

TEST_CASE("RAM above 3 GiB continues behind the hole and nothing spans the hole") {
    const auto memory = GuestMemory::create(3_GiB + 1_MiB);
    REQUIRE(memory);
    CHECK(memory->store(GuestPhysical{3_GiB - 8}, uint64_t{1}));
    CHECK(memory->store(GuestPhysical{3_GiB - 4}, uint64_t{1}).error() == GuestFault::outside_ram);
    CHECK(memory->store(GuestPhysical{3_GiB}, uint64_t{1}).error() == GuestFault::outside_ram);
    CHECK(memory->store(GuestPhysical{4_GiB}, uint64_t{7}));
    CHECK(memory->fetch<uint64_t>(GuestPhysical{4_GiB}) == 7U);
    CHECK(memory->store(GuestPhysical{4_GiB + 1_MiB - 7}, uint64_t{1}).error() == GuestFault::outside_ram);
}

TEST_CASE("a write that touches one locked byte is refused whole") {
    auto memory = GuestMemory::create(1_MiB);
    REQUIRE(memory);
    const RefuseOnePage gate;
    memory->set_write_gate(&gate);
    CHECK(memory->store(GuestPhysical{0x2ff8}, uint64_t{1}));
    CHECK(memory->store(GuestPhysical{0x2ffc}, ~uint64_t{0}).error() == GuestFault::locked);
    CHECK(memory->fetch<uint32_t>(GuestPhysical{0x2ffc}) == 0U);
    CHECK(memory->store_release(GuestPhysical{0x3ffe}, 1).error() == GuestFault::locked);
    CHECK(memory->clear(range(0x3000, 1)).error() == GuestFault::locked);
    CHECK(memory->store(GuestPhysical{0x4000}, uint64_t{1}));
}

TEST_CASE("the gate's owner restores aligned words of RAM, past the gate") {
    auto memory = GuestMemory::create(1_MiB);
    REQUIRE(memory);
    const RefuseOnePage gate;
    memory->set_write_gate(&gate);
    CHECK(memory->restore(GuestPhysical{0x3008}, 7));
    CHECK(memory->fetch<uint64_t>(GuestPhysical{0x3008}) == 7U);
    CHECK(memory->restore(GuestPhysical{0x300c}, 8).error() == GuestFault::malformed);
    CHECK(memory->fetch<uint64_t>(GuestPhysical{0x3008}) == 7U);
    CHECK(memory->restore(GuestPhysical{1_MiB - 8}, 8));
    CHECK(memory->restore(GuestPhysical{1_MiB}, 8).error() == GuestFault::outside_ram);
    CHECK(memory->restore(GuestPhysical{~uint64_t{7}}, 8).error() == GuestFault::outside_ram);
}

TEST_CASE("words are read aligned, all or none") {
    const auto memory = GuestMemory::create(1_MiB);
    REQUIRE(memory);
    CHECK(memory->store(GuestPhysical{1_MiB - 16}, uint64_t{5}));
    CHECK(memory->store(GuestPhysical{1_MiB - 8}, uint64_t{6}));
    std::array<uint64_t, 2> words{1, 2};
    CHECK(memory->read_words(GuestPhysical{1_MiB - 8}, words).error() == GuestFault::outside_ram);
    CHECK(memory->read_words(GuestPhysical{~uint64_t{7}}, words).error() == GuestFault::outside_ram);
    CHECK(memory->read_words(GuestPhysical{1_MiB - 20}, words).error() == GuestFault::malformed);
    CHECK(words == std::array<uint64_t, 2>{1, 2});
    CHECK(memory->read_words(GuestPhysical{1_MiB - 16}, words));
    CHECK(words == std::array<uint64_t, 2>{5, 6});
    CHECK(memory->read_words(GuestPhysical{1_MiB}, {}));
}

TEST_CASE("a transfer is granted whole or not at all and is counted while it lives") {
    auto memory = GuestMemory::create(1_MiB);
    REQUIRE(memory);
    const RefuseOnePage gate;
    memory->set_write_gate(&gate);
    const std::array good{range(0x1000, 16), range(0, 0), range(0x4000, 32)};
    {
        const auto transfer = memory->begin_transfer(good, GuestMemory::Direction::into_ram);
        REQUIRE(transfer);
        CHECK(transfer->vectors().size() == 2);
        CHECK(transfer->bytes() == 48);
        CHECK(memory->writes_in_flight() == 1);
    }
    CHECK(memory->writes_in_flight() == 0);
    const std::array locked{range(0x1000, 16), range(0x3fff, 1)};
    CHECK(memory->begin_transfer(locked, GuestMemory::Direction::into_ram).error() == GuestFault::locked);
    CHECK(memory->begin_transfer(locked, GuestMemory::Direction::out_of_ram));
    const std::array outside{range(0x1000, 16), range(1_MiB, 1)};
    CHECK(memory->begin_transfer(outside, GuestMemory::Direction::into_ram).error() ==
          GuestFault::outside_ram);
    CHECK(memory->writes_in_flight() == 0);
}

// Locks everything or nothing.
struct LockingGate : WriteGate {
    std::atomic<bool> locked = false;
    bool may_write(const GuestRange&) const override { return !locked; }
};

TEST_CASE("draining waits for the transfers that were there, and not for later ones") {
    const auto memory = GuestMemory::create(1_MiB);
    REQUIRE(memory);
    const std::array page{range(0x1000, 16)};
    auto early = memory->begin_transfer(page, GuestMemory::Direction::into_ram);
    REQUIRE(early);
    std::atomic<bool> drained = false;
    std::jthread drain([&] {
        memory->drain_writes({});
        drained = true;
    });
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
    CHECK_FALSE(drained);
    // Readers never count.
    const auto reader = memory->begin_transfer(page, GuestMemory::Direction::out_of_ram);
    *early = Transfer();
    drain.join();
    CHECK(drained);
}

TEST_CASE("after a drain no write lands that the gate refuses") {
    auto memory = GuestMemory::create(1_MiB);
    REQUIRE(memory);
    LockingGate gate;
    memory->set_write_gate(&gate);
    std::atomic<uint64_t> total_refused = 0;
    for (int round = 0; round < 200; ++round) {
        gate.locked = false;
        std::atomic<bool> stop = false;
        const std::jthread writer([&] {
            uint64_t refused = 0;
            for (uint64_t value = 1; !stop; ++value) {
                refused += memory->store(GuestPhysical{0x1000}, value) ? 0U : 1U;
                refused +=
                    memory->store_release(GuestPhysical{0x1008}, static_cast<uint16_t>(value)) ? 0U : 1U;
            }
            total_refused += refused;
        });
        gate.locked = true;
        memory->drain_writes({});
        const auto before = memory->fetch<std::array<uint64_t, 2>>(GuestPhysical{0x1000});
        std::this_thread::sleep_for(std::chrono::microseconds(100));
        CHECK(memory->fetch<std::array<uint64_t, 2>>(GuestPhysical{0x1000}) == before);
        stop = true;
    }
    CHECK(total_refused > 0);
}

// Refuses one page and keeps what it was told.
struct RecordingGate : WriteGate {
    const GuestMemory* memory = nullptr;
    mutable std::vector<GuestRange> refusals;
    mutable uint32_t tickets_meanwhile = 0;
    bool may_write(const GuestRange& asked) const override {
        return !asked.overlaps(range(0x3000, page_bytes));
    }
    void refused(const GuestRange& asked) const override {
        refusals.push_back(asked);
        tickets_meanwhile = memory->writes_in_flight();
        // Would wait for ever for a ticket of the refused write.
        memory->drain_writes({});
    }
};

TEST_CASE("the gate learns of each refused write once, when its ticket is gone") {
    auto memory = GuestMemory::create(1_MiB);
    REQUIRE(memory);
    RecordingGate gate;
    gate.memory = &*memory;
    memory->set_write_gate(&gate);
    const std::array two{range(0x1000, 16), range(0x3ff0, 0x20)};
    CHECK_FALSE(memory->store(GuestPhysical{0x2ffc}, uint64_t{1}));
    CHECK_FALSE(memory->store_release(GuestPhysical{0x3100}, 1));
    CHECK_FALSE(memory->clear(range(0x3200, 3)));
    CHECK_FALSE(memory->begin_transfer(two, GuestMemory::Direction::into_ram));
    const std::array expected{range(0x2ffc, 8), range(0x3100, 2), range(0x3200, 3), two[1]};
    REQUIRE(gate.refusals.size() == expected.size());
    for (size_t i = 0; i < expected.size(); ++i) {
        CHECK(gate.refusals[i].start() == expected.at(i).start());
        CHECK(gate.refusals[i].bytes() == expected.at(i).bytes());
    }
    CHECK(gate.tickets_meanwhile == 0);

    CHECK(memory->store(GuestPhysical{0x4000}, 1));
    CHECK_FALSE(memory->store(GuestPhysical{1_MiB}, 1));
    CHECK(memory->begin_transfer(two, GuestMemory::Direction::out_of_ram));
    CHECK(memory->fetch<uint64_t>(GuestPhysical{0x3000}));
    CHECK(gate.refusals.size() == expected.size());
}

TEST_CASE("ring words must be aligned") {
    const auto memory = GuestMemory::create(1_MiB);
    REQUIRE(memory);
    CHECK(memory->store_release(GuestPhysical{0x1002}, 0xbeef));
    CHECK(memory->load_acquire(GuestPhysical{0x1002}) == uint16_t{0xbeef});
    CHECK(memory->load_acquire(GuestPhysical{0x1001}).error() == GuestFault::malformed);
}

} // namespace
} // namespace casemate
