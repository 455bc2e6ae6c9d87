// SPDX-License-Identifier: Apache-2.0
// The command line of `casemate run`, turned into a Config.
#pragma once

#include "base/error.hpp"
#include "machine/config.hpp"

#include <optional>
#include <span>

namespace casemate {

struct RunOptions {
    Config config;
    bool force = false; // start even on a KVM that is too slow
};

// `arguments` without the program and the subcommand. nullopt: the help was asked for and printed to stdout.
// Errors are usage errors of one line. Checks form only, not whether files exist.
Result<std::optional<RunOptions>> parse_run_options(std::span<const char* const> arguments);

// "256M", "1G", "65536K": a whole number of KiB, MiB, GiB or TiB; the unit is required.
Result<uint64_t> parse_size(std::string_view text);

} // namespace casemate
