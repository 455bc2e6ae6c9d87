// SPDX-License-Identifier: Apache-2.0
#include "devices/virtio/blk.hpp"

#include "driver.hpp"
#include "fake_host.hpp"

#include <algorithm>
#include <array>
#include <cstring>
#include <string>

namespace casemate::virtio {
namespace {

constexpr uint32_t type_in = 0;
constexpr uint32_t type_out = 1;
constexpr uint32_t type_flush = 4;
constexpr uint32_t type_get_id = 8;
constexpr uint32_t type_discard = 11;
constexpr uint32_t type_write_zeroes = 13;
constexpr uint8_t ok = 0;
constexpr uint8_t io_error = 1;
constexpr uint8_t unsupported = 2;
constexpr uint8_t untouched = 0xee;

constexpr uint64_t wce = 1ULL << 11;
constexpr uint64_t flush = 1ULL << 9;
constexpr uint64_t discard = 1ULL << 13;
constexpr uint64_t write_zeroes = 1ULL << 14;
constexpr uint64_t zero_features = discard | write_zeroes;

constexpr uint64_t ram_bytes = 1_MiB;
constexpr uint64_t rings = 0x10000;
constexpr uint64_t header_at = 0x40000;
constexpr uint64_t body_at = 0x41000;
constexpr uint64_t status_at = 0x42000;
constexpr uint64_t data_at = 0x50000;
constexpr uint64_t sectors = 64;

// Holds its bytes in memory; completes when the test says so.
struct FakeDisk : Disk {
    struct Pending {
        uint32_t tag;
        DiskRequest request;
    };
    DiskClient* client = nullptr;
    std::vector<std::byte> bytes = std::vector<std::byte>(sectors * 512);
    std::vector<Pending> pending;
    std::vector<DiskOperation> history;
    DiskProperties what{.size = sectors * 512,
                        .physical_block = 4096,
                        .most_discard = sectors * 512,
                        .discard_granularity = 4096,
                        .most_write_zeroes = sectors * 512};
    int next_error = 0;
    bool at_once = false; // start() completes what was queued

    void resize(uint64_t size) {
        bytes.resize(size);
        what.size = size;
    }
    const DiskProperties& properties() const override { return what; }
    void set_client(DiskClient& new_client) override { client = &new_client; }
    void queue(uint32_t tag, const DiskRequest& request) override {
        history.push_back(request.operation);
        pending.push_back({tag, request});
    }
    void start() override {
        if (at_once)
            complete_pending();
    }

    void apply(const DiskRequest& request) {
        REQUIRE(request.offset <= bytes.size());
        REQUIRE(request.bytes <= bytes.size() - request.offset);
        std::byte* at = bytes.data() + request.offset;
        uint64_t moved = 0;
        for (const iovec& vector : request.vectors) {
            if (request.operation == DiskOperation::read)
                std::memcpy(vector.iov_base, at + moved, vector.iov_len);
            else
                std::memcpy(at + moved, vector.iov_base, vector.iov_len);
            moved += vector.iov_len;
        }
        const bool moves =
            request.operation == DiskOperation::read || request.operation == DiskOperation::write;
        REQUIRE(moved == (moves ? request.bytes : 0));
        if (!moves)
            std::fill_n(at, request.bytes, std::byte{0});
    }
    // One round: what completions queue comes in the next.
    void complete_all() {
        complete_pending();
        client->disk_batch_done();
    }
    void complete_pending() {
        std::vector<Pending> round;
        round.swap(pending);
        for (const Pending& one : round) {
            const int error = std::exchange(next_error, 0);
            if (error == 0)
                apply(one.request);
            client->disk_done(one.tag, error);
        }
    }
};

struct Fixture {
    GuestMemory memory = GuestMemory::create(ram_bytes).value();
    LockedRange gate;
    Log log{-1};
    DriverQueue driver;
    Queue queue;
    FakeHost host;
    FakeDisk* disk = nullptr;
    std::unique_ptr<Blk> blk;

    explicit Fixture(uint64_t features = flush | wce | zero_features,
                     const DiskProperties& what = FakeDisk().what)
        : driver(memory, rings, 16)
        , queue(Queue::create(memory, driver.setup()).value()) {
        auto fake = std::make_unique<FakeDisk>();
        fake->what = what;
        disk = fake.get();
        blk = std::make_unique<Blk>("disk0", std::move(fake), memory, log);
        memory.set_write_gate(&gate);
        activate(features);
    }
    void activate(uint64_t features) {
        const std::array queues{&queue};
        blk->activate(features, queues, host);
    }
    void put_header(uint32_t type, uint64_t sector) {
        REQUIRE(memory.store({header_at}, Le32(type)));
        REQUIRE(memory.store({header_at + 8}, Le64(sector)));
        REQUIRE(memory.store({status_at}, untouched));
    }
    Used take() {
        const auto used = driver.take_used();
        REQUIRE(used.has_value());
        return used.value_or(Used{});
    }
    uint8_t status() { return memory.fetch<uint8_t>({status_at}).value(); }
    void kick() {
        blk->process_queue(0);
        for (int round = 0; round < 4; ++round)
            disk->complete_all();
    }
    // The status of a request whose data are `data` behind the header, and its used length.
    uint8_t request(uint32_t type, uint64_t sector, std::vector<Buffer> data) {
        put_header(type, sector);
        data.insert(data.begin(), {header_at, 16});
        data.push_back({status_at, 1, true});
        const uint16_t head = driver.add(data);
        kick();
        const Used used = take();
        CHECK(used.head == head);
        used_length = used.length;
        return status();
    }
    uint8_t change(uint32_t type, uint64_t sector, uint32_t count, uint32_t flags) {
        REQUIRE(memory.store({body_at}, Le64(sector)));
        REQUIRE(memory.store({body_at + 8}, Le32(count)));
        REQUIRE(memory.store({body_at + 12}, Le32(flags)));
        return request(type, 0, {{body_at, 16}});
    }
    uint32_t used_length = 0;
};

TEST_CASE("a write goes to its sector and a read brings it back with its length") {
    Fixture f;
    REQUIRE(f.memory.store({data_at}, uint64_t{0x1122334455667788}));
    CHECK(f.request(type_out, 63, {{data_at, 512}}) == ok);
    CHECK(f.used_length == 1);
    CHECK(f.disk->bytes[63UL * 512] == std::byte{0x88});
    CHECK(f.request(type_in, 63, {{data_at + 512, 512, true}}) == ok);
    CHECK(f.used_length == 513);
    CHECK(f.memory.fetch<uint64_t>({data_at + 512}) == 0x1122334455667788U);
    CHECK(f.host.notified != 0);
    CHECK(f.host.broken.empty());
}

TEST_CASE("header, data and status may be cut anywhere") {
    Fixture f;
    f.put_header(type_out, 5);
    REQUIRE(f.memory.store({header_at + 16}, uint64_t{0xabcd}));
    f.driver.add({{header_at, 3},
                  {header_at + 3, 6},
                  {header_at + 9, 107},
                  {header_at + 116, 412},
                  {data_at, 7, true},
                  {status_at, 1, true}});
    f.kick();
    CHECK(f.status() == ok);
    CHECK(f.disk->bytes[5UL * 512] == std::byte{0xcd});
    // Bytes before the status were not written, so none is counted.
    CHECK(f.take().length == 0);

    // One buffer holds data and status.
    f.put_header(type_in, 5);
    f.driver.add({{header_at, 16}, {data_at, 100, true}, {data_at + 100, 413, true}});
    f.kick();
    CHECK(f.take().length == 513);
    CHECK(f.memory.fetch<uint64_t>({data_at}) == 0xabcdU);
    CHECK(f.memory.fetch<uint8_t>({data_at + 512}) == ok);
}

TEST_CASE("the last sector is there, one past is not, and neither is a wrap") {
    Fixture f;
    CHECK(f.request(type_in, sectors - 1, {{data_at, 512, true}}) == ok);
    CHECK(f.request(type_in, sectors - 1, {{data_at, 1024, true}}) == io_error);
    CHECK(f.used_length == 0);
    CHECK(f.request(type_in, sectors, {{data_at, 512, true}}) == io_error);
    CHECK(f.request(type_out, sectors, {{data_at, 512}}) == io_error);
    CHECK(f.used_length == 1);
    CHECK(f.request(type_in, ~0ULL, {{data_at, 512, true}}) == io_error);
    CHECK(f.request(type_out, 1ULL << 55, {{data_at, 512}}) == io_error);
    CHECK(f.change(type_discard, sectors - 1, 1, 0) == ok);
    CHECK(f.change(type_discard, sectors - 1, 2, 0) == io_error);
    CHECK(f.change(type_write_zeroes, ~0ULL, 2, 0) == io_error);
    CHECK(f.disk->history.size() == 2);
}

TEST_CASE("data that is no whole number of sectors is refused") {
    Fixture f;
    CHECK(f.request(type_in, 0, {{data_at, 511, true}}) == io_error);
    CHECK(f.request(type_out, 0, {{data_at, 513}}) == io_error);
    CHECK(f.request(type_out, 0, {}) == ok);
    CHECK(f.request(type_in, 0, {{data_at, 512, true}, {data_at, 1, true}}) == io_error);
    CHECK(f.disk->history.empty());
}

TEST_CASE("a short header is an error, an unknown type is unsupported") {
    Fixture f;
    f.put_header(type_in, 0);
    f.driver.add({{header_at, 15}, {data_at, 512, true}, {status_at, 1, true}});
    f.kick();
    CHECK(f.status() == io_error);
    f.put_header(type_in, 0);
    f.driver.add({{data_at, 512, true}, {status_at, 1, true}});
    f.kick();
    CHECK(f.status() == io_error);
    f.driver.take_used();
    f.driver.take_used();
    CHECK(f.request(2, 0, {}) == unsupported);
    CHECK(f.request(~0U, 0, {{data_at, 512, true}}) == unsupported);
    // A header outside RAM reads as an error, not as garbage.
    REQUIRE(f.memory.store({status_at}, untouched));
    f.driver.add({{ram_bytes - 8, 16}, {status_at, 1, true}});
    f.kick();
    CHECK(f.status() == io_error);
}

TEST_CASE("a request without a status byte breaks the device, and nothing runs after that") {
    Fixture f;
    f.put_header(type_flush, 0);
    f.driver.add({{header_at, 16}});
    f.driver.add({{header_at, 16}, {status_at, 1, true}});
    f.kick();
    CHECK(f.host.broken == "request without a status byte");
    CHECK(f.status() == untouched);
    CHECK(f.disk->history.empty());
    f.kick();
    CHECK(f.driver.used_index() == 0);
}

TEST_CASE("a read into locked memory is refused whole") {
    Fixture f;
    f.gate.locked = GuestRange::of({data_at + 1024}, 1);
    f.disk->bytes[0] = std::byte{1};
    CHECK(f.request(type_in, 0, {{data_at, 512, true}, {data_at + 512, 1024, true}}) == io_error);
    CHECK(f.used_length == 0);
    CHECK(f.memory.fetch<uint8_t>({data_at}) == uint8_t{0});
    CHECK(f.disk->history.empty());
    CHECK(f.memory.writes_in_flight() == 0);
    CHECK(f.request(type_out, 0, {{data_at + 1024, 512}}) == ok); // reading locked memory is fine
    CHECK(f.request(type_get_id, 0, {{data_at + 1010, 20, true}}) == io_error);
    CHECK(f.host.broken.empty());
}

TEST_CASE("a status byte in locked memory breaks the device") {
    Fixture f;
    f.put_header(type_flush, 0);
    f.gate.locked = GuestRange::of({status_at}, 1);
    f.driver.add({{header_at, 16}, {status_at, 1, true}});
    f.kick();
    CHECK_FALSE(f.host.broken.empty());
    CHECK(f.status() == untouched);
}

TEST_CASE("a read holds its transfer until the disk is done") {
    Fixture f;
    f.put_header(type_in, 0);
    f.driver.add({{header_at, 16}, {data_at, 512, true}, {status_at, 1, true}});
    f.blk->process_queue(0);
    CHECK(f.memory.writes_in_flight() == 1);
    CHECK(f.driver.used_index() == 0);
    f.disk->complete_all();
    CHECK(f.memory.writes_in_flight() == 0);
    CHECK(f.driver.used_index() == 1);
}

TEST_CASE("a read-only disk says so and refuses every change") {
    DiskProperties what = FakeDisk().what;
    what.read_only = true;
    Fixture f(0, what);
    CHECK((f.blk->features() & (1ULL << 5)) != 0);
    CHECK((f.blk->features() & (flush | wce | zero_features)) == 0);
    CHECK(f.request(type_out, 0, {{data_at, 512}}) == io_error);
    CHECK(f.change(type_discard, 0, 1, 0) == io_error);
    CHECK(f.change(type_write_zeroes, 0, 1, 0) == io_error);
    CHECK(f.request(type_in, 0, {{data_at, 512, true}}) == ok);
}

TEST_CASE("the identity is the name, padded with zeroes") {
    Fixture f;
    REQUIRE(f.memory.store({data_at + 5}, ~uint64_t{0}));
    CHECK(f.request(type_get_id, 0, {{data_at, 3, true}, {data_at + 3, 17, true}}) == ok);
    CHECK(f.used_length == 21);
    std::array<char, 21> identity{};
    REQUIRE(
        f.memory.read(GuestRange::of({data_at}, 20), std::as_writable_bytes(std::span(identity)).first(20)));
    CHECK(std::string(identity.data()) == "disk0");
    CHECK(f.request(type_get_id, 0, {{data_at, 30, true}}) == ok);
    CHECK(f.used_length == 20);
    CHECK(f.request(type_get_id, 0, {{data_at, 19, true}}) == io_error);
}

TEST_CASE("discards and zeroes keep to 5.2.6's rules on flags, counts and features") {
    Fixture f;
    f.disk->bytes[512] = std::byte{1};
    CHECK(f.change(type_write_zeroes, 1, 1, 0) == ok);
    CHECK(f.disk->bytes[512] == std::byte{0});
    CHECK(f.change(type_write_zeroes, 1, 1, 1) == ok);
    CHECK(f.change(type_discard, 1, 2, 0) == ok);
    CHECK(f.disk->history == std::vector{DiskOperation::write_zeroes, DiskOperation::write_zeroes_unmap,
                                         DiskOperation::discard});
    CHECK(f.change(type_discard, 1, 1, 1) == unsupported);
    CHECK(f.change(type_write_zeroes, 1, 1, 2) == unsupported);
    CHECK(f.change(type_discard, 1, ~0U, 0) == io_error);
    CHECK(f.change(type_discard, 1, 0, 0) == ok);
    CHECK(f.request(type_discard, 0, {{body_at, 15}}) == io_error);
    CHECK(f.request(type_discard, 0, {{body_at, 32}}) == io_error);
    CHECK(f.disk->history.size() == 3);
    Fixture plain(flush);
    CHECK(plain.change(type_discard, 0, 1, 0) == unsupported);
    CHECK(plain.change(type_write_zeroes, 0, 1, 0) == unsupported);
}

// Of the configuration, a field of 5.2.4.
template <typename T>
uint64_t field(const Blk& blk, uint64_t offset) {
    std::array<std::byte, sizeof(T)> bytes{};
    blk.read_config(offset, bytes);
    return std::bit_cast<T>(bytes);
}
constexpr uint64_t alignment_offset_at = 25;
constexpr uint64_t min_io_at = 26;
constexpr uint64_t opt_io_at = 28;
constexpr uint64_t discard_sectors_at = 36;
constexpr uint64_t discard_alignment_at = 44;
constexpr uint64_t zeroes_sectors_at = 48;
constexpr uint64_t may_unmap_at = 56;

TEST_CASE("discards and zeroes are offered each by itself, with their limits") {
    DiskProperties what = FakeDisk().what;
    what.most_discard = 8_KiB;
    what.discard_granularity = 8192;
    what.most_write_zeroes = 0;
    Fixture only_discard(flush | discard, what);
    CHECK((only_discard.blk->features() & zero_features) == discard);
    CHECK(field<uint32_t>(*only_discard.blk, discard_sectors_at) == 16);
    CHECK(field<uint32_t>(*only_discard.blk, discard_sectors_at + 4) == 1);
    CHECK(field<uint32_t>(*only_discard.blk, discard_alignment_at) == 16);
    CHECK(field<uint32_t>(*only_discard.blk, zeroes_sectors_at) == 0);
    CHECK(field<uint8_t>(*only_discard.blk, may_unmap_at) == 0);
    CHECK(only_discard.change(type_discard, 0, 16, 0) == ok);
    CHECK(only_discard.change(type_discard, 0, 17, 0) == io_error);
    CHECK(only_discard.change(type_write_zeroes, 0, 1, 0) == unsupported);

    what.most_discard = 0;
    what.most_write_zeroes = 4_KiB;
    Fixture only_zeroes(flush | write_zeroes, what);
    CHECK((only_zeroes.blk->features() & zero_features) == write_zeroes);
    CHECK(field<uint32_t>(*only_zeroes.blk, discard_sectors_at) == 0);
    CHECK(field<uint32_t>(*only_zeroes.blk, discard_alignment_at) == 0);
    CHECK(field<uint32_t>(*only_zeroes.blk, zeroes_sectors_at) == 8);
    CHECK(field<uint8_t>(*only_zeroes.blk, may_unmap_at) == 1);
    CHECK(only_zeroes.change(type_write_zeroes, 0, 8, 1) == ok);
    CHECK(only_zeroes.change(type_write_zeroes, 0, 9, 0) == io_error);
    CHECK(only_zeroes.change(type_discard, 0, 1, 0) == unsupported);

    // However much the device could do at once.
    what.most_discard = what.most_write_zeroes = 1ULL << 40;
    const Fixture large(flush, what);
    CHECK(field<uint32_t>(*large.blk, discard_sectors_at) == 1_GiB / 512);
    CHECK(field<uint32_t>(*large.blk, zeroes_sectors_at) == 64_MiB / 512);
    // But never less than a granule.
    what.discard_granularity = 2_GiB;
    const Fixture coarse(flush, what);
    CHECK(field<uint32_t>(*coarse.blk, discard_sectors_at) == 2_GiB / 512);
}

TEST_CASE("the topology is told in logical blocks, and left out where it does not fit") {
    DiskProperties what = FakeDisk().what;
    what.logical_block = 4096;
    what.physical_block = 16384;
    what.first_physical_block = 8192;
    what.least_io = 65536;
    what.best_io = 1U << 20;
    const Fixture f(flush, what);
    CHECK(field<uint32_t>(*f.blk, 20) == 4096);
    CHECK(field<uint8_t>(*f.blk, 24) == 2);
    CHECK(field<uint8_t>(*f.blk, alignment_offset_at) == 2);
    CHECK(field<uint16_t>(*f.blk, min_io_at) == 16);
    CHECK(field<uint32_t>(*f.blk, opt_io_at) == 256);

    what.logical_block = 512;
    what.first_physical_block = 256U * 512;
    what.least_io = 65536 * 512;
    const Fixture wide(flush, what);
    CHECK(field<uint8_t>(*wide.blk, alignment_offset_at) == 0);
    CHECK(field<uint16_t>(*wide.blk, min_io_at) == 0);
    what.first_physical_block = 255 * 512;
    what.least_io = 65535 * 512;
    const Fixture widest(flush, what);
    CHECK(field<uint8_t>(*widest.blk, alignment_offset_at) == 255);
    CHECK(field<uint16_t>(*widest.blk, min_io_at) == 65535);
}

TEST_CASE("what the disk does at once is in the ring when process_queue returns, told once") {
    Fixture f;
    f.disk->at_once = true;
    f.put_header(type_in, 0);
    for (int i = 0; i < 3; ++i)
        f.driver.add({{header_at, 16}, {data_at, 512, true}, {status_at, 1, true}});
    f.blk->process_queue(0);
    CHECK(f.driver.used_index() == 3);
    CHECK(f.host.notified == 1);
    CHECK(f.host.again == 0);
    CHECK(f.memory.writes_in_flight() == 0);
}

// A driver that adds a request whenever it is told that one was done.
struct Feeder : FakeHost {
    DriverQueue* driver = nullptr;
    std::vector<Buffer> request;
    unsigned done = 0;
    void notify_queue(uint16_t /*index*/) override {
        while (driver->take_used())
            ++done;
        driver->add(request);
    }
};

TEST_CASE("a turn is bounded in requests and in bytes, and asks for the next one") {
    constexpr uint64_t vector_bytes = 128_KiB;
    for (const bool data : {false, true}) {
        CAPTURE(data);
        Fixture f;
        auto fake = std::make_unique<FakeDisk>();
        fake->at_once = true;
        fake->resize(8 * vector_bytes);
        Feeder feeder;
        Blk blk("disk0", std::move(fake), f.memory, f.log);
        const std::array queues{&f.queue};
        blk.activate(flush, queues, feeder);
        f.put_header(data ? type_in : type_flush, 0);
        feeder.driver = &f.driver;
        feeder.request = {{header_at, 16}};
        for (int i = 0; data && i < 8; ++i)
            feeder.request.push_back({data_at, uint32_t{vector_bytes}, true});
        feeder.request.push_back({status_at, 1, true});
        f.driver.add(feeder.request);
        blk.process_queue(0);
        CHECK(feeder.again == 1);
        const uint64_t most = data ? Blk::most_bytes_in_flight / (8 * vector_bytes) : Blk::queue_size;
        CHECK(feeder.done == most);
        CHECK(feeder.broken.empty());
    }
}

TEST_CASE("a device that breaks no longer notifies") {
    Fixture f;
    f.put_header(99, 0);
    f.driver.add({{header_at, 16}, {status_at, 1, true}});
    f.driver.add({{header_at, 16}});
    f.blk->process_queue(0);
    CHECK_FALSE(f.host.broken.empty());
    CHECK(f.host.notified == 0);
}

TEST_CASE("errors of the disk become statuses") {
    Fixture f;
    for (const auto& [error, status] : {std::pair{ENOSPC, io_error}, std::pair{disk_shrunk_error, io_error},
                                        std::pair{EOPNOTSUPP, unsupported}}) {
        f.disk->next_error = error;
        CHECK(f.request(type_out, 0, {{data_at, 512}}) == status);
    }
    f.disk->next_error = EIO;
    CHECK(f.request(type_in, 0, {{data_at, 512, true}}) == io_error);
    CHECK(f.used_length == 0);
    f.disk->next_error = EIO;
    CHECK(f.request(type_flush, 0, {}) == io_error);
}

TEST_CASE("write-through flushes after each write and completes only then") {
    Fixture f;
    const auto flushes = [&] { return std::ranges::count(f.disk->history, DiskOperation::flush); };
    std::array<std::byte, 1> cache{};
    f.blk->read_config(32, cache);
    CHECK(cache[0] == std::byte{1});
    CHECK(f.request(type_out, 0, {{data_at, 512}}) == ok);
    CHECK(flushes() == 0);
    CHECK(f.request(type_flush, 0, {}) == ok);
    CHECK(flushes() == 1);

    f.blk->write_config(32, std::array{std::byte{0}});
    f.blk->read_config(32, cache);
    CHECK(cache[0] == std::byte{0});
    f.put_header(type_out, 0);
    f.driver.add({{header_at, 16}, {data_at, 512}, {status_at, 1, true}});
    f.blk->process_queue(0);
    f.disk->complete_all();
    CHECK(f.status() == untouched);
    CHECK(flushes() == 2);
    f.disk->complete_all();
    CHECK(f.status() == ok);
    f.driver.take_used();
    CHECK(f.change(type_write_zeroes, 0, 1, 0) == ok);
    CHECK(flushes() == 3);
    CHECK(f.request(type_in, 0, {{data_at, 512, true}}) == ok);
    CHECK(flushes() == 3);
    f.disk->next_error = EIO; // the write fails: nothing to flush
    CHECK(f.request(type_out, 0, {{data_at, 512}}) == io_error);
    CHECK(flushes() == 3);

    f.blk->write_config(30, std::array{std::byte{9}, std::byte{9}, std::byte{1}});
    CHECK(f.request(type_out, 0, {{data_at, 512}}) == ok);
    CHECK(flushes() == 3);
}

TEST_CASE("the cache mode follows what the driver negotiated") {
    Fixture none(0); // cannot flush: write-through
    CHECK(none.request(type_out, 0, {{data_at, 512}}) == ok);
    CHECK(none.disk->history.back() == DiskOperation::flush);
    none.blk->write_config(32, std::array{std::byte{1}}); // not negotiated: no effect
    CHECK(none.request(type_out, 0, {{data_at, 512}}) == ok);
    CHECK(none.disk->history.size() == 4);

    Fixture flush_only(flush);
    flush_only.blk->write_config(32, std::array{std::byte{0}});
    CHECK(flush_only.request(type_out, 0, {{data_at, 512}}) == ok);
    CHECK(flush_only.disk->history.size() == 1);
}

TEST_CASE("the configuration tells the geometry and reads as zero behind its end") {
    Fixture f;
    std::array<std::byte, 8> capacity{};
    f.blk->read_config(0, capacity);
    CHECK(std::bit_cast<uint64_t>(capacity) == sectors);
    std::array<std::byte, 4> word{};
    f.blk->read_config(20, word);
    CHECK(std::bit_cast<uint32_t>(word) == 512);
    f.blk->read_config(24, word);
    CHECK(word[0] == std::byte{3});
    for (const uint64_t offset : {uint64_t{57}, uint64_t{60}, ~uint64_t{0}, ~uint64_t{0} - 3}) {
        word.fill(std::byte{0xff});
        f.blk->read_config(offset, word);
        CHECK(std::bit_cast<uint32_t>(word) == 0);
        f.blk->write_config(offset, word);
    }
}

TEST_CASE("reset waits for what is under way and the device then works again") {
    Fixture f;
    f.put_header(type_in, 0);
    f.driver.add({{header_at, 16}, {data_at, 512, true}, {status_at, 1, true}});
    f.driver.add({{header_at, 16}, {data_at, 512, true}, {status_at, 1, true}});
    f.blk->process_queue(0);
    unsigned done = 0;
    f.blk->reset([&] { ++done; });
    CHECK(done == 0);
    CHECK(f.memory.writes_in_flight() == 2);
    f.disk->complete_all();
    CHECK(done == 1);
    CHECK(f.memory.writes_in_flight() == 0);
    CHECK(f.status() == untouched);
    CHECK(f.driver.used_index() == 0);
    f.blk->reset([&] { ++done; });
    CHECK(done == 2);

    f.driver.restart();
    f.queue = Queue::create(f.memory, f.driver.setup()).value();
    f.activate(flush | wce);
    CHECK(f.request(type_in, 0, {{data_at, 512, true}}) == ok);
}

TEST_CASE("a reset between a write and its write-through flush starts no flush") {
    Fixture f(0);
    f.put_header(type_out, 0);
    f.driver.add({{header_at, 16}, {data_at, 512}, {status_at, 1, true}});
    f.blk->process_queue(0);
    bool done = false;
    f.blk->reset([&] { done = true; });
    f.disk->complete_all();
    CHECK(done);
    CHECK(f.disk->history.size() == 1);
}

TEST_CASE("a broken chain breaks the device while earlier reads finish harmlessly") {
    Fixture f;
    f.put_header(type_in, 0);
    f.driver.add({{header_at, 16}, {data_at, 512, true}, {status_at, 1, true}});
    f.blk->process_queue(0);
    f.driver.offer(16); // past the queue
    f.kick();
    CHECK(f.host.broken == "malformed descriptor chain");
    CHECK(f.memory.writes_in_flight() == 0);
    bool done = false;
    f.blk->reset([&] { done = true; });
    CHECK(done);
}

TEST_CASE("no more is taken from the ring than may be under way, and the rest as that completes") {
    const GuestMemory memory = GuestMemory::create(8_MiB).value();
    const Log log{-1};
    DriverQueue driver(memory, rings, 64);
    Queue queue = Queue::create(memory, driver.setup()).value();
    FakeHost host;
    auto fake = std::make_unique<FakeDisk>();
    FakeDisk& disk = *fake;
    constexpr uint32_t bytes = 3_MiB;
    disk.resize(bytes);
    Blk blk("disk0", std::move(fake), memory, log);
    const std::array queues{&queue};
    blk.activate(flush | wce, queues, host);
    constexpr unsigned requests = 7;
    REQUIRE(memory.store({header_at}, Le32(type_in)));
    for (unsigned i = 0; i < requests; ++i)
        driver.add({{header_at, 16}, {1_MiB, bytes, true}, {status_at + i, 1, true}});
    blk.process_queue(0);
    constexpr size_t most = Blk::most_bytes_in_flight / bytes + 1;
    CHECK(disk.pending.size() == most);
    CHECK(memory.writes_in_flight() == most);
    blk.process_queue(0);
    CHECK(disk.pending.size() == most);
    disk.complete_all();
    CHECK(disk.pending.size() == most);
    disk.complete_all();
    CHECK(disk.pending.size() == requests - 2 * most);
    disk.complete_all();
    for (unsigned i = 0; i < requests; ++i)
        CHECK(driver.take_used());
    CHECK(memory.writes_in_flight() == 0);
    CHECK(host.broken.empty());
}

TEST_CASE("a request larger than the limits offered is refused") {
    Fixture f;
    auto fake = std::make_unique<FakeDisk>();
    fake->resize(64_MiB);
    f.disk = fake.get();
    f.blk = std::make_unique<Blk>("disk0", std::move(fake), f.memory, f.log);
    f.activate(flush);
    const uint32_t most = (Blk::queue_size - 2) * 128 * 1024;
    std::vector<Buffer> data(127, {0x50000, 0x40000, false}); // the same RAM again and again
    f.put_header(type_out, 0);
    std::vector<Buffer> chain{{header_at, 16}};
    chain.insert(chain.end(), data.begin(), data.end());
    chain.push_back({status_at, 1, true});
    // An indirect table may be as long as the queue: use a queue that takes it.
    DriverQueue driver(f.memory, 0x20000, 256);
    f.queue = Queue::create(f.memory, driver.setup()).value();
    f.activate(flush);
    driver.add(chain);
    f.kick();
    CHECK(f.status() == ok);
    CHECK(driver.take_used());
    CHECK(uint64_t{127} * 0x40000 == most);
    chain.insert(chain.begin() + 1, {data_at, 512});
    f.put_header(type_out, 0);
    driver.add(chain);
    f.kick();
    CHECK(f.status() == io_error);
}

} // namespace
} // namespace casemate::virtio
