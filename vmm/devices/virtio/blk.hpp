// SPDX-License-Identifier: Apache-2.0
// Blk: the block device, virtio 1.2, 5.2, over a Disk.
#pragma once

#include "base/event_loop.hpp"
#include "base/log.hpp"
#include "devices/virtio/device.hpp"
#include "devices/virtio/disk.hpp"
#include "devices/virtio/queue.hpp"

#include <array>
#include <atomic>
#include <string>

namespace casemate::virtio {

class Blk final : public VirtioDevice, private DiskClient {
public:
    struct Options {
        std::string path;
        bool read_only = false;
        std::string name; // for messages; its first 20 bytes are the serial number the guest sees
    };

    // Memory, loop and log outlive the device.
    static Result<std::unique_ptr<Blk>> create(const Options& options, const GuestMemory& memory,
                                               EventLoop& loop, const Log& log);
    // `disk` takes queue_size requests at once.
    Blk(std::string name, std::unique_ptr<Disk> disk, const GuestMemory& memory, const Log& log);
    // Destroyed on the I/O thread or when that does not run.

    static constexpr uint16_t queue_size = 256;
    // No request is taken from the ring while so much data is under way: what a lock and a reset wait for is
    // less than this and one request. After so much, or queue_size requests, other work of the I/O thread has
    // its turn.
    static constexpr uint64_t most_bytes_in_flight = 8_MiB;

    DeviceType type() const override { return DeviceType::block; }
    std::string_view name() const override { return m_name; }
    uint64_t features() const override;
    std::span<const uint16_t> queue_sizes() const override;
    void read_config(uint64_t offset, std::span<std::byte> data) const override;
    void write_config(uint64_t offset, std::span<const std::byte> data) override;
    void activate(uint64_t driver_features, std::span<Queue* const> queues, Host& host) override;
    void process_queue(uint16_t index) override;
    void reset(std::function<void()> done) override;

private:
    // One request in flight. Its tag is its place in m_requests.
    struct Request {
        uint16_t head = 0;
        uint32_t type = 0;
        GuestPhysical status_address;
        uint64_t sector = 0;         // for messages
        uint64_t bytes = 0;          // of data
        uint32_t success_length = 0; // for the used ring
        uint32_t failure_length = 0;
        bool flush_follows = false; // write-through: a flush is to come before completion
        Transfer transfer;          // keeps locks from being granted while the disk may write into RAM
    };

    void disk_done(uint32_t tag, int error) override;
    void disk_batch_done() override;

    // What is left of a turn.
    struct Budget {
        uint64_t requests = queue_size;
        uint64_t bytes = most_bytes_in_flight;
        bool spent() const { return requests == 0 || bytes == 0; }
    };

    void serve();
    bool take_requests(Budget& budget);
    bool full() const { return m_free_tags.empty() || m_bytes_in_flight >= most_bytes_in_flight; }
    void begin(const Chain& chain);
    // A status at once, or nullopt when the request went to the disk.
    std::optional<uint8_t> execute(const Chain& chain, Request& request);
    std::optional<uint8_t> transfer_data(const Chain& chain, Request& request);
    std::optional<uint8_t> change_range(const Chain& chain, Request& request);
    uint8_t give_identity(const Chain& chain, Request& request) const;
    void submit(Request& request, const DiskRequest& disk_request);
    void complete(const Request& request, uint8_t status);
    void break_device(std::string_view reason);
    bool negotiated(unsigned feature) const { return (m_features >> feature & 1) != 0; }

    std::string m_name;
    const GuestMemory* m_memory;
    const Log* m_log;
    uint64_t m_sectors;
    uint32_t m_max_discard_sectors = 0;
    uint32_t m_max_write_zeroes_sectors = 0;

    std::atomic<bool> m_write_back = true;    // config space: vCPU threads write it
    std::atomic<bool> m_may_set_cache = true; // CONFIG_WCE negotiated, or nothing negotiated yet
    uint64_t m_features = 0;
    Queue* m_queue = nullptr; // null: not activated, broken, or being reset
    Host* m_host = nullptr;
    bool m_used_pushed = false;
    uint32_t m_in_flight = 0;
    uint64_t m_bytes_in_flight = 0; // of data
    std::function<void()> m_reset_done;
    std::vector<Request> m_requests;
    std::vector<uint32_t> m_free_tags;
    LogSite m_failure_site;
    std::unique_ptr<Disk> m_disk; // last, so that it dies first: it waits for transfers of m_requests
};

} // namespace casemate::virtio
