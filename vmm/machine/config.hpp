// SPDX-License-Identifier: Apache-2.0
// Config: everything a Machine is made from. Text ends before this: values have units and are checked.
#pragma once

#include "base/units.hpp"

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
};

enum class LockMode {
    allowed,  // the guest may lock its memory
    required, // and the machine ends when it does not in time
    off,      // the guest is not told that it could
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
    std::chrono::seconds lock_deadline{60}; // from start to the seal, when locks are required
    uint64_t max_violations = 0;            // 0: no limit
    std::string events_path;                // empty: none
    std::string symbols_path;               // empty: none
};

} // namespace casemate
