// SPDX-License-Identifier: Apache-2.0
// Rng: the entropy device (virtio 1.2, 5.4). Gives the host kernel's random bytes.
#pragma once

#include "devices/virtio/device.hpp"
#include "devices/virtio/queue.hpp"
#include "memory/guest_memory.hpp"

#include <array>

namespace casemate::virtio {

class Rng final : public VirtioDevice {
public:
    // A request gets at most this much, however large its buffer: 5.4.6.1 asks for one byte or more.
    static constexpr uint64_t max_request_bytes = 64_KiB;

    explicit Rng(const GuestMemory& memory)
        : m_memory(memory) {}

    DeviceType type() const override { return DeviceType::entropy; }
    std::string_view name() const override { return "rng"; }
    uint64_t features() const override { return 0; }
    std::span<const uint16_t> queue_sizes() const override { return m_queue_sizes; }
    void read_config(uint64_t, std::span<std::byte> data) const override;
    void write_config(uint64_t, std::span<const std::byte>) override {}
    void activate(uint64_t driver_features, std::span<Queue* const> queues, Host& host) override;
    void process_queue(uint16_t index) override;
    void reset(std::function<void()> done) override;

private:
    static constexpr std::array<uint16_t, 1> m_queue_sizes{64};

    GuestResult<void> serve_some();
    GuestResult<uint32_t> fill(const Chain& chain) const;

    const GuestMemory& m_memory;
    Queue* m_queue = nullptr;
    Host* m_host = nullptr;
};

} // namespace casemate::virtio
