// SPDX-License-Identifier: Apache-2.0
// ACPI tables: a hardware-reduced machine (ACPI 6.4, 4.1), which needs no SCI, no PM timer and no fixed
// registers but sleep and reset: less to emulate, fewer exits.
#pragma once

#include "base/error.hpp"
#include "memory/guest_memory.hpp"

#include <cstdint>

namespace casemate {

struct AcpiConfig {
    uint32_t cpus = 1; // 1..layout::max_cpus; their APIC ids count from 0
};

// Writes RSDP, XSDT, FADT, MADT, MCFG and DSDT into layout::acpi. Returns where the RSDP is, for the zero
// page.
Result<GuestPhysical> write_acpi_tables(const GuestMemory& memory, const AcpiConfig& config);

} // namespace casemate
