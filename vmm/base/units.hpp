// SPDX-License-Identifier: Apache-2.0
// Units: byte-size literals and the guest address types that never convert into each other.
#pragma once

#include <compare>
#include <cstdint>
#include <string>

namespace casemate {

constexpr uint64_t operator""_KiB(unsigned long long n) {
    return n << 10;
}
constexpr uint64_t operator""_MiB(unsigned long long n) {
    return n << 20;
}
constexpr uint64_t operator""_GiB(unsigned long long n) {
    return n << 30;
}

constexpr uint64_t page_bytes = 4_KiB;

// `alignment` is a power of two. Callers make sure that value + alignment cannot wrap.
constexpr uint64_t align_up(uint64_t value, uint64_t alignment) {
    return (value + alignment - 1) & ~(alignment - 1);
}
constexpr uint64_t align_down(uint64_t value, uint64_t alignment) {
    return value & ~(alignment - 1);
}
constexpr bool is_aligned(uint64_t value, uint64_t alignment) {
    return (value & (alignment - 1)) == 0;
}

// A guest-physical address in bytes. No arithmetic: ranges come from GuestRange, which checks for wrap.
struct GuestPhysical {
    uint64_t value = 0;
    constexpr auto operator<=>(const GuestPhysical&) const = default;
};

// A guest linear (virtual) address in bytes.
struct GuestLinear {
    uint64_t value = 0;
    constexpr auto operator<=>(const GuestLinear&) const = default;
};

// "gpa:0x1000" and "gla:0xffffffff81000000": the one way such addresses are printed.
std::string to_string(GuestPhysical address);
std::string to_string(GuestLinear address);
// "64 MiB", "5 GiB", "4097 bytes": the largest binary unit that divides the size.
std::string format_bytes(uint64_t bytes);

} // namespace casemate
