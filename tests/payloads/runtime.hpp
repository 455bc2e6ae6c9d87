// SPDX-License-Identifier: Apache-2.0
// What every payload stands on: ports, memory-mapped access of every width, the console, PCI configuration, a
// random number generator, and the ways to end the machine. Freestanding.
#pragma once

#include <stddef.h>
#include <stdint.h>

namespace payload {

// The machine's addresses as a guest knows them: from vmm/memory/layout.hpp, or from ACPI for a real guest.
constexpr uint16_t com1 = 0x3f8;
constexpr uint16_t sleep_control = 0x600;
constexpr uint64_t ecam = 0xe0000000;
constexpr uint64_t pci_window = 0xc0000000;
constexpr uint64_t pci_window_bytes = 0x20000000;

inline void out8(uint16_t port, uint8_t value) {
    asm volatile("outb %0, %1" ::"a"(value), "Nd"(port));
}
inline void out16(uint16_t port, uint16_t value) {
    asm volatile("outw %0, %1" ::"a"(value), "Nd"(port));
}
inline void out32(uint16_t port, uint32_t value) {
    asm volatile("outl %0, %1" ::"a"(value), "Nd"(port));
}
inline uint8_t in8(uint16_t port) {
    uint8_t value;
    asm volatile("inb %1, %0" : "=a"(value) : "Nd"(port));
    return value;
}
inline uint16_t in16(uint16_t port) {
    uint16_t value;
    asm volatile("inw %1, %0" : "=a"(value) : "Nd"(port));
    return value;
}
inline uint32_t in32(uint16_t port) {
    uint32_t value;
    asm volatile("inl %1, %0" : "=a"(value) : "Nd"(port));
    return value;
}

// One access of exactly this width, as a plain mov, which KVM can emulate.
template <typename T>
T load(uint64_t address) {
    return *reinterpret_cast<volatile T*>(address);
}
template <typename T>
void store(uint64_t address, T value) {
    *reinterpret_cast<volatile T*>(address) = value;
}

// xorshift64*: the same seed gives the same attack.
class Random {
public:
    explicit Random(uint64_t seed)
        : m_state(seed | 1) {}
    uint64_t next() {
        m_state ^= m_state >> 12;
        m_state ^= m_state << 25;
        m_state ^= m_state >> 27;
        return m_state * 0x2545f4914f6cdd1d;
    }
    uint64_t below(uint64_t limit) { return next() % limit; }
    bool one_in(uint64_t n) { return below(n) == 0; }

private:
    uint64_t m_state;
};

void print(const char* text);
void print_hex(uint64_t value);
// "ok NAME" or "not ok NAME"; the runner counts these.
void report(bool good, const char* name);
[[noreturn]] void power_off();

// Whether the kernel command line holds the word.
bool command_line_has(const char* word);
// The number behind "NAME=", decimal; `fallback` when absent.
uint64_t command_line_number(const char* name, uint64_t fallback);

inline uint64_t config_address(unsigned device, unsigned offset) {
    return ecam + (device << 15) + offset;
}

} // namespace payload

// Each payload defines it; RAM is identity-mapped below 4 GiB.
extern "C" void payload_main();
