// SPDX-License-Identifier: Apache-2.0
#include "devices/virtio/net.hpp"

#include "driver.hpp"
#include "fake_host.hpp"
#include "io_thread.hpp"

#include <algorithm>
#include <array>
#include <cerrno>
#include <fcntl.h>
#include <net/if.h>
#include <optional>
#include <string>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include <linux/if_tun.h>

namespace casemate::virtio {
namespace {

constexpr uint64_t mergeable = 1ULL << 15;
constexpr uint64_t mtu_known = 1ULL << 3;
constexpr uint64_t ram_bytes = 1_MiB;
constexpr uint64_t receive_rings = 0x10000;
constexpr uint64_t transmit_rings = 0x20000;
constexpr uint64_t receive_at = 0x40000;
constexpr uint64_t transmit_at = 0x80000;
constexpr size_t header_bytes = 12;

// One end of a socket pair that keeps frame boundaries, as a tap does; the test holds the other end.
struct FakePort : FramePort {
    Fd ours;
    Offloads offloads;
    uint16_t link_mtu = 1500;
    int write_error = 0;
    unsigned reads = 0;
    unsigned frames = 0; // the reads that found one
    size_t given = 0;    // vectors, to the last read
    int descriptor() const override { return ours.get(); }
    uint16_t mtu() const override { return link_mtu; }
    Result<void> set_offloads(const Offloads& wanted) override {
        offloads = wanted;
        return {};
    }
    ssize_t read(std::span<const iovec> vectors) override {
        ++reads;
        given = vectors.size();
        const ssize_t result = readv(ours.get(), vectors.data(), static_cast<int>(vectors.size()));
        frames += result >= 0 ? 1 : 0;
        return result < 0 ? -errno : result;
    }
    ssize_t write(std::span<const iovec> vectors) override {
        if (write_error != 0)
            return -write_error;
        const ssize_t result = writev(ours.get(), vectors.data(), static_cast<int>(vectors.size()));
        return result < 0 ? -errno : result;
    }
};

struct Fixture {
    GuestMemory memory = GuestMemory::create(ram_bytes).value();
    LockedRange gate;
    IoThread io;
    Log log{-1};
    DriverQueue receive_driver{memory, receive_rings, 16};
    DriverQueue transmit_driver{memory, transmit_rings, 128};
    Queue receive_queue = Queue::create(memory, receive_driver.setup()).value();
    Queue transmit_queue = Queue::create(memory, transmit_driver.setup()).value();
    FakeHost host;
    Fd wire; // the far end
    FakePort* port = nullptr;
    std::unique_ptr<Net> net;

    explicit Fixture(uint64_t features = mergeable) {
        std::array<int, 2> ends{};
        REQUIRE(socketpair(AF_UNIX, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, ends.data()) == 0);
        wire = Fd(ends[0]);
        auto fake = std::make_unique<FakePort>();
        fake->ours = Fd(ends[1]);
        port = fake.get();
        net = Net::create({.name = "net0"}, std::move(fake), memory, io.loop(), log).value();
        memory.set_write_gate(&gate);
        io.run([&] { activate(features); });
    }
    ~Fixture() {
        io.run([&] { net.reset(); });
    }
    Fixture(const Fixture&) = delete;
    Fixture& operator=(const Fixture&) = delete;

    void activate(uint64_t features) {
        const std::array queues{&receive_queue, &transmit_queue};
        net->activate(features, queues, host);
    }
    // A reset, and the driver's next start with empty rings.
    void restart(bool event_index = false, uint64_t features = mergeable) {
        io.run([&] {
            net->reset([] {});
            receive_driver.restart();
            transmit_driver.restart();
            receive_queue = Queue::create(memory, receive_driver.setup(event_index)).value();
            transmit_queue = Queue::create(memory, transmit_driver.setup(event_index)).value();
            activate(features);
        });
        taken = 0;
    }
    void kick(uint16_t index) {
        io.run([&] { net->process_queue(index); });
    }
    ssize_t send_frame(size_t bytes, uint8_t fill = 0x5a, uint8_t gso_type = 0) {
        std::vector<uint8_t> frame(bytes, fill);
        std::fill_n(frame.begin(), std::min(bytes, header_bytes), uint8_t{0});
        frame[1] = gso_type;
        return send(wire.get(), frame.data(), frame.size(), 0);
    }
    // As above; every byte behind the header tells its place.
    ssize_t send_counting(size_t bytes) {
        std::vector<uint8_t> frame(bytes);
        for (size_t i = header_bytes; i < bytes; ++i)
            frame[i] = counting_byte(i);
        return send(wire.get(), frame.data(), frame.size(), 0);
    }
    static uint8_t counting_byte(size_t place) { return static_cast<uint8_t>(place % 251 + 1); }
    // Whether the `bytes` bytes of such a frame from `place` on are at `start`.
    bool counts_on(uint64_t start, size_t place, size_t bytes) const {
        for (size_t i = 0; i < bytes; ++i)
            if (memory.fetch<uint8_t>({start + i}) != counting_byte(place + i))
                return false;
        return true;
    }
    // How many frames the device took off the port, once it had time for what was sent.
    unsigned settled_frames() {
        std::this_thread::sleep_for(std::chrono::milliseconds(20));
        unsigned frames = 0;
        io.run([&] { frames = port->frames; });
        return frames;
    }
    ssize_t take_frame() {
        std::vector<uint8_t> frame(70000);
        return recv(wire.get(), frame.data(), frame.size(), 0);
    }
    // The used element that comes within five seconds.
    Used received() {
        REQUIRE(io.eventually([&] { return receive_driver.used_index() != taken; }));
        ++taken;
        return receive_driver.take_used().value_or(Used{});
    }
    uint16_t num_buffers(uint64_t buffer) { return memory.load_acquire({buffer + 10}).value(); }
    uint16_t taken = 0;
};

TEST_CASE("a frame lands in one buffer with its header and num_buffers 1") {
    for (const uint64_t features : {uint64_t{0}, mergeable}) {
        Fixture f(features);
        const uint16_t head = f.receive_driver.add({{receive_at, 12, true}, {receive_at + 12, 1514, true}});
        f.kick(0);
        REQUIRE(f.send_frame(112) == 112);
        CHECK(f.received() == Used{head, 112});
        CHECK(f.num_buffers(receive_at) == 1);
        CHECK(f.memory.fetch<uint8_t>({receive_at + 111}) == uint8_t{0x5a});
        CHECK(f.memory.fetch<uint8_t>({receive_at + 112}) == uint8_t{0});
        CHECK(f.host.notified != 0);
        CHECK(f.memory.writes_in_flight() == 0);
    }
}

TEST_CASE("a long frame spreads over mergeable buffers that appear together") {
    Fixture f;
    // Headers cut in two: num_buffers lies across a boundary.
    const uint16_t first = f.receive_driver.add({{receive_at, 11, true}, {receive_at + 11, 89, true}});
    const uint16_t second = f.receive_driver.add({{receive_at + 0x1000, 100, true}});
    const uint16_t third = f.receive_driver.add({{receive_at + 0x2000, 100, true}});
    const uint16_t fourth = f.receive_driver.add({{receive_at + 0x3000, 100, true}});
    f.kick(0);
    REQUIRE(f.send_frame(300) == 300);
    CHECK(f.received() == Used{first, 100});
    CHECK(f.receive_driver.used_index() == 3);
    CHECK(f.received() == Used{second, 100});
    CHECK(f.received() == Used{third, 100});
    CHECK(f.num_buffers(receive_at) == 3);
    REQUIRE(f.send_frame(20) == 20); // the fourth waited for the next frame
    CHECK(f.received() == Used{fourth, 20});
    CHECK(f.num_buffers(receive_at + 0x3000) == 1);
}

TEST_CASE("a frame longer than the buffers is dropped and costs no buffer") {
    for (const uint64_t features : {uint64_t{0}, mergeable}) {
        Fixture f(features);
        const uint16_t head = f.receive_driver.add({{receive_at, 100, true}});
        f.kick(0);
        REQUIRE(f.send_frame(101) == 101);
        REQUIRE(f.send_frame(100) == 100);
        CHECK(f.received() == Used{head, 100});
        CHECK(f.receive_driver.used_index() == 1);
        CHECK(f.memory.fetch<uint8_t>({receive_at + 100}) == uint8_t{0});
        CHECK(f.host.broken.empty());
    }
}

TEST_CASE("a frame too long for the buffers left waits for more, and the port with it") {
    for (const bool event_index : {false, true}) {
        Fixture f;
        f.restart(event_index);
        for (uint64_t i = 0; i < 4; ++i)
            f.receive_driver.add({{receive_at + 0x1000 * i, 100, true}});
        f.kick(0);
        REQUIRE(f.send_frame(300) == 300);
        for (int i = 0; i < 3; ++i)
            CHECK(f.received().length == 100);
        REQUIRE(f.send_counting(270) == 270);
        REQUIRE(f.send_frame(50) == 50);
        CHECK(f.settled_frames() == 2); // the second frame is still in the port
        // Not enough yet; the rest must ring again.
        const uint16_t second =
            f.receive_driver.add({{receive_at + 0x4000, 60, true}, {receive_at + 0x5000, 40, true}});
        f.kick(0);
        CHECK(f.settled_frames() == 2);
        CHECK(f.receive_driver.used_index() == 3);
        if (event_index)
            CHECK(f.receive_driver.available_event() == f.receive_driver.available_index());
        CHECK_FALSE(f.receive_driver.no_notify());
        const uint16_t third = f.receive_driver.add({{receive_at + 0x6000, 100, true}});
        const uint16_t fourth = f.receive_driver.add({{receive_at + 0x7000, 100, true}});
        f.kick(0);
        CHECK(f.received().length == 100);
        CHECK(f.received() == Used{second, 100});
        CHECK(f.received() == Used{third, 70});
        CHECK(f.num_buffers(receive_at + 0x3000) == 3);
        CHECK(f.counts_on(receive_at + 0x3000 + 12, 12, 88));
        CHECK(f.counts_on(receive_at + 0x4000, 100, 60));
        CHECK(f.counts_on(receive_at + 0x5000, 160, 40));
        CHECK(f.counts_on(receive_at + 0x6000, 200, 70));
        CHECK(f.memory.fetch<uint8_t>({receive_at + 0x6000 + 70}) == uint8_t{0});
        CHECK(f.received() == Used{fourth, 50});
        CHECK(f.num_buffers(receive_at + 0x7000) == 1);
        CHECK(f.host.broken.empty());
    }
}

TEST_CASE("frames that wait are taken in one turn with one notification") {
    Fixture f;
    // On the I/O thread, which would take the first as it comes.
    f.io.run([&] {
        for (unsigned i = 0; i < 5; ++i)
            CHECK(f.send_frame(100 + i) == 100 + i);
        for (uint64_t i = 0; i < 8; ++i)
            f.receive_driver.add({{receive_at + 0x1000 * i, 1526, true}});
        const unsigned before = f.host.notified;
        f.net->process_queue(Net::receive_queue);
        CHECK(f.receive_driver.used_index() == 5);
        CHECK(f.host.notified == before + 1);
        CHECK(f.port->reads == 6); // the last finds that there is no more
        CHECK(f.port->given == 3); // buffers for another short frame, and the tail
    });
    for (unsigned i = 0; i < 5; ++i)
        CHECK(f.received().length == 100 + i);
}

TEST_CASE("a turn ends after 64 frames, and the port's readiness goes on with the rest") {
    Fixture f;
    // Room for all: the ring has 16 buffers, which the driver gives again.
    unsigned sent = 0;
    while (sent < 70 && f.send_frame(60) == 60)
        ++sent;
    uint16_t seen = 0;
    while (seen < sent) {
        while (f.receive_driver.free_descriptors() != 0)
            f.receive_driver.add({{receive_at, 200, true}});
        f.kick(0);
        REQUIRE(f.io.eventually([&] { return f.receive_driver.used_index() != seen; }));
        while (f.receive_driver.take_used())
            ++seen;
    }
    CHECK(seen == sent);
}

TEST_CASE("long and short frames in turn arrive whole, whatever the read before was like") {
    for (const size_t first : {60U, 3000U}) {
        Fixture f;
        for (uint64_t i = 0; i < 16; ++i)
            f.receive_driver.add({{receive_at + 0x1000 * i, 500, true}});
        f.kick(0);
        uint64_t at = receive_at;
        size_t bytes = first;
        for (int i = 0; i < 4; ++i) {
            REQUIRE(f.send_counting(bytes) == bytes);
            const size_t count = (bytes + 499) / 500;
            for (size_t buffer = 0; buffer < count; ++buffer) {
                const size_t part = std::min<size_t>(500, bytes - buffer * 500);
                CHECK(f.received().length == part);
                const size_t header = buffer == 0 ? header_bytes : 0;
                CHECK(f.counts_on(at + 0x1000 * buffer + header, buffer * 500 + header, part - header));
            }
            CHECK(f.num_buffers(at) == count);
            at += 0x1000 * count;
            bytes = bytes == 60 ? 3000 : 60;
        }
        CHECK(f.host.broken.empty());
    }
}

TEST_CASE("the MTU is the port's, or less where that was asked for") {
    const GuestMemory memory = GuestMemory::create(ram_bytes).value();
    const auto loop = EventLoop::create().value();
    const Log log(-1);
    const auto create = [&](uint16_t link, std::optional<uint16_t> asked) {
        auto port = std::make_unique<FakePort>();
        port->link_mtu = link;
        return Net::create({.interface = "tap9", .mtu = asked, .name = "net0"}, std::move(port), memory,
                           *loop, log);
    };
    const auto told = [](Net& net) {
        std::array<std::byte, 2> mtu{};
        net.read_config(10, mtu);
        return std::to_integer<unsigned>(mtu[0]) | std::to_integer<unsigned>(mtu[1]) << 8U;
    };
    struct Case {
        uint16_t link;
        std::optional<uint16_t> asked;
        uint16_t result;
    };
    for (const Case& each : {Case{1400, {}, 1400}, Case{65521, {}, 65521}, Case{1500, 1280, 1280},
                             Case{1500, 1500, 1500}, Case{1500, 68, 68}}) {
        const auto net = create(each.link, each.asked);
        REQUIRE(net);
        CHECK(told(**net) == each.result);
        CHECK(((*net)->features() & mtu_known) != 0);
        // What a driver writes there changes nothing, and what it reads behind is zero.
        const std::array written{std::byte{0xff}, std::byte{0xff}};
        (*net)->write_config(10, written);
        CHECK(told(**net) == each.result);
        std::array<std::byte, 4> behind{};
        behind.fill(std::byte{0xff});
        (*net)->read_config(11, behind);
        CHECK(behind[0] == static_cast<std::byte>(each.result >> 8U));
        CHECK(behind[1] == std::byte{0});
    }
    // 68 is the least that may be offered.
    CHECK((create(67, std::nullopt).value()->features() & mtu_known) == 0);
    const auto small = create(1500, 67);
    REQUIRE_FALSE(small);
    CHECK(small.error().blame() == Blame::usage);
    const auto large = create(1500, 1501);
    REQUIRE_FALSE(large);
    CHECK(large.error().blame() == Blame::usage);
    CHECK(large.error().message().find("MTU 1501 of net0 is more than the 1500 of tap9") !=
          std::string::npos);
}

TEST_CASE("a frame longer than a negotiated MTU is dropped, unless it is to be cut into segments") {
    constexpr size_t longest = header_bytes + 18 + 1500; // with a VLAN tag
    constexpr uint8_t gso_tcp4 = 1;
    constexpr uint8_t gso_ecn = 0x80;
    for (const uint64_t features : {mergeable | mtu_known, mtu_known}) {
        Fixture f(features);
        for (uint64_t i = 0; i < 4; ++i)
            f.receive_driver.add({{receive_at + 0x1000 * i, 4000, true}});
        f.kick(0);
        REQUIRE(f.send_frame(longest + 1) == longest + 1);
        REQUIRE(f.send_frame(longest + 1, 0x5a, gso_ecn) == longest + 1);
        REQUIRE(f.send_frame(longest) == longest);
        REQUIRE(f.send_frame(longest + 1, 0x5a, gso_tcp4) == longest + 1);
        REQUIRE(f.send_frame(longest + 2, 0x5a, gso_tcp4 | gso_ecn) == longest + 2);
        CHECK(f.received().length == longest);
        CHECK(f.received().length == longest + 1);
        CHECK(f.received().length == longest + 2);
        CHECK(f.receive_driver.used_index() == 3);
        CHECK(f.host.broken.empty());
    }
    // A driver that does not know of it gets what comes.
    Fixture f(mergeable);
    f.receive_driver.add({{receive_at, 4000, true}});
    f.kick(0);
    REQUIRE(f.send_frame(longest + 1) == longest + 1);
    CHECK(f.received().length == longest + 1);
}

TEST_CASE("the longest frame is held, and one byte more is dropped") {
    Fixture f;
    const auto add_half = [&](uint64_t at) { return f.receive_driver.add({{at, 33000, true}}); };
    add_half(receive_at);
    add_half(receive_at + 0x10000);
    f.kick(0);
    REQUIRE(f.send_frame(12) == 12);
    f.received();
    REQUIRE(f.send_frame(Net::max_frame_bytes + 1) == Net::max_frame_bytes + 1);
    REQUIRE(f.send_frame(Net::max_frame_bytes) == Net::max_frame_bytes);
    f.settled_frames();
    CHECK(f.receive_driver.used_index() == 1);
    add_half(receive_at + 0x20000);
    f.kick(0);
    CHECK(f.received().length == 33000);
    CHECK(f.received().length == Net::max_frame_bytes - 33000);
    CHECK(f.num_buffers(receive_at + 0x10000) == 2);
    CHECK(f.receive_driver.used_index() == 3);
}

TEST_CASE("a frame longer than all buffers the driver ever had is dropped and the next arrives") {
    Fixture f;
    // Every descriptor of the ring, then as many shorter ones.
    for (const uint32_t length : {100U, 50U}) {
        for (uint64_t i = 0; i < 16; ++i)
            f.receive_driver.add({{receive_at + 0x1000 * i, length, true}});
        f.kick(0);
        const size_t all = size_t{16} * length;
        REQUIRE(f.send_frame(all + 1) == all + 1);
        REQUIRE(f.send_frame(all) == all);
        for (int i = 0; i < 16; ++i)
            CHECK(f.received().length == length);
        CHECK(f.num_buffers(receive_at) == 16);
        CHECK(f.receive_driver.used_index() == f.taken);
    }
}

TEST_CASE("a held frame is dropped when the whole ring turns out too short for it") {
    Fixture f;
    f.receive_driver.add({{receive_at, 1000, true}});
    f.receive_driver.add({{receive_at + 0x1000, 100, true}});
    f.kick(0);
    REQUIRE(f.send_frame(1000) == 1000);
    f.received();
    REQUIRE(f.send_frame(1000) == 1000);
    f.settled_frames();
    for (uint64_t i = 0; i < 15; ++i)
        f.receive_driver.add({{receive_at + 0x2000 + 0x1000 * i, 20, true}});
    f.kick(0);
    REQUIRE(f.send_frame(100) == 100);
    CHECK(f.received().length == 100);
    CHECK(f.num_buffers(receive_at + 0x1000) == 1);
    CHECK(f.receive_driver.used_index() == 2);
}

TEST_CASE("the rest of a held frame breaks the device when its buffer is locked or outside RAM") {
    for (const Buffer& buffer :
         {Buffer{receive_at + 0x2000, 200, true}, Buffer{ram_bytes - 100, 200, true}}) {
        Fixture f;
        f.gate.locked = GuestRange::of({receive_at + 0x2000 + 149}, 1);
        f.receive_driver.add({{receive_at, 200, true}});
        f.receive_driver.add({{receive_at + 0x1000, 150, true}});
        f.kick(0);
        REQUIRE(f.send_frame(200) == 200);
        f.received();
        REQUIRE(f.send_frame(330) == 330);
        REQUIRE(f.send_frame(60) == 60);
        f.settled_frames();
        CHECK(f.host.broken.empty());
        f.receive_driver.add({buffer});
        f.kick(0);
        f.io.run([&] { CHECK_FALSE(f.host.broken.empty()); });
        CHECK(f.receive_driver.used_index() == 1);
        CHECK(f.memory.fetch<uint8_t>({receive_at + 0x2000 + 20}) == uint8_t{0});
        CHECK(f.settled_frames() == 2);
    }
}

TEST_CASE("reset forgets a held frame") {
    Fixture f;
    f.receive_driver.add({{receive_at, 100, true}});
    f.receive_driver.add({{receive_at + 0x1000, 100, true}});
    f.kick(0);
    REQUIRE(f.send_frame(100) == 100);
    f.received();
    REQUIRE(f.send_frame(150) == 150);
    REQUIRE(f.send_frame(61) == 61);
    f.settled_frames();
    f.restart();
    const uint16_t head = f.receive_driver.add({{receive_at + 0x2000, 1526, true}});
    f.kick(0);
    CHECK(f.received() == Used{head, 61});
    // Nor does it remember how much room the old rings had.
    f.restart();
    const uint16_t small = f.receive_driver.add({{receive_at, 100, true}});
    f.kick(0);
    REQUIRE(f.send_frame(150) == 150);
    REQUIRE(f.send_frame(62) == 62);
    CHECK(f.received() == Used{small, 62});
}

TEST_CASE("without receive buffers frames stay in the port until the driver rings") {
    Fixture f;
    REQUIRE(f.send_frame(60) == 60);
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
    f.io.run([&] { CHECK(f.port->reads == 0); });
    const uint16_t head = f.receive_driver.add({{receive_at, 1526, true}});
    f.kick(0);
    CHECK(f.received() == Used{head, 60});
    unsigned reads = 0;
    f.io.run([&] { reads = f.port->reads; });
    REQUIRE(f.send_frame(61) == 61);
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
    f.io.run([&] { CHECK(f.port->reads == reads); });
    const uint16_t again = f.receive_driver.add({{receive_at, 1526, true}});
    f.kick(0);
    CHECK(f.received() == Used{again, 61});
}

TEST_CASE("receive buffers in locked memory, outside RAM or without room break the device") {
    for (const Buffer& buffer :
         {Buffer{receive_at + 0x1000, 200, true}, Buffer{ram_bytes - 100, 200, true},
          Buffer{~0ULL - 4096, 200, true}, Buffer{receive_at, 11, true}, Buffer{receive_at, 200, false}}) {
        Fixture f;
        f.gate.locked = GuestRange::of({receive_at + 0x1000 + 199}, 1);
        f.receive_driver.add({buffer});
        f.kick(0);
        f.send_frame(150);
        CHECK(f.io.eventually([&] { return !f.host.broken.empty(); }));
        CHECK(f.receive_driver.used_index() == 0);
        CHECK(f.memory.fetch<uint8_t>({receive_at + 0x1000 + 20}) == uint8_t{0});
        CHECK(f.memory.writes_in_flight() == 0);
    }
}

TEST_CASE("frames are sent as they are, whatever their cut") {
    Fixture f;
    REQUIRE(f.memory.store({transmit_at + 40}, uint8_t{0x77}));
    const uint16_t head =
        f.transmit_driver.add({{transmit_at, 5}, {transmit_at + 5, 35}, {transmit_at + 40, 1}});
    f.kick(1);
    std::array<uint8_t, 64> frame{};
    CHECK(recv(f.wire.get(), frame.data(), frame.size(), 0) == 41);
    CHECK(frame[40] == 0x77);
    CHECK(f.transmit_driver.take_used() == Used{head, 0});
}

TEST_CASE("bad frames are dropped and the next is sent") {
    Fixture f;
    f.transmit_driver.add({{transmit_at, 12}});       // a header alone
    f.transmit_driver.add({{transmit_at, 11}});       // not even that
    f.transmit_driver.add({{transmit_at, 64, true}}); // nothing to read
    f.transmit_driver.add({{ram_bytes - 10, 64}});    // outside RAM
    f.transmit_driver.add({{transmit_at, Net::max_frame_bytes + 1}});
    f.transmit_driver.add({{transmit_at, Net::max_frame_bytes}});
    f.transmit_driver.add({{transmit_at, 60}});
    f.kick(1);
    CHECK(f.transmit_driver.used_index() == 7);
    CHECK(f.take_frame() == Net::max_frame_bytes);
    CHECK(f.take_frame() == 60);
    CHECK(f.take_frame() == -1);
    f.io.run([&] { f.port->write_error = EINVAL; }); // as the kernel answers a senseless header
    f.transmit_driver.add({{transmit_at, 60}});
    f.kick(1);
    CHECK(f.transmit_driver.used_index() == 8);
    CHECK(f.host.broken.empty());
}

TEST_CASE("a full port keeps frames in the ring and resumes by itself, in order") {
    Fixture f;
    constexpr unsigned frames = 120;
    const int small = 1; // the kernel makes it its minimum, a few frames
    REQUIRE(setsockopt(f.port->ours.get(), SOL_SOCKET, SO_SNDBUF, &small, sizeof(small)) == 0);
    for (unsigned i = 0; i < frames; ++i)
        f.transmit_driver.add({{transmit_at, 20 + i}});
    f.kick(1);
    CHECK(f.transmit_driver.used_index() < frames);
    for (unsigned i = 0; i < frames; ++i) {
        ssize_t bytes = -1;
        REQUIRE(f.io.eventually([&] { return (bytes = f.take_frame()) >= 0; }));
        REQUIRE(bytes == 20 + i);
    }
    CHECK(f.io.eventually([&] { return f.transmit_driver.used_index() == frames; }));
}

TEST_CASE("one wakeup sends a batch and asks for another") {
    Fixture f;
    for (unsigned i = 0; i < 100; ++i)
        f.transmit_driver.add({{transmit_at, 12}}); // dropped at once: the port cannot slow this down
    uint16_t after_first = 0;
    f.io.run([&] {
        f.net->process_queue(1);
        after_first = f.transmit_driver.used_index();
    });
    CHECK(after_first == 64);
    CHECK(f.host.again == 1);
    f.kick(1);
    CHECK(f.transmit_driver.used_index() == 100);
    CHECK(f.host.again == 1);
}

TEST_CASE("a batch of long chains ends sooner") {
    Fixture f;
    constexpr uint64_t tables = 0x80000;
    std::vector<Buffer> buffers(128, Buffer{transmit_at, 0}); // of nothing, so dropped at once
    for (unsigned i = 0; i < 64; ++i)
        f.transmit_driver.add_indirect(tables, buffers);
    uint16_t after_first = 0;
    f.io.run([&] {
        f.net->process_queue(1);
        after_first = f.transmit_driver.used_index();
    });
    CHECK(after_first == 32); // 129 descriptors each
    CHECK(f.host.again == 1);
    f.kick(1);
    CHECK(f.transmit_driver.used_index() == 64);
}

TEST_CASE("offloads follow the features and need the checksum") {
    const Fixture f(1ULL << 1 | 1ULL << 7 | 1ULL << 9);
    CHECK(f.port->offloads.checksum);
    CHECK(f.port->offloads.tso4);
    CHECK_FALSE(f.port->offloads.tso6);
    CHECK(f.port->offloads.ecn);
}

TEST_CASE("reset forgets buffers, and a new activation starts with new rings") {
    Fixture f;
    f.receive_driver.add({{receive_at, 1526, true}});
    f.kick(0);
    REQUIRE(f.send_frame(60) == 60);
    f.received();
    f.receive_driver.add({{receive_at, 1526, true}});
    f.kick(0);
    bool done = false;
    f.io.run([&] { f.net->reset([&] { done = true; }); });
    CHECK(done);
    REQUIRE(f.send_frame(61) == 61);
    f.kick(0);
    f.kick(1);
    CHECK(f.receive_driver.used_index() == 1);
    f.io.run([&] {
        f.receive_driver.restart();
        f.transmit_driver.restart();
        f.receive_queue = Queue::create(f.memory, f.receive_driver.setup()).value();
        f.transmit_queue = Queue::create(f.memory, f.transmit_driver.setup()).value();
        f.activate(0);
    });
    f.taken = 0;
    const uint16_t head = f.receive_driver.add({{receive_at + 0x1000, 1526, true}});
    f.kick(0);
    CHECK(f.received() == Used{head, 61});
}

TEST_CASE("a port that goes away is left alone, and the guest's frames are dropped") {
    Fixture f;
    f.receive_driver.add({{receive_at, 1526, true}});
    f.kick(0);
    f.wire = Fd();
    f.io.run([&] { f.net->reset([] {}); });
    f.io.run([&] {
        f.receive_driver.restart();
        f.transmit_driver.restart();
        f.receive_queue = Queue::create(f.memory, f.receive_driver.setup()).value();
        f.transmit_queue = Queue::create(f.memory, f.transmit_driver.setup()).value();
        f.activate(mergeable);
    });
    f.transmit_driver.add({{transmit_at, 60}});
    f.kick(1);
    CHECK(f.io.eventually([&] { return f.transmit_driver.used_index() == 1; }));
    CHECK(f.host.broken.empty());
}

TEST_CASE("the address is what was asked for, or random, unicast and locally administered") {
    const GuestMemory memory = GuestMemory::create(ram_bytes).value();
    const auto loop = EventLoop::create().value();
    const Log log(-1);
    const MacAddress given{0x02, 1, 2, 3, 4, 5};
    const auto fixed =
        Net::create({.mac = given, .name = "net0"}, std::make_unique<FakePort>(), memory, *loop, log).value();
    std::array<std::byte, 8> config{};
    config.fill(std::byte{0xff});
    fixed->read_config(0, config);
    CHECK(config[5] == std::byte{5});
    CHECK(config[6] == std::byte{0});
    fixed->read_config(~0ULL - 2, config);
    CHECK(config[7] == std::byte{0});
    const auto random =
        Net::create({.name = "net0"}, std::make_unique<FakePort>(), memory, *loop, log).value();
    CHECK((random->mac()[0] & 3) == 2);
    const MacAddress multicast{0x01, 0, 0x5e, 0, 0, 1};
    const auto refused =
        Net::create({.mac = multicast, .name = "net0"}, std::make_unique<FakePort>(), memory, *loop, log);
    REQUIRE_FALSE(refused);
    CHECK(refused.error().message().find("01:00:5e:00:00:01") != std::string::npos);
}

TEST_CASE("a tap that is missing or misnamed is refused with what to do") {
    const auto missing = TapDevice::open("casemate-none");
    REQUIRE_FALSE(missing);
    CHECK(missing.error().message().find("ip tuntap add dev casemate-none") != std::string::npos);
    CHECK(missing.error().blame() == Blame::usage);
    CHECK_FALSE(TapDevice::open(""));
    CHECK_FALSE(TapDevice::open("a-name-of-16-chr"));
}

// Sends and receives through the host's own stack: what the socket pair cannot show.
TEST_CASE("a real tap takes frames, refuses senseless headers and a second user") {
    const auto tun = open_file("/dev/net/tun", O_RDWR);
    ifreq request{};
    std::string("csmt%d").copy(request.ifr_name, IFNAMSIZ - 1);
    request.ifr_flags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR;
    if (!tun || ioctl(tun->get(), TUNSETIFF, &request) != 0) {
        MESSAGE("no tap interface can be made here: the real tap was not tested");
        return;
    }
    const std::string name = request.ifr_name;
    const auto busy = TapDevice::open(name);
    REQUIRE_FALSE(busy);
    CHECK(busy.error().number() == EBUSY);
    const auto other = TapDevice::open("lo"); // no tap: what to do may not be to create it
    REQUIRE_FALSE(other);
    CHECK(other.error().blame() == Blame::usage);
    CHECK(other.error().message().find("take another name") != std::string::npos);

    // Persistent while we change its user.
    REQUIRE(ioctl(tun->get(), TUNSETPERSIST, 1UL) == 0);
    const ifreq detach = request;
    const Fd control(socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
    REQUIRE(ioctl(control.get(), SIOCGIFFLAGS, &request) == 0);
    request.ifr_flags = static_cast<short>(request.ifr_flags | IFF_UP);
    REQUIRE(ioctl(control.get(), SIOCSIFFLAGS, &request) == 0);
    request.ifr_mtu = 1400;
    REQUIRE(ioctl(control.get(), SIOCSIFMTU, &request) == 0);
    std::string(detach.ifr_name).copy(request.ifr_name, IFNAMSIZ - 1);
    dup2(control.get(), tun->get()); // closes the first user's attachment
    {
        const auto tap = TapDevice::open(name);
        REQUIRE(tap);
        CHECK((*tap)->mtu() == 1400);
        CHECK((*tap)->is_up());
        CHECK((*tap)->set_offloads({.checksum = true, .tso4 = true, .tso6 = true, .ecn = true}));
        std::array<uint8_t, 12 + 60> frame{};
        std::fill_n(frame.begin() + 12, 6, uint8_t{0xff});
        frame[12 + 6] = 2;
        frame[12 + 12] = 0x88;
        frame[12 + 13] = 0xb5; // local experimental EtherType: nobody answers
        const std::array vectors{iovec{frame.data(), frame.size()}};
        CHECK((*tap)->write(vectors) == 72);
        frame[1] = 0x7f; // no such GSO type
        CHECK((*tap)->write(vectors) == -EINVAL);
        frame[1] = 0;
        frame[0] = 1; // checksum behind the frame's end
        frame[6] = frame[7] = 0xff;
        CHECK((*tap)->write(vectors) == -EINVAL);
        std::array<uint8_t, 2048> in{};
        const std::array room{iovec{in.data(), in.size()}};
        ssize_t result = 0;
        while ((result = (*tap)->read(room)) > 0) // the host's own IPv6 chatter, if any
            CHECK(result > 12);
        CHECK(result == -EAGAIN);
    }
    const Fd again = open_file("/dev/net/tun", O_RDWR).value();
    ifreq owner = detach;
    owner.ifr_flags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR;
    REQUIRE(ioctl(again.get(), TUNSETIFF, &owner) == 0);
    CHECK(ioctl(again.get(), TUNSETPERSIST, 0UL) == 0);
}

} // namespace
} // namespace casemate::virtio
