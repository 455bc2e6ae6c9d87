// SPDX-License-Identifier: Apache-2.0
// Machine: one virtual machine, from its Config to its end.
#pragma once

#include "base/error.hpp"
#include "base/event_log.hpp"
#include "base/event_loop.hpp"
#include "base/fd.hpp"
#include "base/log.hpp"
#include "base/running_clock.hpp"
#include "devices/bus.hpp"
#include "devices/config_image.hpp"
#include "devices/interrupt.hpp"
#include "devices/pci_host.hpp"
#include "devices/power.hpp"
#include "devices/pvpanic.hpp"
#include "devices/rtc.hpp"
#include "devices/serial.hpp"
#include "devices/virtio/pci_transport.hpp"
#include "guard/guard.hpp"
#include "guard/make_protection.hpp"
#include "guard/symbols.hpp"
#include "kvm/vcpu.hpp"
#include "kvm/vm.hpp"
#include "machine/config.hpp"
#include "machine/exit_status.hpp"
#include "machine/interrupts.hpp"
#include "machine/management_mode.hpp"
#include "machine/vcpu_kicks.hpp"
#include "machine/vcpu_pause.hpp"
#include "machine/watch.hpp"
#include "memory/guest_memory.hpp"
#include "memory/layout.hpp"
#include "probe/host_report.hpp"

#include <atomic>
#include <memory>
#include <mutex>
#include <optional>
#include <stop_token>
#include <thread>
#include <vector>

namespace casemate {

struct LoadedGuest;
class System;

// create, start, wait, in this order, from one thread; the rest from any. Several may live in one process.
class Machine {
public:
    // Builds everything and loads the guest; nothing runs yet. `console` takes what the guest prints. The I/O
    // thread runs `loop`, where a front end may watch descriptors of its own. All three outlive the machine.
    static Result<std::unique_ptr<Machine>> create(const Config& config, const Log& log, EventLoop& loop,
                                                   SerialLine& console);
    Machine(const Machine&) = delete;
    Machine& operator=(const Machine&) = delete;
    // Ends and waits when wait() was not called.
    ~Machine();

    // Starts the I/O thread, the watch's, and one thread a vCPU.
    Result<void> start();
    // Returns when the machine has ended and all its threads are gone.
    MachineEnd wait();

    // Asks the machine to end; the first reason wins.
    void end(MachineEnd reason);
    // Readable once it was asked to: for who waits for that and for something else, and then calls wait().
    int ended() const { return m_ended.get(); }
    // Asks the guest to power off, as a short press of the button does.
    void press_power_button();
    // For bytes that go to the guest's console.
    Serial& serial() { return *m_serial; }

private:
    struct Parts {
        GuestMemory memory;
        Vm vm;
        EventLog events;
        std::optional<Symbols> symbols;
    };
    Machine(const Config& config, const Log& log, EventLoop& loop, Parts parts);

    Result<void> set_up_vm();
    struct ProtectionChoice {
        std::vector<ProtectionKind> kinds; // layers
        TableEnforcement tables = TableEnforcement::verified;
    };
    Result<ProtectionChoice> choose_protection(const System& system);
    // Opens the hypercall interface to the guest, as far as the host and Config::locks allow.
    Result<ProtectionChoice> offer_locks(const System& system);
    Result<void> create_guard(const ProtectionChoice& choice);
    void check_lock_deadline();
    Result<void> filter_msrs();
    Result<void> intercept_msr_writes();
    void audit(Watch::Clock::time_point due);
    void check_progress();
    void note_stop(std::chrono::nanoseconds time);
    Result<void> add_platform_devices(SerialLine& console);
    Result<void> add_virtio_devices();
    Result<void> show_pci_configuration();
    Result<void> ignore_legacy_configuration();
    Result<void> add_virtio(std::unique_ptr<virtio::VirtioDevice> device);
    Result<void> add_port_device(const layout::Ports& ports, std::unique_ptr<Device> device);
    Result<void> create_vcpus(const System& system);
    Result<void> hand_over_to(const LoadedGuest& guest);
    void report_end(const MachineEnd& end);
    uint64_t end_microseconds() const;
    void start_threads();
    void stop_threads();

    // Destruction runs from the last member to the first: threads are gone by then, vCPUs and devices go
    // before the VM, the VM and its slots before the memory.
    const Config m_config;
    const Log& m_log;
    EventLoop& m_loop;
    EventLog m_events;
    RunningClock m_clock;
    std::optional<Symbols> m_symbols;
    std::stop_source m_ending; // requested by end(): every wait and walk for the guest looks at it
    GuestMemory m_memory;
    ManagementMode m_management;
    std::optional<ConfigImage> m_config_image;
    std::unique_ptr<Protection> m_protection;
    std::unique_ptr<Guard> m_guard; // asked by m_memory, whose users are gone when it goes
    bool m_locks_offered = false;
    bool m_msr_filter_offered = false;
    VcpuKicks m_kicks;
    VcpuPause m_pause;
    Vm m_vm;
    Bus m_ports;
    Bus m_mmio;
    std::unique_ptr<Interrupts> m_interrupts;
    KvmDoorbells m_doorbells;
    Fd m_ignored_writes; // counts them, for nobody
    std::unique_ptr<InterruptLine> m_console_interrupt;
    std::unique_ptr<InterruptLine> m_button_interrupt;
    std::unique_ptr<Serial> m_serial;
    std::unique_ptr<PowerButton> m_power_button;
    std::vector<std::unique_ptr<Device>> m_devices;
    std::vector<std::unique_ptr<MessageInterrupts>> m_messages;
    std::vector<std::unique_ptr<virtio::VirtioDevice>> m_virtio_devices;
    std::vector<std::unique_ptr<virtio::PciTransport>> m_transports;
    PciHost m_pci;
    std::vector<Vcpu> m_vcpus;
    std::shared_ptr<void> m_throwaway; // the VM that the host was tried out in, until the guest runs

    std::atomic<bool> m_stopping = false;
    std::mutex m_end_mutex; // guards m_end
    std::optional<MachineEnd> m_end;
    Fd m_ended; // signalled when m_end is set
    std::atomic<Watch::Clock::time_point> m_end_time{};
    std::unique_ptr<Watch> m_watch;
    std::vector<std::thread> m_vcpu_threads;
    std::thread m_io_thread;
};

} // namespace casemate
