// SPDX-License-Identifier: Apache-2.0
// What follows each option of `casemate run`, from text to values with units. Errors are the user's: one line
// that names the option, what was given and what to give.
#pragma once

#include "base/error.hpp"
#include "machine/config.hpp"

#include <chrono>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace casemate {

// "256M", "1G", "65536K": bytes; the unit is required.
Result<uint64_t> parse_memory(std::string_view text);
Result<uint32_t> parse_cpus(std::string_view text);
// A file, and ",ro" or not. Other commas are the name's.
Result<DiskConfig> parse_disk(std::string_view text);
// "tap=tap0,mac=02:00:00:00:00:01,mtu=1400" in any order; the tap is required.
Result<NetConfig> parse_net(std::string_view text);
Result<LockMode> parse_locks(std::string_view text);
Result<std::chrono::seconds> parse_lock_deadline(std::string_view text);
// Empty: auto.
Result<std::vector<ProtectionKind>> parse_protect(std::string_view text);
Result<std::chrono::milliseconds> parse_audit_interval(std::string_view text);
Result<uint64_t> parse_max_violations(std::string_view text);
// Any name but none; `example` is for the message.
Result<std::string> parse_path(const char* option, std::string_view text, const char* example);

} // namespace casemate
