// SPDX-License-Identifier: Apache-2.0
// VirtioDevice: what a device type (blk, net, rng) gives to the transport, and what the transport gives to
// it.
#pragma once

#include "base/error.hpp"

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string_view>
#include <vector>

namespace casemate::virtio {

class Queue;

// virtio 1.2, 5: device types.
enum class DeviceType : uint16_t { net = 1, block = 2, entropy = 4 };

// What the transport lends to an activated device. Valid from activate() until reset() has finished.
class Host {
public:
    Host() = default;
    Host(const Host&) = delete;
    Host& operator=(const Host&) = delete;
    virtual ~Host() = default;
    // Tells the driver about used buffers of queue `index`, when it wants to know. I/O thread.
    virtual void notify_queue(uint16_t index) = 0;
    // Calls process_queue(index) soon: for a device that stops early so that a driver who adds chains without
    // end does not keep the I/O thread from others. I/O thread.
    virtual void process_again(uint16_t index) = 0;
    // The device's configuration changed. I/O thread.
    virtual void notify_config() = 0;
    // The guest broke the protocol: sets NEEDS_RESET, stops all queues until the driver resets. I/O thread.
    virtual void break_device(std::string_view reason) = 0;
};

// Threads: config calls come from vCPU threads under the transport's lock; activate, process_queue and reset
// come from the I/O thread, so the data path of a device needs no lock of its own.
class VirtioDevice {
public:
    VirtioDevice() = default;
    VirtioDevice(const VirtioDevice&) = delete;
    VirtioDevice& operator=(const VirtioDevice&) = delete;
    virtual ~VirtioDevice() = default;

    virtual DeviceType type() const = 0;
    // "disk0", for messages.
    virtual std::string_view name() const = 0;
    // Device-type feature bits offered; the transport adds VERSION_1, EVENT_IDX, INDIRECT_DESC.
    virtual uint64_t features() const = 0;
    // Greatest size of each queue, each a power of two.
    virtual std::span<const uint16_t> queue_sizes() const = 0;

    // Device-specific configuration, virtio 1.2, 2.5. Bytes past its end read as zero; unwritable ones
    // ignore.
    virtual void read_config(uint64_t offset, std::span<std::byte> data) const = 0;
    virtual void write_config(uint64_t offset, std::span<const std::byte> data) = 0;

    // DRIVER_OK: `queues[i]` is null when the driver did not enable queue i. The device borrows them until
    // reset.
    virtual void activate(uint64_t driver_features, std::span<Queue* const> queues, Host& host) = 0;
    // The driver rang the doorbell of queue `index`, or may have done so before activation.
    virtual void process_queue(uint16_t index) = 0;
    // Stops using queues and host. Calls `done` on the I/O thread when no transfer touches guest memory any
    // more: at once, or later when I/O is under way; the driver sees status 0 only then.
    virtual void reset(std::function<void()> done) = 0;
};

} // namespace casemate::virtio
