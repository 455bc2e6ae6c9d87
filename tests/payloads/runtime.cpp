// SPDX-License-Identifier: Apache-2.0
#include "runtime.hpp"

extern "C" {
// The compiler may call these even in a freestanding program.
void* memset(void* destination, int value, size_t count) {
    auto* out = static_cast<unsigned char*>(destination);
    for (size_t i = 0; i < count; ++i)
        out[i] = static_cast<unsigned char>(value);
    return destination;
}
void* memcpy(void* destination, const void* source, size_t count) {
    auto* out = static_cast<unsigned char*>(destination);
    const auto* in = static_cast<const unsigned char*>(source);
    for (size_t i = 0; i < count; ++i)
        out[i] = in[i];
    return destination;
}
extern const unsigned char exception_stubs[];
void install_exception_handlers(const unsigned char* boot_params);
void report_exception(uint64_t vector, uint64_t error, uint64_t rip, uint64_t cr2);
}

namespace payload {
namespace {

struct [[gnu::packed]] Gate {
    uint16_t offset_low;
    uint16_t selector;
    uint16_t attributes;
    uint16_t offset_middle;
    uint32_t offset_high;
    uint32_t reserved;
};
static_assert(sizeof(Gate) == 16);

struct [[gnu::packed]] TablePointer {
    uint16_t limit;
    uint64_t base;
};

Gate gates[32];
const char* command_line = "";

bool starts_with(const char* text, const char* prefix) {
    for (; *prefix != 0; ++text, ++prefix)
        if (*text != *prefix)
            return false;
    return true;
}

// The first word of the command line that starts with `prefix`, behind the prefix; null when there is none.
const char* find_word(const char* prefix) {
    for (const char* at = command_line; *at != 0; ++at)
        if ((at == command_line || at[-1] == ' ') && starts_with(at, prefix)) {
            while (*prefix++ != 0)
                ++at;
            return at;
        }
    return nullptr;
}

} // namespace

void print(const char* text) {
    for (; *text != 0; ++text) {
        while ((in8(com1 + 5) & 0x20) == 0) {
        }
        out8(com1, static_cast<uint8_t>(*text));
    }
}

void print_hex(uint64_t value) {
    char text[19] = "0x0000000000000000";
    for (int i = 17; i > 1; --i, value >>= 4)
        text[i] = "0123456789abcdef"[value & 15];
    print(text);
}

void report(bool good, const char* name) {
    print(good ? "ok " : "not ok ");
    print(name);
    print("\n");
}

void power_off() {
    // SLP_EN and the S5 type that the DSDT's \_S5 names.
    for (;;)
        out8(sleep_control, 0x20 | (5 << 2));
}

bool command_line_has(const char* word) {
    const char* const end = find_word(word);
    return end != nullptr && (*end == 0 || *end == ' ');
}

uint64_t command_line_number(const char* name, uint64_t fallback) {
    const char* at = find_word(name);
    if (at == nullptr || *at != '=')
        return fallback;
    uint64_t value = 0;
    for (++at; *at >= '0' && *at <= '9'; ++at)
        value = value * 10 + static_cast<uint64_t>(*at - '0');
    return value;
}

} // namespace payload

void install_exception_handlers(const unsigned char* boot_params) {
    using namespace payload;
    // Linux x86 boot protocol: hdr.cmd_line_ptr.
    command_line = reinterpret_cast<const char*>(
        static_cast<uint64_t>(*reinterpret_cast<const uint32_t*>(boot_params + 0x228)));
    for (unsigned vector = 0; vector < 32; ++vector) {
        const auto handler = reinterpret_cast<uint64_t>(exception_stubs + 16UL * vector);
        gates[vector] = {.offset_low = static_cast<uint16_t>(handler),
                         .selector = 0x10, // __BOOT_CS
                         .attributes = 0x8e00,
                         .offset_middle = static_cast<uint16_t>(handler >> 16),
                         .offset_high = static_cast<uint32_t>(handler >> 32),
                         .reserved = 0};
    }
    const TablePointer pointer{sizeof(gates) - 1, reinterpret_cast<uint64_t>(gates)};
    asm volatile("lidt %0" ::"m"(pointer));
}

void report_exception(uint64_t vector, uint64_t error, uint64_t rip, uint64_t cr2) {
    using namespace payload;
    print("not ok exception ");
    print_hex(vector);
    print(" error ");
    print_hex(error);
    print(" rip ");
    print_hex(rip);
    print(" cr2 ");
    print_hex(cr2);
    print("\n");
    power_off();
}
