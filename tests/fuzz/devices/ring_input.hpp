// SPDX-License-Identifier: Apache-2.0
// Input and RingWriter: mostly valid virtqueues out of fuzzer bytes, with rare faults, so that what parses
// requests is reached.
#pragma once

#include "../expect.hpp"
#include "base/little_endian.hpp"
#include "devices/virtio/device.hpp"
#include "devices/virtio/queue.hpp"

#include <cstdint>
#include <span>
#include <vector>

namespace casemate::virtio {

// Zeroes behind the end.
class Input {
public:
    explicit Input(std::span<const uint8_t> bytes)
        : m_bytes(bytes) {}
    bool empty() const { return m_bytes.empty(); }
    uint8_t byte() {
        if (m_bytes.empty())
            return 0;
        const uint8_t value = m_bytes.front();
        m_bytes = m_bytes.subspan(1);
        return value;
    }
    uint64_t number() {
        uint64_t value = 0;
        for (int i = 0; i < 8; ++i)
            value = value << 8 | byte();
        return value;
    }
    // One in 32.
    bool rarely() { return (byte() & 31) == 31; }

private:
    std::span<const uint8_t> m_bytes;
};

struct RingBuffer {
    uint64_t address;
    uint32_t length;
    bool device_writes;
};

// Writes descriptors round-robin over those of chains that the device may still hold: hostile enough.
class RingWriter {
public:
    static constexpr uint16_t size = 32;

    RingWriter(const GuestMemory& memory, uint64_t base)
        : m_memory(memory)
        , m_base(base) {
        restart();
    }
    void restart() {
        expect(m_memory.clear(GuestRange::of({m_base}, 0x3000)).has_value());
        m_next = m_available = 0;
    }
    QueueSetup setup(bool event_index) const {
        return {.size = size,
                .descriptors = GuestValue(m_base),
                .driver_area = GuestValue(m_base + 0x1000),
                .device_area = GuestValue(m_base + 0x2000),
                .event_index = event_index,
                .indirect = true};
    }
    void add(Input& input, std::span<const RingBuffer> buffers) {
        if (buffers.empty())
            return;
        const uint16_t head = m_next;
        for (size_t i = 0; i < buffers.size(); ++i) {
            const bool last = i + 1 == buffers.size();
            const auto next = static_cast<uint16_t>((m_next + 1) % size);
            auto flags = static_cast<uint16_t>((last ? 0U : 1U) | (buffers[i].device_writes ? 2U : 0U));
            uint64_t address = buffers[i].address;
            uint32_t length = buffers[i].length;
            if (input.rarely()) {
                switch (input.byte() & 3) {
                case 0:
                    flags = static_cast<uint16_t>(flags ^ (1U << (input.byte() & 3)));
                    break;
                case 1:
                    address = input.number();
                    break;
                case 2:
                    length = static_cast<uint32_t>(input.number());
                    break;
                default:
                    address ^= uint64_t{1} << (input.byte() & 63);
                    break;
                }
            }
            const uint64_t at = m_base + 16ULL * m_next;
            put(at, Le64(address));
            put(at + 8, Le32(length));
            put(at + 12, Le16(flags));
            put(at + 14, Le16(next));
            m_next = next;
        }
        put(m_base + 0x1000 + 4 + 2ULL * (m_available % size), Le16(head));
        ++m_available;
        if (input.rarely())
            m_available = static_cast<uint16_t>(m_available + input.byte());
        put(m_base + 0x1000 + 2, Le16(m_available));
    }

private:
    template <typename T>
    void put(uint64_t address, T value) {
        expect(m_memory.store({address}, value).has_value());
    }

    const GuestMemory& m_memory;
    uint64_t m_base;
    uint16_t m_next = 0;
    uint16_t m_available = 0;
};

// Locks one page; the fuzzer's promise is that its bytes stay.
struct LockedPage : WriteGate {
    static constexpr uint64_t address = 0x30000;
    bool may_write(const GuestRange& range) const override {
        return !range.overlaps(GuestRange::of({address}, page_bytes));
    }
    static void fill(const GuestMemory& memory) {
        const std::vector<std::byte> pattern(page_bytes, std::byte{0xa5});
        expect(memory.write({address}, pattern).has_value());
    }
    static void check(const GuestMemory& memory) {
        std::vector<std::byte> now(page_bytes);
        expect(memory.read(GuestRange::of({address}, page_bytes), now).has_value());
        for (const std::byte byte : now)
            expect(byte == std::byte{0xa5});
    }
};

struct FuzzHost : Host {
    bool broken = false;
    void notify_queue(uint16_t /*index*/) override { expect(!broken); }
    void process_again(uint16_t /*index*/) override { expect(!broken); }
    void notify_config() override {}
    void break_device(std::string_view /*reason*/) override {
        expect(!broken);
        broken = true;
    }
};

} // namespace casemate::virtio
