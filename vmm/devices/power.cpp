// SPDX-License-Identifier: Apache-2.0
#include "devices/power.hpp"

namespace casemate {
namespace {

// ACPI 6.4, 4.8.3.7, "Sleep Control and Status Registers".
constexpr unsigned sleep_type_shift = 2;
constexpr uint8_t sleep_type_mask = 0x7 << sleep_type_shift;
constexpr uint8_t sleep_enable = 1 << 5; // write-only

// Intel I/O Controller Hub datasheets, "RST_CNT, Reset Control Register": bit 1 chooses hard or soft reset,
// the rise of bit 2 resets. Linux writes 2, then 6; firmware writes the FADT's RESET_VALUE at once.
constexpr uint8_t reset_kind_mask = 0x0a;
constexpr uint8_t reset_cpu = 1 << 2;

// IBM PC AT Technical Reference, 8042 status register. Bits 0 and 1, both buffers empty, must stay clear:
// guests wait for that before they send a command.
constexpr uint8_t status_system_flag = 1 << 2;
constexpr uint8_t status_not_inhibited = 1 << 4;
constexpr uint8_t command_pulse_reset = 0xfe;

} // namespace

uint8_t SleepRegisters::read_register(uint64_t offset) {
    // Status: WAK_STS stays clear, as nothing ever wakes.
    return offset == 0 ? m_sleep_type.load() : 0;
}

void SleepRegisters::write_register(uint64_t offset, uint8_t value) {
    if (offset != 0)
        return;
    m_sleep_type = value & sleep_type_mask;
    if ((value & sleep_enable) != 0 && (value & sleep_type_mask) >> sleep_type_shift == m_soft_off_type)
        m_power_off();
}

void ResetControl::write_register(uint64_t, uint8_t value) {
    m_kind = value & reset_kind_mask;
    if ((value & reset_cpu) != 0)
        m_reset();
}

uint8_t KeyboardController::read_register(uint64_t) {
    return status_system_flag | status_not_inhibited;
}

void KeyboardController::write_register(uint64_t, uint8_t command) {
    if (command == command_pulse_reset)
        m_reset();
}

} // namespace casemate
