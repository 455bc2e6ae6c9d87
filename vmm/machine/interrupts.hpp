// SPDX-License-Identifier: Apache-2.0
// Interrupts: KVM's side of the interfaces devices see: pins, message vectors, doorbells.
#pragma once

#include "base/log.hpp"
#include "devices/interrupt.hpp"
#include "kvm/vm.hpp"

#include <memory>
#include <mutex>
#include <vector>

namespace casemate {

// Whether a message of a device interrupts a vCPU and does nothing else: SDM Vol. 3A, 11.11. Others start or
// stop vCPUs, put them into management mode, or go to memory.
constexpr bool is_interrupt_message(uint64_t address, uint32_t data) {
    constexpr uint64_t message_window = 0xfee; // address bits 20 and up
    constexpr uint32_t fixed = 0;
    constexpr uint32_t lowest_priority = 1;
    constexpr uint32_t nmi = 4;
    const uint32_t delivery_mode = (data >> 8U) & 7U;
    return address >> 20U == message_window &&
           (delivery_mode == fixed || delivery_mode == lowest_priority || delivery_mode == nmi);
}

// Owns the routing table of one VM. Everything made here must die before it.
class Interrupts {
public:
    // Routes every I/O APIC pin, and gives those of no device to the firmware; the VM's interrupt controllers
    // exist already. `vm` and `log` outlive this.
    static Result<std::unique_ptr<Interrupts>> create(const Vm& vm, const Log& log);

    std::unique_ptr<InterruptLine> make_line(uint32_t gsi);
    // Reserves `count` message GSIs with an eventfd each.
    Result<std::unique_ptr<MessageInterrupts>> make_messages(uint32_t count);

    // For messages: makes `gsi` deliver this message from now on.
    Result<void> set_message_route(uint32_t gsi, uint64_t address, uint32_t data);
    const Vm& vm() const { return *m_vm; }
    // What fails here does so for what the guest wrote: the guest loses its interrupt, the host a limited
    // message.
    void report_failure(const Result<void>& done) {
        if (!done)
            m_log->guest(m_site, done.error().message());
    }

private:
    Interrupts(const Vm& vm, const Log& log)
        : m_vm(&vm)
        , m_log(&log) {}

    const Vm* m_vm;
    const Log* m_log;
    LogSite m_site;
    std::mutex m_mutex; // guards what follows; innermost
    std::vector<kvm_irq_routing_entry> m_routes;
    uint32_t m_next_gsi;
};

// Doorbells through KVM_IOEVENTFD. `vm` outlives it.
class KvmDoorbells final : public DoorbellRegistry {
public:
    explicit KvmDoorbells(const Vm& vm)
        : m_vm(&vm) {}
    Result<void> attach(uint64_t address, int event_descriptor) override;
    void detach(uint64_t address, int event_descriptor) override;

private:
    const Vm* m_vm;
};

} // namespace casemate
