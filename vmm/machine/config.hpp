// SPDX-License-Identifier: Apache-2.0
// Config: everything a Machine is made from. Text ends before this: values have units and are checked.
#pragma once

#include "base/units.hpp"
#include "guard/make_protection.hpp"

#include <array>
#include <chrono>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace casemate {

struct DiskConfig {
    std::string path;
    bool read_only = false;
};

struct NetConfig {
    std::string tap;                           // name of an existing tap interface
    std::optional<std::array<uint8_t, 6>> mac; // chosen at random when absent
    std::optional<uint16_t> mtu;               // bytes; the tap's when absent
};

enum class LockMode {
    allowed,  // the guest may lock what it likes
    required, // it must lock its text and seal before the deadline, or the machine ends
    off,      // the guest finds no Casemate, and its calls are refused
};
// "allowed", "required", "off": as --locks takes them.
const char* name_of(LockMode mode);

struct Config {
    std::string kernel;
    std::string initrd; // empty: none
    std::string command_line = "console=ttyS0";
    uint64_t memory_bytes = 256_MiB;
    uint32_t cpus = 1;
    std::vector<DiskConfig> disks;
    std::vector<NetConfig> nets;
    LockMode locks = LockMode::allowed;
    std::chrono::seconds lock_deadline{60}; // from the start; for LockMode::required
    std::vector<ProtectionKind> protect;    // layers, all different; empty: what the host does best
    std::string events_path;                // empty: none; "-": stderr
    std::string symbols_path;               // empty: none
    std::chrono::milliseconds audit_interval{
        100};                    // between looks at the registers of a sealed guest; 0: none
    uint64_t max_violations = 0; // end the machine at this many; 0: never
};

} // namespace casemate
