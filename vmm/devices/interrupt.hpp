// SPDX-License-Identifier: Apache-2.0
// Interrupts as devices see them: a pin, or a set of message vectors. The machine implements both with KVM;
// tests count.
#pragma once

#include "base/error.hpp"

#include <cstdint>

namespace casemate {

// A pin of the interrupt controller. Thread-safe.
class InterruptLine {
public:
    InterruptLine() = default;
    InterruptLine(const InterruptLine&) = delete;
    InterruptLine& operator=(const InterruptLine&) = delete;
    virtual ~InterruptLine() = default;
    virtual void set_level(bool level) = 0;
};

// The message vectors of one PCI function (MSI-X). Thread-safe.
class MessageInterrupts {
public:
    MessageInterrupts() = default;
    MessageInterrupts(const MessageInterrupts&) = delete;
    MessageInterrupts& operator=(const MessageInterrupts&) = delete;
    virtual ~MessageInterrupts() = default;

    virtual uint32_t count() const = 0;
    // Where vector `vector` (below count()) delivers from now on: PCI 3.0, 6.8.3 message address and data, as
    // the guest wrote them. A message that is no interrupt goes nowhere.
    virtual void route(uint32_t vector, uint64_t message_address, uint32_t message_data) = 0;
    // Delivers one message.
    virtual void raise(uint32_t vector) = 0;
};

// Registers a guest address whose writes wake a handler on the I/O thread without a vCPU exit. Thread-safe.
class DoorbellRegistry {
public:
    DoorbellRegistry() = default;
    DoorbellRegistry(const DoorbellRegistry&) = delete;
    DoorbellRegistry& operator=(const DoorbellRegistry&) = delete;
    virtual ~DoorbellRegistry() = default;

    // Writes of any width to guest-physical `address` signal `event_descriptor` (an eventfd) from now on.
    virtual Result<void> attach(uint64_t address, int event_descriptor) = 0;
    virtual void detach(uint64_t address, int event_descriptor) = 0;
};

} // namespace casemate
