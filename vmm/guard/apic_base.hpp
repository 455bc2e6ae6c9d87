// SPDX-License-Identifier: Apache-2.0
// APIC base: where a vCPU's local APIC lies, and what the guest may change about that. KVM offers the APIC
// each store that it emulates before memory gets it, so over a locked page it would swallow stores unseen.
#pragma once

#include "memory/layout.hpp"

#include <cstdint>

namespace casemate {

inline constexpr uint32_t apic_base_msr = 0x1b;

// SDM Vol. 3A, 11.4.4 and 11.12.1.
inline constexpr uint64_t apic_base_boot_cpu = 1U << 8U;
inline constexpr uint64_t apic_base_x2apic = 1U << 10U;
inline constexpr uint64_t apic_base_enable = 1U << 11U;

// Whether it lies where no RAM is.
constexpr bool is_apic_in_place(uint64_t base) {
    constexpr uint64_t low_bits = 0xfff;
    return (base & ~low_bits) == layout::local_apic.start.value;
}

// Whether the guest may write `wanted` over `now`: another mode, by the transitions of SDM Vol. 3A, 11.12.5
// (figure 11-27), and nothing else.
constexpr bool may_write_apic_base(uint64_t now, uint64_t wanted) {
    constexpr uint64_t mode = apic_base_x2apic | apic_base_enable;
    if (((now ^ wanted) & ~mode) != 0 || !is_apic_in_place(wanted))
        return false;
    const bool was_enabled = (now & apic_base_enable) != 0;
    const bool was_x2apic = (now & apic_base_x2apic) != 0;
    switch (wanted & mode) {
    case 0:
        return true;
    case apic_base_enable:
        return !was_x2apic;
    case mode:
        return was_enabled;
    default:
        return false;
    }
}

} // namespace casemate
