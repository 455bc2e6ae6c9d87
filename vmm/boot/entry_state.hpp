// SPDX-License-Identifier: Apache-2.0
// Entry state: how the boot vCPU must look when it enters a 64-bit kernel.
// linux v6.12 Documentation/arch/x86/boot.rst "64-bit BOOT PROTOCOL".
#pragma once

#include "base/error.hpp"
#include "kvm/uapi.hpp"
#include "memory/guest_memory.hpp"

namespace casemate {

// Writes layout::boot_gdt and layout::boot_tables, which the registers below point at.
Result<void> write_entry_tables(const GuestMemory& memory);

// General registers: interrupts off, RSI = zero page, RIP = `entry`, all else 0.
kvm_regs entry_registers(GuestPhysical entry);

// Puts long mode, flat segments and the identity map of 4 GiB into what KVM_GET_SREGS gave for a fresh vCPU;
// the rest (local APIC base) stays.
void set_entry_state(kvm_sregs& registers);

} // namespace casemate
