// SPDX-License-Identifier: Apache-2.0
// PciTransport: a virtio device as a PCI function (virtio 1.2, 4.1), modern interface and MSI-X only. Config
// accesses come from vCPU threads, the device's data path runs on the I/O thread; this is where they meet.
#pragma once

#include "base/error.hpp"
#include "base/event_loop.hpp"
#include "base/fd.hpp"
#include "base/log.hpp"
#include "devices/interrupt.hpp"
#include "devices/msix.hpp"
#include "devices/pci_function.hpp"
#include "devices/virtio/device.hpp"
#include "devices/virtio/queue.hpp"

#include <array>
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <vector>

namespace casemate::virtio {

class PciTransport final : public PciFunction, private Device, private Host {
public:
    // Everything given here outlives the transport. MSI-X has as many vectors as `interrupts`: one for each
    // queue and one for configuration changes is what drivers like best.
    static Result<std::unique_ptr<PciTransport>> create(VirtioDevice& device, const GuestMemory& memory,
                                                        EventLoop& io, MessageInterrupts& interrupts,
                                                        DoorbellRegistry& doorbells, const Log& log);
    PciTransport(const PciTransport&) = delete;
    PciTransport& operator=(const PciTransport&) = delete;
    // On the I/O thread or when it does not run. The device must not call back any more.
    ~PciTransport() override;

    std::string_view name() const override { return m_device.name(); }
    void read_config(uint32_t offset, std::span<std::byte> data) override;
    void write_config(uint32_t offset, std::span<const std::byte> data) override;
    bool config_reads_have_effects() const override { return m_window_written; }
    Device* bar(unsigned) override { return this; }
    void bar_moved(unsigned index, std::optional<GuestPhysical> start) override;

private:
    PciTransport(VirtioDevice& device, const GuestMemory& memory, EventLoop& io,
                 MessageInterrupts& interrupts, DoorbellRegistry& doorbells, const Log& log);

    // Where the device's data path is. The driver's writes start the transitions to `activating` and
    // `resetting`, the I/O thread finishes them; so pending work is one word, however often a guest writes.
    enum class Phase {
        idle,       // before DRIVER_OK; the I/O thread knows nothing of the driver
        activating, // DRIVER_OK was written
        active,     // the device owns the queues
        resetting,  // status 0 was written while active
        draining,   // the device finishes its transfers
    };

    struct QueueState {
        uint16_t size = 0;
        uint16_t vector = 0;
        std::array<Le64, 3> areas{}; // descriptors, driver area, device area
        std::optional<Queue> queue;  // set when enabled; the I/O thread's while active or draining
        Fd doorbell;
        std::optional<GuestPhysical> attached; // where the registry knows the doorbell
    };

    // The BAR, from vCPU threads.
    void read(uint64_t offset, std::span<std::byte> data) override;
    void write(uint64_t offset, std::span<const std::byte> data) override;
    void read_common(uint64_t offset, std::span<std::byte> data) const;
    void write_common(uint64_t offset, std::span<const std::byte> data);
    void write_driver_features(uint32_t value);
    void write_status(uint8_t value);
    void enable_queue(QueueState& state);
    void ring(uint64_t queue);

    // virtio 1.2, 4.1.4.9: access to the BAR through config space.
    struct Window {
        uint64_t offset;
        size_t bytes;
    };
    std::optional<Window> window() const;

    // Both under m_mutex.
    void attach_doorbells();
    void detach_doorbells();
    void clear_registers();
    QueueState* selected();
    const QueueState* selected() const;
    uint16_t checked_vector(uint64_t value) const;

    // I/O thread.
    void do_work();
    void activate();
    void finish_reset();
    void process_queue(uint16_t index);
    void notify_queue(uint16_t index) override;
    void process_again(uint16_t index) override;
    void notify_config() override;
    void break_device(std::string_view reason) override;

    VirtioDevice& m_device;
    const GuestMemory& m_memory;
    EventLoop& m_io;
    DoorbellRegistry& m_doorbells;
    const Log& m_log;
    LogSite m_log_site;
    Msix m_msix;
    uint64_t m_offered_features;
    uint8_t m_msix_capability = 0;
    uint8_t m_window_capability = 0;
    bool m_window_written = false; // any of the capability; under the PCI host's lock, as all config space
    Fd m_work;                     // wakes do_work()

    mutable std::mutex m_mutex; // guards the rest; rank Device, taken inside the PCI host's, outside Msix's
    Phase m_phase = Phase::idle;
    std::optional<GuestPhysical> m_bar;
    uint32_t m_device_feature_select = 0;
    uint32_t m_driver_feature_select = 0;
    uint64_t m_driver_features = 0;
    uint16_t m_config_vector = 0;
    uint16_t m_queue_select = 0;
    uint8_t m_status = 0;
    uint8_t m_config_generation = 0;
    uint8_t m_interrupt_status = 0;
    std::vector<QueueState> m_queues;

    // I/O thread only.
    bool m_live = false; // between activate() and reset() of the device, and not broken
};

} // namespace casemate::virtio
