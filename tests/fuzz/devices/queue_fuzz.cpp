// SPDX-License-Identifier: Apache-2.0
// Fuzzes virtio::Queue: rings that are mostly right, with a lie now and then, so that chains are walked.
#include "../expect.hpp"
#include "base/little_endian.hpp"
#include "devices/virtio/queue.hpp"

#include <array>
#include <deque>
#include <fuzzer/FuzzedDataProvider.h>

namespace casemate::virtio {
namespace {

constexpr uint64_t ram_bytes = 1_MiB;
constexpr uint64_t descriptors = 0x10000;
constexpr uint64_t available = 0x20000;
constexpr uint64_t used = 0x30000;
constexpr uint64_t tables = 0x40000; // indirect, one page for each head
constexpr uint16_t flag_next = 1;
constexpr uint16_t flag_write = 2;
constexpr uint16_t flag_indirect = 4;

struct RawDescriptor {
    Le64 address;
    Le32 length;
    Le16 flags;
    Le16 next;
};

struct Run {
    FuzzedDataProvider& input;
    const GuestMemory& memory;
    uint16_t size;
    Queue queue;
    std::deque<uint16_t> popped;
    uint16_t available_index = 0;

    void write_chain(uint64_t table, uint16_t first, uint16_t limit) {
        unsigned left = input.ConsumeIntegralInRange(1U, 6U);
        for (uint16_t i = first; left-- != 0; i = static_cast<uint16_t>((i + 1) % limit)) {
            const bool writable = left < 2;
            const auto flags =
                static_cast<uint16_t>((left != 0 ? flag_next : 0U) | (writable ? flag_write : 0U));
            const RawDescriptor descriptor{.address = input.ConsumeIntegralInRange<uint64_t>(0, ram_bytes),
                                           .length = input.ConsumeIntegral<uint16_t>(),
                                           .flags = flags,
                                           .next = static_cast<uint16_t>((i + 1) % limit)};
            expect(memory.store({table + 16ULL * i}, descriptor).has_value());
        }
    }

    void offer() {
        const auto head = static_cast<uint16_t>(input.ConsumeIntegral<uint8_t>() % size);
        if (input.ConsumeBool()) {
            const uint64_t table = tables + head * page_bytes;
            write_chain(table, 0, 16);
            const RawDescriptor reference{
                .address = table, .length = 256U, .flags = flag_indirect, .next = uint16_t{0}};
            expect(memory.store({descriptors + 16ULL * head}, reference).has_value());
        } else {
            write_chain(descriptors, head, size);
        }
        expect(memory.store({available + 4 + 2ULL * (available_index % size)}, Le16(head)).has_value());
        expect(memory.store_release({available + 2}, ++available_index).has_value());
    }

    void lie() {
        constexpr std::array<uint64_t, 4> areas{descriptors, available, used, tables};
        const uint64_t place = areas[input.ConsumeIntegralInRange<size_t>(0, 3)] +
                               2ULL * input.ConsumeIntegralInRange<uint64_t>(0, 255);
        expect(memory.store_release({place}, input.ConsumeIntegral<uint16_t>()).has_value());
    }

    bool pop() {
        const auto result = queue.pop();
        if (!result)
            return false;
        if (!*result)
            return true;
        const Chain& chain = **result;
        expect(chain.readable.size() + chain.writable.size() <= size);
        uint64_t bytes = 0;
        for (const auto* part : {&chain.readable, &chain.writable})
            for (const GuestRange& range : *part) {
                expect(!range.empty() && range.end() > range.start().value);
                bytes += range.bytes();
            }
        expect(bytes == chain.readable_bytes + chain.writable_bytes && bytes <= 4_GiB);
        popped.push_back(chain.head);
        expect(popped.size() <= size);
        return true;
    }

    void run() {
        bool staged = false;
        while (input.remaining_bytes() != 0) {
            bool alive = true;
            switch (input.ConsumeIntegral<uint8_t>() % 16) {
            case 0:
                lie();
                break;
            case 1:
                if (!popped.empty() && !staged) {
                    queue.undo_pop();
                    popped.pop_back();
                }
                break;
            case 2:
                alive = queue.take_interrupt_due().has_value();
                break;
            case 3:
                alive = queue.set_doorbell_wanted(input.ConsumeBool()).has_value();
                break;
            case 4:
            case 5:
                alive = queue.publish_staged().has_value();
                staged = false;
                break;
            case 6:
            case 7:
            case 8:
                if (!popped.empty()) {
                    queue.stage_used(popped.front(), 1);
                    popped.pop_front();
                    staged = true;
                }
                break;
            case 9:
            case 10:
            case 11:
                alive = pop();
                break;
            default:
                offer();
            }
            if (!alive)
                return;
        }
    }
};

} // namespace
} // namespace casemate::virtio

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size);
extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
    using namespace casemate;
    using namespace casemate::virtio;
    static const GuestMemory memory = GuestMemory::create(ram_bytes).value();
    expect(memory.clear(GuestRange::of({descriptors}, tables + 64 * page_bytes - descriptors)).has_value());
    FuzzedDataProvider input(data, size);
    const auto queue_size = static_cast<uint16_t>(1U << input.ConsumeIntegralInRange(0U, 6U));
    const QueueSetup setup{.size = queue_size,
                           .descriptors = GuestValue(descriptors),
                           .driver_area = GuestValue(available),
                           .device_area = GuestValue(used),
                           .event_index = input.ConsumeBool(),
                           .indirect = input.ConsumeIntegral<uint8_t>() != 0};
    Run{.input = input,
        .memory = memory,
        .size = queue_size,
        .queue = Queue::create(memory, setup).value(),
        .popped = {}}
        .run();
    return 0;
}
