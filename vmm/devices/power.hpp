// SPDX-License-Identifier: Apache-2.0
// Power: the registers by which a guest ends itself, and the button by which the user asks it to.
#pragma once

#include "devices/byte_device.hpp"
#include "devices/interrupt.hpp"
#include "devices/one_shot.hpp"

#include <atomic>

namespace casemate {

// Sleep control and status registers of hardware-reduced ACPI, at offsets 0 and 1: ACPI 6.4, 4.8.3.7.
class SleepRegisters final : public ByteDevice {
public:
    // `soft_off_type` is the SLP_TYP value that the ACPI tables give for _S5. `power_off` runs once, on a
    // vCPU's thread. Other sleep types are ignored: the tables offer none.
    SleepRegisters(uint8_t soft_off_type, std::function<void()> power_off)
        : m_soft_off_type(soft_off_type)
        , m_power_off(std::move(power_off)) {}

private:
    uint8_t read_register(uint64_t offset) override;
    void write_register(uint64_t offset, uint8_t value) override;

    const uint8_t m_soft_off_type;
    std::atomic<uint8_t> m_sleep_type = 0;
    OneShot m_power_off;
};

// The reset control register of PC chipsets at port 0xcf9, which the FADT names as RESET_REG.
class ResetControl final : public ByteDevice {
public:
    // `reset` runs once, on a vCPU's thread.
    explicit ResetControl(std::function<void()> reset)
        : m_reset(std::move(reset)) {}

private:
    uint8_t read_register(uint64_t) override { return m_kind; }
    void write_register(uint64_t, uint8_t value) override;

    std::atomic<uint8_t> m_kind = 0;
    OneShot m_reset;
};

// What is left of the PC's keyboard controller: its command port, for the reset line that it drives.
class KeyboardController final : public ByteDevice {
public:
    // `reset` runs once, on a vCPU's thread.
    explicit KeyboardController(std::function<void()> reset)
        : m_reset(std::move(reset)) {}

private:
    uint8_t read_register(uint64_t) override;
    void write_register(uint64_t, uint8_t command) override;

    OneShot m_reset;
};

class PowerButton {
public:
    // The line must be edge triggered and outlive the button.
    explicit PowerButton(InterruptLine& line)
        : m_line(line) {}

    // Any thread. Asks the guest to shut down; what it makes of that is its own affair.
    void press() {
        m_line.set_level(true);
        m_line.set_level(false);
    }

private:
    InterruptLine& m_line;
};

} // namespace casemate
