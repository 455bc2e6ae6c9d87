// SPDX-License-Identifier: Apache-2.0
// Frames both ways over a port in memory: no byte of locked memory changes and no buffer is used twice.
#include "devices/virtio/net.hpp"

#include "ring_input.hpp"

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>

namespace casemate::virtio {
namespace {

constexpr uint64_t receive_rings = 0x10000;
constexpr uint64_t transmit_rings = 0x14000;
constexpr uint64_t buffers_at = 0x2c000; // the locked page is 16 KiB further

struct MemoryPort : FramePort {
    Fd event = create_event().value();
    Input* input;
    unsigned frames = 0; // waiting to be received
    explicit MemoryPort(Input& fuzzer_input)
        : input(&fuzzer_input) {}
    int descriptor() const override { return event.get(); }
    uint16_t mtu() const override { return 1500; }
    Result<void> set_offloads(const Offloads& /*offloads*/) override { return {}; }
    ssize_t read(std::span<const iovec> vectors) override {
        if (frames == 0)
            return -EAGAIN;
        --frames;
        if (input->rarely())
            return -EIO;
        uint64_t left = input->rarely() ? 65535 : 12 + 16ULL * input->byte();
        const uint8_t segmentation = input->rarely() ? 0 : 1; // the header's second byte
        ssize_t total = 0;
        for (const iovec& vector : vectors) {
            const uint64_t part = std::min<uint64_t>(left, vector.iov_len);
            std::memset(vector.iov_base, 0x5a, part);
            left -= part;
            total += static_cast<ssize_t>(part);
        }
        if (vectors.front().iov_len > 1)
            static_cast<uint8_t*>(vectors.front().iov_base)[1] = segmentation;
        return total;
    }
    ssize_t write(std::span<const iovec> vectors) override {
        std::vector<std::byte> frame;
        for (const iovec& vector : vectors) {
            const auto* const start = static_cast<const std::byte*>(vector.iov_base);
            frame.insert(frame.end(), start, start + vector.iov_len);
        }
        expect(frame.size() > 12 && frame.size() <= Net::max_frame_bytes);
        if (input->rarely())
            return -EINVAL;
        return static_cast<ssize_t>(frame.size());
    }
};

void add_chain(Input& input, RingWriter& ring, bool device_writes) {
    std::vector<RingBuffer> buffers;
    const unsigned count = 1 + (input.byte() & 3);
    for (unsigned i = 0; i < count; ++i) {
        const uint32_t length =
            input.rarely() ? uint32_t{input.byte()} * 1024 : 12U + uint32_t{input.byte()} * 8;
        buffers.push_back({buffers_at + 64ULL * input.byte() % 0x4000, length, device_writes});
    }
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
    const auto loop = EventLoop::create().value();
    auto owned = std::make_unique<MemoryPort>(input);
    MemoryPort& port = *owned;
    const auto net = Net::create({.name = "fuzz"}, std::move(owned), memory, *loop, log).value();
    RingWriter receive(memory, receive_rings);
    RingWriter transmit(memory, transmit_rings);
    Queue receive_queue = Queue::create(memory, receive.setup(event_index)).value();
    Queue transmit_queue = Queue::create(memory, transmit.setup(event_index)).value();
    FuzzHost host;
    const std::array queues{&receive_queue, &transmit_queue};
    const uint64_t features = net->features() & ~((mode & 2) != 0 ? 1ULL << 15 : 0ULL);
    net->activate(features, queues, host);
    while (!input.empty()) {
        switch (input.byte() & 7) {
        case 0:
        case 1:
            add_chain(input, receive, true);
            break;
        case 2:
            add_chain(input, transmit, false);
            break;
        case 3:
        case 4:
            port.frames += input.byte() & 3;
            net->process_queue(Net::receive_queue);
            break;
        case 5:
            net->process_queue(Net::transmit_queue);
            break;
        case 6: {
            std::array<std::byte, 8> bytes{};
            net->read_config(input.rarely() ? input.number() : input.byte() & 15, bytes);
            break;
        }
        default:
            if (!input.rarely())
                break;
            net->reset([] {});
            receive.restart();
            transmit.restart();
            receive_queue = Queue::create(memory, receive.setup(event_index)).value();
            transmit_queue = Queue::create(memory, transmit.setup(event_index)).value();
            host.broken = false;
            net->activate(features, queues, host);
            break;
        }
        expect(memory.writes_in_flight() == 0);
    }
    bool done = false;
    net->reset([&] { done = true; });
    expect(done);
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
