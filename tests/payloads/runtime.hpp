// SPDX-License-Identifier: Apache-2.0
// What every payload stands on: ports, memory-mapped access of every width, the console, PCI configuration, a
// random number generator, exceptions that can be caught, a second CPU, and the ways to end the machine.
// Freestanding.
#pragma once

#include <stddef.h>
#include <stdint.h>

extern "C" {
void* memset(void* destination, int value, size_t count);
void* memcpy(void* destination, const void* source, size_t count);
}

namespace payload {

// The machine's addresses as a guest knows them: from vmm/memory/layout.hpp, or from ACPI for a real guest.
constexpr uint16_t com1 = 0x3f8;
constexpr uint16_t sleep_control = 0x600;
constexpr uint16_t reset_control = 0xcf9;
constexpr uint64_t ecam = 0xe0000000;
constexpr uint64_t pci_window = 0xc0000000;
constexpr uint64_t pci_window_bytes = 0x20000000;
constexpr uint64_t local_apic = 0xfee00000;
constexpr uint64_t page_bytes = 4096;

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
void print_decimal(int64_t value);
// "ok NAME" or "not ok NAME"; the runner counts these.
void report(bool good, const char* name);
[[noreturn]] void power_off();

// Whether the kernel command line holds the word.
bool command_line_has(const char* word);
// The number behind "NAME=", decimal; `fallback` when absent.
uint64_t command_line_number(const char* name, uint64_t fallback);
// Whether the command line has "NAME=" and what is behind it up to the next blank is `value`.
bool command_line_is(const char* name, const char* value);
bool command_line_names(const char* name);

bool equal(const char* a, const char* b);

// The end of RAM below the hole at 3 GiB, from the e820 map.
uint64_t ram_end();

inline uint64_t config_address(unsigned device, unsigned offset) {
    return ecam + (device << 15) + offset;
}

// --- the CPU ---

struct Cpuid {
    uint32_t eax, ebx, ecx, edx;
};
inline Cpuid cpuid(uint32_t leaf, uint32_t subleaf = 0) {
    Cpuid out{};
    asm volatile("cpuid"
                 : "=a"(out.eax), "=b"(out.ebx), "=c"(out.ecx), "=d"(out.edx)
                 : "a"(leaf), "c"(subleaf));
    return out;
}
inline uint64_t read_msr(uint32_t msr) {
    uint32_t low;
    uint32_t high;
    asm volatile("rdmsr" : "=a"(low), "=d"(high) : "c"(msr));
    return uint64_t{high} << 32 | low;
}
inline void write_msr(uint32_t msr, uint64_t value) {
    asm volatile("wrmsr" ::"c"(msr), "a"(static_cast<uint32_t>(value)),
                 "d"(static_cast<uint32_t>(value >> 32))
                 : "memory");
}
inline uint64_t time_stamp() {
    uint32_t low;
    uint32_t high;
    asm volatile("rdtsc" : "=a"(low), "=d"(high));
    return uint64_t{high} << 32 | low;
}
// Bochs holds the host's interrupts back after a VM entry with IF=0 until the guest writes IF. Without this,
// a loop that waits for another CPU keeps that CPU's thread from ever running.
inline void let_host_interrupt() {
    asm volatile("cli");
}
inline void pause() {
    let_host_interrupt();
    asm volatile("pause" ::: "memory");
}
void spin(uint64_t rounds);

constexpr uint64_t cr0_wp = 1 << 16;
inline uint64_t read_cr0() {
    uint64_t value;
    asm volatile("mov %%cr0, %0" : "=r"(value));
    return value;
}
inline void write_cr0(uint64_t value) {
    asm volatile("mov %0, %%cr0" ::"r"(value) : "memory");
}
inline uint64_t read_cr3() {
    uint64_t value;
    asm volatile("mov %%cr3, %0" : "=r"(value));
    return value;
}
inline void write_cr3(uint64_t value) {
    asm volatile("mov %0, %%cr3" ::"r"(value) : "memory");
}

// What XCR0 takes on this CPU of x87, SSE, AVX and AVX-512; 0 without XSAVE. enable_extensions() sets it.
uint64_t supported_xcr0();
// x87, SSE, and with XSAVE all of supported_xcr0(), for the CPU that calls.
void enable_extensions();

// --- exceptions ---

constexpr uint64_t vector_invalid_opcode = 6;
constexpr uint64_t vector_general_protection = 13;
constexpr uint64_t vector_page_fault = 14;
constexpr uint64_t vector_leave_ring3 = 0x80;

struct Caught {
    bool happened = false;
    uint64_t vector = 0;
    uint64_t error = 0;
    uint64_t rip = 0;
    uint64_t cr2 = 0;
    uint64_t rax = 0;
};

// Calls function(argument). An exception in it, also in ring 3, ends it there: destructors do not run.
Caught catch_exceptions(void (*function)(void*), void* argument);
template <typename Function>
Caught catch_exceptions(Function function) {
    return catch_exceptions([](void* argument) { (*static_cast<Function*>(argument))(); }, &function);
}

constexpr unsigned exception_stack_bytes = 16384;
// Where the CPU takes its next exceptions: on the stack of the CPU's TSS (the default), on the current one,
// or on one whose top is given.
void use_exception_stack(uint64_t top);
void use_current_stack_for_exceptions();
void use_own_exception_stack();

// Ring 3 needs tables with user access; see page_tables.hpp. Ends by an exception or int $0x80.
Caught run_in_ring3(void (*function)(uint64_t, uint64_t), uint64_t first, uint64_t second);
// The stack that exceptions of ring 3 without a stack of their own take.
void set_ring0_stack(uint64_t top);

extern "C" void call_on_stack(void (*function)(void*), void* argument, uint64_t top);

// --- the second CPU ---

void enable_local_apic();
// Sends INIT and start-up to APIC id 1, which then runs function(argument) with exceptions caught as on CPU
// 0, and halts when it returns. False when it does not come up. May be called again.
bool start_second_cpu(void (*function)(void*), void* argument);
// Whether the function has returned.
bool second_cpu_is_done();

} // namespace payload

// Each payload defines it; RAM is identity-mapped below 4 GiB.
extern "C" void payload_main();
