// SPDX-License-Identifier: Apache-2.0
// Block requests over a disk in memory: no byte outside the disk, none of locked memory, and every transfer
// and reset ends.
#include "devices/virtio/blk.hpp"

#include "ring_input.hpp"

#include <algorithm>
#include <array>
#include <cstring>

namespace casemate::virtio {
namespace {

constexpr uint64_t rings = 0x10000;
constexpr uint64_t headers = 0x20000;
constexpr uint64_t data = 0x2e000; // the locked page is 8 KiB further
constexpr uint64_t sectors = 64;

struct MemoryDisk : Disk {
    struct Pending {
        uint32_t tag;
        DiskRequest request;
    };
    DiskClient* client = nullptr;
    DiskProperties what{.size = sectors * 512};
    bool at_once;
    std::vector<std::byte> bytes = std::vector<std::byte>(sectors * 512);
    std::vector<Pending> pending;
    std::array<bool, Blk::queue_size> in_flight{};

    MemoryDisk(bool read_only, bool can_discard, bool can_zero, bool completes_at_once)
        : at_once(completes_at_once) {
        what.read_only = read_only;
        what.most_discard = can_discard ? what.size : 0;
        what.discard_granularity = can_discard ? 512 : 0;
        what.most_write_zeroes = can_zero ? what.size : 0;
    }
    const DiskProperties& properties() const override { return what; }
    void set_client(DiskClient& new_client) override { client = &new_client; }
    void start() override {
        if (at_once)
            for (std::vector<Pending> round = std::exchange(pending, {}); const Pending& one : round)
                finish(one, 0);
    }
    void queue(uint32_t tag, const DiskRequest& request) override {
        expect(!std::exchange(in_flight.at(tag), true));
        expect(request.offset <= bytes.size() && request.bytes <= bytes.size() - request.offset);
        expect(!what.read_only || request.operation == DiskOperation::read ||
               request.operation == DiskOperation::flush);
        expect(what.most_discard != 0 || request.operation != DiskOperation::discard);
        expect(what.most_write_zeroes != 0 || (request.operation != DiskOperation::write_zeroes &&
                                               request.operation != DiskOperation::write_zeroes_unmap));
        pending.push_back({tag, request});
    }
    void finish(const Pending& one, int error) {
        const DiskRequest& request = one.request;
        std::byte* at = bytes.data() + request.offset;
        for (const iovec& vector : request.vectors) {
            if (request.operation == DiskOperation::read)
                std::memcpy(vector.iov_base, at, vector.iov_len);
            else
                std::memcpy(at, vector.iov_base, vector.iov_len);
            at += vector.iov_len;
        }
        in_flight.at(one.tag) = false;
        client->disk_done(one.tag, error);
    }
    void complete(Input& input, bool all) {
        std::vector<Pending> round;
        round.swap(pending);
        for (size_t i = 0; i < round.size(); ++i) {
            if (!all && (input.byte() & 3) == 0) {
                pending.push_back(round[i]);
                continue;
            }
            finish(round[i], !all && input.rarely() ? EIO : 0);
        }
        client->disk_batch_done();
    }
};

void add_request(Input& input, const GuestMemory& memory, RingWriter& ring) {
    constexpr std::array<uint32_t, 6> types{0, 1, 4, 8, 11, 13};
    const uint8_t choice = input.byte();
    const uint32_t type = input.rarely() ? choice : types.at(choice % types.size());
    const uint64_t place = headers + 64ULL * (input.byte() & 63);
    const uint64_t sector = input.rarely() ? input.number() : input.byte() % sectors;
    expect(memory.store({place}, Le32(type)).has_value());
    expect(memory.store({place + 8}, Le64(sector)).has_value());
    std::vector<RingBuffer> buffers;
    if (input.rarely()) {
        const uint32_t cut = input.byte() & 15;
        buffers.push_back({place, cut, false});
        buffers.push_back({place + cut, 16 - cut, false});
    } else {
        buffers.push_back({place, 16, false});
    }
    if (type == 11 || type == 13) {
        expect(memory.store({place + 16}, Le64(input.byte() % sectors)).has_value());
        expect(memory.store({place + 24}, Le32(input.rarely() ? ~0U : input.byte() & 7U)).has_value());
        expect(memory.store({place + 28}, Le32(input.byte() & 3U)).has_value());
        buffers.push_back({place + 16, 16, false});
    } else if (type != 4) {
        for (unsigned count = input.byte() & 3; count != 0; --count) {
            const uint32_t length = input.rarely() ? input.byte() : 512U * (input.byte() & 3);
            buffers.push_back({data + 512ULL * (input.byte() & 31), type == 8 ? 20 : length, type != 1});
        }
    }
    if (!input.rarely())
        buffers.push_back({place + 32, 1, true});
    ring.add(input, buffers);
}

void run(Input input) {
    static GuestMemory memory = GuestMemory::create(1_MiB).value();
    static const LockedPage gate;
    static const Log log(-1);
    memory.set_write_gate(nullptr);
    LockedPage::fill(memory);
    memory.set_write_gate(&gate);

    const uint8_t mode = input.byte();
    const bool event_index = (mode & 1) != 0;
    auto owned =
        std::make_unique<MemoryDisk>((mode & 2) != 0, (mode & 8) == 0, (mode & 16) == 0, (mode & 32) != 0);
    MemoryDisk& disk = *owned;
    const auto blk = std::make_unique<Blk>("fuzz", std::move(owned), memory, log);
    RingWriter ring(memory, rings);
    Queue queue = Queue::create(memory, ring.setup(event_index)).value();
    FuzzHost host;
    const std::array queues{&queue};
    const uint64_t features = blk->features() & ~((mode & 4) != 0 ? 1ULL << 9 | 1ULL << 11 : 0ULL);
    blk->activate(features, queues, host);
    while (!input.empty()) {
        switch (const uint8_t action = input.byte(); action & 7) {
        case 0:
        case 1:
        case 2:
            add_request(input, memory, ring);
            break;
        case 3:
        case 4:
            blk->process_queue(0);
            break;
        case 5:
            disk.complete(input, false);
            break;
        case 6: {
            std::array<std::byte, 8> bytes{};
            const uint64_t offset = input.rarely() ? input.number() : input.byte() & 63;
            blk->read_config(offset, std::span(bytes).first(1 + (action >> 5)));
            bytes.fill(std::byte{action});
            blk->write_config(offset, std::span(bytes).first(1 + (action >> 5)));
            break;
        }
        default:
            if (!input.rarely())
                break;
            bool done = false;
            blk->reset([&] { done = true; });
            disk.complete(input, true);
            disk.complete(input, true);
            expect(done && memory.writes_in_flight() == 0);
            ring.restart();
            queue = Queue::create(memory, ring.setup(event_index)).value();
            host.broken = false;
            blk->activate(features, queues, host);
            break;
        }
    }
    bool done = false;
    blk->reset([&] { done = true; });
    disk.complete(input, true);
    disk.complete(input, true);
    expect(done && memory.writes_in_flight() == 0);
    LockedPage::check(memory);
}

} // namespace
} // namespace casemate::virtio

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* bytes,
                                      size_t size); // NOLINT(readability-identifier-naming)
extern "C" int LLVMFuzzerTestOneInput(const uint8_t* bytes, size_t size) {
    casemate::virtio::run(casemate::virtio::Input({bytes, size}));
    return 0;
}
