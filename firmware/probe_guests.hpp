// SPDX-License-Identifier: Apache-2.0
// The probe guests: labels inside the position-independent code that probe_guests.S assembles. Each entry's
// registers are documented there.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

extern "C" {
extern const std::byte casemate_probe_code[];
extern const std::byte casemate_probe_store[];
extern const std::byte casemate_probe_store_done[];
extern const std::byte casemate_probe_walk[];
extern const std::byte casemate_probe_vmcall[];
extern const std::byte casemate_probe_vmmcall[];
extern const std::byte casemate_probe_wrmsr[];
extern const std::byte casemate_probe_spin[];
extern const std::byte casemate_probe_speed[];
extern const std::byte casemate_probe_code_end[];
extern const uint16_t casemate_probe_stop_port;

// The speed probe's instruction mix as a host function: works on the 4 KiB at `page`, returns a checksum.
uint64_t casemate_instruction_mix(void* page, uint64_t rounds);
}

namespace casemate {

// What has to be copied into a probe guest's memory.
inline std::span<const std::byte> probe_code() {
    return {casemate_probe_code, static_cast<size_t>(casemate_probe_code_end - casemate_probe_code)};
}

} // namespace casemate
