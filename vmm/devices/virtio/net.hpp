// SPDX-License-Identifier: Apache-2.0
// Net: the network device, virtio 1.2, 5.1, with one queue pair over a FramePort. Frames move straight
// between the port and guest buffers; only what the mergeable receive buffers at hand are too short for waits
// here for more of them.
#pragma once

#include "base/event_loop.hpp"
#include "base/log.hpp"
#include "devices/virtio/device.hpp"
#include "devices/virtio/queue.hpp"
#include "devices/virtio/tap_device.hpp"

#include <array>
#include <cstddef>
#include <deque>
#include <memory>
#include <optional>
#include <string>
#include <vector>

namespace casemate::virtio {

using MacAddress = std::array<uint8_t, 6>;

class Net final : public VirtioDevice {
public:
    struct Options {
        std::string interface;         // of an existing tap
        std::optional<MacAddress> mac; // random and locally administered when not given
        // 5.1.4, in bytes: from min_mtu to the interface's, which it is when not given.
        std::optional<uint16_t> mtu;
        std::string name; // for messages
    };

    // Memory, loop and log outlive the device.
    static Result<std::unique_ptr<Net>> create(const Options& options, const GuestMemory& memory,
                                               EventLoop& loop, const Log& log);
    // As above over any port; options.interface is not used.
    static Result<std::unique_ptr<Net>> create(const Options& options, std::unique_ptr<FramePort> port,
                                               const GuestMemory& memory, EventLoop& loop, const Log& log);
    Net(const Net&) = delete;
    Net& operator=(const Net&) = delete;
    // Destroyed on the I/O thread or when that does not run.
    ~Net() override;

    static constexpr uint16_t queue_size = 256;
    static constexpr uint16_t receive_queue = 0;
    static constexpr uint16_t transmit_queue = 1;
    // 5.1.6.3.1 says 65550 without, here with a VLAN tag, and the header.
    static constexpr uint64_t max_frame_bytes = 65535 + 18 + 12;
    // 5.1.4.1.
    static constexpr uint16_t min_mtu = 68;

    DeviceType type() const override { return DeviceType::net; }
    std::string_view name() const override { return m_name; }
    uint64_t features() const override;
    std::span<const uint16_t> queue_sizes() const override;
    void read_config(uint64_t offset, std::span<std::byte> data) const override;
    void write_config(uint64_t /*offset*/, std::span<const std::byte> /*data*/) override {}
    void activate(uint64_t driver_features, std::span<Queue* const> queues, Host& host) override;
    void process_queue(uint16_t index) override;
    // No transfer outlives the call that began it, so `done` comes at once.
    void reset(std::function<void()> done) override;

    const MacAddress& mac() const { return m_mac; }
    uint16_t mtu() const { return m_mtu; }

private:
    enum class Outcome { progress, idle, stopped };

    Net(const Options& options, const MacAddress& mac, uint16_t mtu, std::unique_ptr<FramePort> port,
        const GuestMemory& memory, EventLoop& loop, const Log& log);

    void handle_port(uint32_t events);
    template <typename Step>
    static Outcome take_turn(Queue* const& queue, Step step);
    void receive();
    Outcome receive_one();
    Outcome finish_held();
    bool exceeds_mtu(uint64_t bytes) const;
    void log_too_long(uint64_t room);
    bool collect_buffers(uint64_t needed);
    bool deliver(uint64_t bytes);
    void transmit();
    Outcome transmit_one();
    void wait_for(uint32_t events);
    void unplug(std::string_view reason);
    void break_device(std::string_view reason);
    bool negotiated(unsigned feature) const { return (m_features >> feature & 1) != 0; }

    std::string m_name;
    MacAddress m_mac;
    uint16_t m_mtu;
    std::unique_ptr<FramePort> m_port;
    const GuestMemory* m_memory;
    EventLoop* m_loop;
    const Log* m_log;

    uint64_t m_features = 0;
    Queue* m_receive = nullptr; // both null: not activated, broken, or reset
    Queue* m_transmit = nullptr;
    Host* m_host = nullptr;
    bool m_port_watched = false;
    uint32_t m_waited_for = 0;
    unsigned m_failed_reads = 0;      // in a row
    std::deque<Chain> m_buffers;      // popped receive buffers, at most the queue's size
    uint64_t m_buffer_bytes = 0;      // their sum
    uint64_t m_most_buffer_bytes = 0; // its maximum since activation
    uint64_t m_last_frame = 0;        // bytes
    std::vector<GuestRange> m_ranges; // of one read; kept for their memory, as is the next
    std::vector<iovec> m_vectors;
    // A frame longer than the buffers were: 0 or its bytes, those of them in the buffers, and the rest. The
    // pages of the rest are not touched before.
    uint64_t m_held = 0;
    uint64_t m_held_room = 0;
    std::unique_ptr<std::byte[]> m_tail = std::make_unique_for_overwrite<std::byte[]>(max_frame_bytes);
    LogSite m_drop_site;
    LogSite m_port_site; // a driver that resets repeats these as often as it likes
};

} // namespace casemate::virtio
