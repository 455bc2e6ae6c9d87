// SPDX-License-Identifier: Apache-2.0
#include "machine/interrupts.hpp"

#include "memory/layout.hpp"

#include <algorithm>
#include <fmt/core.h>
#include <utility>

namespace casemate {
namespace {

class KvmInterruptLine final : public InterruptLine {
public:
    KvmInterruptLine(Interrupts& interrupts, uint32_t gsi)
        : m_interrupts(&interrupts)
        , m_gsi(gsi) {}
    void set_level(bool level) override {
        m_interrupts->report_failure(m_interrupts->vm().set_interrupt_line(m_gsi, level));
    }

private:
    Interrupts* m_interrupts;
    uint32_t m_gsi;
};

class KvmMessageInterrupts final : public MessageInterrupts {
public:
    KvmMessageInterrupts(Interrupts& interrupts, uint32_t first_gsi, std::vector<Fd> events)
        : m_interrupts(&interrupts)
        , m_first_gsi(first_gsi)
        , m_events(std::move(events))
        , m_routes(m_events.size()) {}
    KvmMessageInterrupts(const KvmMessageInterrupts&) = delete;
    KvmMessageInterrupts& operator=(const KvmMessageInterrupts&) = delete;
    ~KvmMessageInterrupts() override {
        for (uint32_t i = 0; i < m_events.size(); ++i)
            detach(i);
    }

    uint32_t count() const override { return static_cast<uint32_t>(m_events.size()); }

    void route(uint32_t vector, uint64_t address, uint32_t data) override {
        const std::lock_guard lock(m_mutex);
        Route& route = m_routes[vector];
        if (!is_interrupt_message(address, data)) {
            detach(vector);
            return m_interrupts->report_failure(fail(
                Error(fmt::format("a device's message to {:#x} with {:#x} is no interrupt", address, data))
                    .hint("it goes nowhere")));
        }
        if (route.attached && route.address == address && route.data == data)
            return;
        auto done = m_interrupts->set_message_route(m_first_gsi + vector, address, data);
        if (done && !route.attached)
            done = m_interrupts->vm().attach_interrupt(m_first_gsi + vector, m_events[vector].get());
        if (!done)
            return m_interrupts->report_failure(done);
        route = {.attached = true, .address = address, .data = data};
    }

    void raise(uint32_t vector) override { signal_event(m_events[vector]); }

private:
    struct Route {
        bool attached = false;
        uint64_t address = 0;
        uint32_t data = 0;
    };

    void detach(uint32_t vector) {
        if (std::exchange(m_routes[vector], {}).attached)
            m_interrupts->report_failure(
                m_interrupts->vm().detach_interrupt(m_first_gsi + vector, m_events[vector].get()));
    }

    Interrupts* m_interrupts;
    uint32_t m_first_gsi;
    std::vector<Fd> m_events;
    std::mutex m_mutex; // guards m_routes; outside Interrupts' own
    std::vector<Route> m_routes;
};

// A pin for SMIs is the firmware's, and what shuts Linux down leaves it alone (linux v6.12
// arch/x86/kernel/apic/io_apic.c: clear_IO_APIC_pin): 8 exits less for each. All pins stay masked, and a
// guest that wants one sets it up as any other. 82093AA data sheet, 3.2.4 "IOREDTBL[23:0]".
Result<void> give_to_firmware_what_no_device_has(const Vm& vm) {
    constexpr uint8_t smi = 2;
    kvm_ioapic_state state = TRY(vm.io_apic());
    for (uint32_t pin = 0; pin < layout::io_apic_pins; ++pin)
        if (!layout::pin_has_device(pin))
            state.redirtbl[pin].fields.delivery_mode = smi;
    return vm.set_io_apic(state);
}

} // namespace

Result<std::unique_ptr<Interrupts>> Interrupts::create(const Vm& vm, const Log& log) {
    std::unique_ptr<Interrupts> interrupts(new Interrupts(vm, log));
    for (uint32_t pin = 0; pin < layout::io_apic_pins; ++pin) {
        kvm_irq_routing_entry entry{};
        entry.gsi = pin;
        entry.type = KVM_IRQ_ROUTING_IRQCHIP;
        entry.u.irqchip.irqchip = KVM_IRQCHIP_IOAPIC;
        entry.u.irqchip.pin = pin;
        interrupts->m_routes.push_back(entry);
    }
    interrupts->m_next_gsi = layout::first_message_gsi;
    TRY(vm.set_interrupt_routes(interrupts->m_routes));
    TRY(give_to_firmware_what_no_device_has(vm));
    return interrupts;
}

std::unique_ptr<InterruptLine> Interrupts::make_line(uint32_t gsi) {
    return std::make_unique<KvmInterruptLine>(*this, gsi);
}

Result<std::unique_ptr<MessageInterrupts>> Interrupts::make_messages(uint32_t count) {
    std::vector<Fd> events;
    events.reserve(count);
    for (uint32_t i = 0; i < count; ++i)
        events.push_back(TRY(create_event()));
    const std::lock_guard lock(m_mutex);
    const uint32_t first = m_next_gsi;
    m_next_gsi += count;
    return std::make_unique<KvmMessageInterrupts>(*this, first, std::move(events));
}

Result<void> Interrupts::set_message_route(uint32_t gsi, uint64_t address, uint32_t data) {
    kvm_irq_routing_entry entry{};
    entry.gsi = gsi;
    entry.type = KVM_IRQ_ROUTING_MSI;
    entry.u.msi.address_lo = static_cast<uint32_t>(address);
    entry.u.msi.address_hi = static_cast<uint32_t>(address >> 32);
    entry.u.msi.data = data;
    const std::lock_guard lock(m_mutex);
    // KVM takes the table whole or not at all; a guest's bad message must not spoil it for the others.
    std::vector<kvm_irq_routing_entry> routes = m_routes;
    const auto found = std::ranges::find(routes, gsi, &kvm_irq_routing_entry::gsi);
    if (found != routes.end())
        *found = entry;
    else
        routes.push_back(entry);
    TRY(m_vm->set_interrupt_routes(routes));
    m_routes = std::move(routes);
    return {};
}

Result<void> KvmDoorbells::attach(uint64_t address, int event_descriptor) {
    return m_vm->attach_doorbell({.address = address, .length = 0, .port = false}, event_descriptor);
}

void KvmDoorbells::detach(uint64_t address, int event_descriptor) {
    // Attached with the same values, so this cannot fail.
    [[maybe_unused]] const auto done =
        m_vm->detach_doorbell({.address = address, .length = 0, .port = false}, event_descriptor);
}

} // namespace casemate
