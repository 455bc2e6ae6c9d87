// SPDX-License-Identifier: Apache-2.0
#include "devices/virtio/queue.hpp"

#include "driver.hpp"

#include <array>
#include <doctest/doctest.h>
#include <stdexcept>

namespace casemate::virtio {
namespace {

constexpr uint64_t ram_bytes = 1_MiB;
constexpr uint64_t rings = 0x10000;
constexpr uint64_t data = 0x40000;
constexpr uint64_t table = 0x50000;

struct Fixture {
    GuestMemory memory = GuestMemory::create(ram_bytes).value();
    DriverQueue driver;
    Queue queue;
    explicit Fixture(uint16_t size = 8, bool event_index = false, bool indirect = true)
        : driver(memory, rings, size)
        , queue(Queue::create(memory, driver.setup(event_index, indirect)).value()) {}

    Chain pop() {
        const std::optional<Chain> chain = queue.pop().value();
        if (!chain)
            throw std::logic_error("no chain");
        return *chain;
    }
    bool broken() {
        const auto chain = queue.pop();
        return !chain && chain.error() == GuestFault::malformed;
    }
};

TEST_CASE("a chain comes out as the driver described it and goes back through the used ring") {
    Fixture f;
    const uint16_t head =
        f.driver.add({{data, 16}, {data + 16, 0}, {data + 0x100, 512, true}, {data, 1, true}});
    const Chain chain = f.pop();
    CHECK(chain.head == head);
    REQUIRE(chain.readable.size() == 1);
    REQUIRE(chain.writable.size() == 2);
    CHECK(chain.readable[0].start().value == data);
    CHECK(chain.readable_bytes == 16);
    CHECK(chain.writable_bytes == 513);
    CHECK_FALSE(f.queue.pop()->has_value());
    CHECK(f.queue.push_used(head, 513));
    CHECK(f.driver.take_used() == Used{head, 513});
    CHECK(f.driver.free_descriptors() == 8);
}

TEST_CASE("indices wrap at the ring's end and at 65536") {
    Fixture f(4);
    for (unsigned i = 0; i < 70000; ++i) {
        const uint16_t head = f.driver.add({{data, 1}, {data, 1, true}});
        REQUIRE(f.pop().head == head);
        REQUIRE(f.queue.push_used(head, i));
        REQUIRE((f.driver.take_used() == Used{head, i}));
    }
}

TEST_CASE("a full queue is fine, one chain more than the queue holds is not") {
    Fixture f;
    for (unsigned i = 0; i < 8; ++i)
        f.driver.add({{data, 1}});
    for (unsigned i = 0; i < 8; ++i)
        f.pop();
    CHECK_FALSE(f.queue.pop()->has_value());
    f.driver.offer(0);
    CHECK(f.broken());

    Fixture g;
    g.driver.set_available_index(8);
    CHECK(g.queue.pop());
    g.driver.set_available_index(9);
    CHECK(g.broken());
    g.driver.set_available_index(0);
    CHECK(g.broken());
    g.driver.set_available_index(0x8001);
    CHECK(g.broken());
}

TEST_CASE("a head or a next index past the queue breaks the device, the last one does not") {
    Fixture f;
    f.driver.set_descriptor(7, {.address = data, .length = 1U, .flags = uint16_t{0}, .next = uint16_t{0}});
    f.driver.offer(7);
    CHECK(f.pop().head == 7);
    f.driver.offer(8);
    CHECK(f.broken());

    Fixture g;
    g.driver.set_descriptor(0, {.address = data, .length = 1U, .flags = flag_next, .next = uint16_t{8}});
    g.driver.offer(0);
    CHECK(g.broken());
}

TEST_CASE("a chain as long as the queue works, a loop breaks the device") {
    Fixture f;
    const std::vector<Buffer> eight(8, Buffer{data, 1});
    f.driver.add(eight);
    CHECK(f.pop().readable.size() == 8);

    Fixture g;
    g.driver.set_descriptor(3, {.address = data, .length = 1U, .flags = flag_next, .next = uint16_t{3}});
    g.driver.offer(3);
    CHECK(g.broken());
}

TEST_CASE("a loop of empty buffers ends too") {
    Fixture f;
    f.driver.set_descriptor(0, {.address = data, .length = 0U, .flags = flag_next, .next = uint16_t{0}});
    f.driver.offer(0);
    CHECK(f.broken());
}

TEST_CASE("a readable buffer behind a writable one breaks the device") {
    Fixture f;
    f.driver.add({{data, 1, true}, {data, 1}});
    CHECK(f.broken());
}

TEST_CASE("buffers may end at the address space's end but not wrap, and need not be RAM") {
    Fixture f;
    f.driver.add({{~0ULL - 16, 16}});
    CHECK(f.pop().readable_bytes == 16);
    f.driver.add({{~0ULL - 15, 17}});
    const auto chain = f.queue.pop();
    REQUIRE_FALSE(chain);
    CHECK(chain.error() == GuestFault::outside_ram);
}

TEST_CASE("a chain carries at most 4 GiB") {
    Fixture f;
    f.driver.add({{0, 0x80000000}, {0, 0x80000000, true}});
    CHECK(f.pop().writable_bytes == 2_GiB);
    f.driver.add({{0, 0x80000000}, {0, 0x80000000}, {0, 1, true}});
    CHECK(f.broken());
}

TEST_CASE("an indirect table may hold as many descriptors as the queue, not one more") {
    Fixture f;
    const std::vector<Buffer> eight(8, Buffer{data, 4, true});
    f.driver.add_indirect(table, eight);
    CHECK(f.pop().writable_bytes == 32);
    const std::vector<Buffer> nine(9, Buffer{data, 4, true});
    f.driver.add_indirect(table, nine);
    CHECK(f.broken());
}

TEST_CASE("plain descriptors may lead to an indirect one whose write flag is ignored") {
    Fixture f;
    f.driver.set_descriptor_at(table, 0,
                               {.address = data, .length = 8U, .flags = uint16_t{0}, .next = uint16_t{0}});
    f.driver.set_descriptor(0, {.address = data, .length = 4U, .flags = flag_next, .next = uint16_t{1}});
    f.driver.set_descriptor(1, {.address = table,
                                .length = 16U,
                                .flags = static_cast<uint16_t>(flag_indirect | flag_write),
                                .next = uint16_t{0}});
    f.driver.offer(0);
    CHECK(f.pop().readable_bytes == 12);
}

TEST_CASE("each misuse of an indirect table breaks the device") {
    const RawDescriptor buffer{.address = data, .length = 1U, .flags = uint16_t{0}, .next = uint16_t{0}};
    RawDescriptor reference{.address = table, .length = 32U, .flags = flag_indirect, .next = uint16_t{0}};
    RawDescriptor entry = buffer;
    Fixture f;
    Fixture without(8, false, false);
    Fixture* used = &f;
    SUBCASE("not negotiated") {
        used = &without;
    }
    SUBCASE("empty") {
        reference.length = 0U;
    }
    SUBCASE("no multiple of 16") {
        reference.length = 31U;
    }
    SUBCASE("another descriptor behind it") {
        reference.flags = static_cast<uint16_t>(flag_indirect | flag_next);
    }
    SUBCASE("nested") {
        entry = reference;
    }
    SUBCASE("next past the table") {
        entry.flags = flag_next;
        entry.next = uint16_t{2};
    }
    used->driver.set_descriptor_at(table, 0, entry);
    used->driver.set_descriptor_at(table, 1, buffer);
    used->driver.set_descriptor(0, reference);
    used->driver.offer(0);
    CHECK(used->broken());
}

TEST_CASE("an indirect table outside RAM is a fault") {
    Fixture f;
    f.driver.set_descriptor(
        0, {.address = ram_bytes - 8, .length = 16U, .flags = flag_indirect, .next = uint16_t{0}});
    f.driver.offer(0);
    const auto chain = f.queue.pop();
    REQUIRE_FALSE(chain);
    CHECK(chain.error() == GuestFault::outside_ram);
}

TEST_CASE("setups that can never work are refused") {
    const auto memory = GuestMemory::create(ram_bytes).value();
    const DriverQueue driver(memory, rings, 8);
    const QueueSetup good = driver.setup();
    QueueSetup setup = good;
    auto fault = [&] { return Queue::create(memory, setup).error(); };
    CHECK(Queue::create(memory, good));
    for (const uint16_t size : std::array<uint16_t, 4>{0, 3, 24, 65535}) {
        setup = good;
        setup.size = size;
        CHECK(fault() == GuestFault::malformed);
    }
    // Last byte of RAM, one past, wrap, alignment, for each area.
    struct Area {
        GuestValue<uint64_t> QueueSetup::* member;
        uint64_t bytes;
        uint64_t alignment;
    };
    for (const auto& [member, bytes, alignment] :
         {Area{&QueueSetup::descriptors, 128, 16}, Area{&QueueSetup::driver_area, 22, 2},
          Area{&QueueSetup::device_area, 70, 4}}) {
        setup = good;
        const uint64_t last = align_down(ram_bytes - bytes, alignment);
        setup.*member = GuestValue(last);
        CHECK(Queue::create(memory, setup));
        setup.*member = GuestValue(last + alignment);
        CHECK(fault() == GuestFault::outside_ram);
        setup.*member = GuestValue(align_down(~0ULL, alignment));
        CHECK(fault() == GuestFault::outside_ram);
        setup.*member = GuestValue(data + alignment / 2);
        CHECK(fault() == GuestFault::malformed);
    }
}

TEST_CASE("a locked used ring refuses what the device returns") {
    Fixture f;
    struct LockAll : WriteGate {
        bool may_write(const GuestRange&) const override { return false; }
    } gate;
    f.driver.add({{data, 1, true}});
    f.memory.set_write_gate(&gate);
    CHECK(f.queue.pop());
    CHECK(f.queue.push_used(0, 1).error() == GuestFault::locked);
    CHECK(f.queue.set_doorbell_wanted(true).error() == GuestFault::locked);
    CHECK(f.driver.used_index() == 0);
}

TEST_CASE("an undone pop comes again") {
    Fixture f;
    const uint16_t head = f.driver.add({{data, 1}});
    f.pop();
    f.queue.undo_pop();
    CHECK(f.pop().head == head);
}

TEST_CASE("staged buffers appear together") {
    Fixture f;
    const uint16_t first = f.driver.add({{data, 1, true}});
    const uint16_t second = f.driver.add({{data, 1, true}});
    f.pop();
    f.pop();
    f.queue.stage_used(first, 1);
    f.queue.stage_used(second, 2);
    CHECK_FALSE(f.driver.take_used());
    CHECK_FALSE(f.queue.take_interrupt_due().value());
    CHECK(f.queue.publish_staged());
    CHECK(f.driver.take_used() == Used{first, 1});
    CHECK(f.driver.take_used() == Used{second, 2});
    CHECK(f.queue.take_interrupt_due().value());
}

TEST_CASE("without the event index the flags decide on interrupts and doorbells") {
    Fixture f;
    CHECK(f.queue.set_doorbell_wanted(false));
    CHECK(f.driver.no_notify());
    CHECK(f.queue.set_doorbell_wanted(true));
    CHECK_FALSE(f.driver.no_notify());
    for (const bool off : {false, true}) {
        f.driver.set_no_interrupt(off);
        f.driver.add({{data, 1}});
        CHECK(f.queue.push_used(f.pop().head, 0));
        CHECK(f.queue.take_interrupt_due() == !off);
        CHECK(f.queue.take_interrupt_due() == false);
    }
}

TEST_CASE("with the event index interrupts are due when the index passes used_event") {
    Fixture f(8, true);
    auto round_trip = [&] {
        f.driver.add({{data, 1}});
        CHECK(f.queue.push_used(f.pop().head, 0));
        f.driver.take_used();
    };
    f.driver.set_used_event(1);
    round_trip(); // used index 1: not past
    CHECK(f.queue.take_interrupt_due() == false);
    round_trip(); // 2: passed 1
    CHECK(f.queue.take_interrupt_due() == true);
    round_trip();
    CHECK(f.queue.take_interrupt_due() == false);
    f.driver.set_used_event(4);
    round_trip();
    round_trip(); // 3 -> 5 in one go passes 4
    CHECK(f.queue.take_interrupt_due() == true);
    CHECK(f.queue.set_doorbell_wanted(false));
    CHECK(f.driver.available_event() == 0);
    CHECK(f.queue.set_doorbell_wanted(true));
    CHECK(f.driver.available_event() == 5);
    CHECK_FALSE(f.driver.no_notify());
}

} // namespace
} // namespace casemate::virtio
