// SPDX-License-Identifier: Apache-2.0
// The command line of `casemate run`, turned into a Config.
#pragma once

#include "base/error.hpp"
#include "machine/config.hpp"

#include <optional>
#include <span>
#include <string_view>

namespace casemate {

struct RunOptions {
    Config config;
    bool force = false; // start even on a KVM that is too slow
};

// `arguments` without the program and the subcommand. nullopt: the help is asked for. Errors are usage errors
// of one line. Checks form only, not whether files exist.
Result<std::optional<RunOptions>> parse_run_options(std::span<const char* const> arguments);

// Several lines, for standard output.
std::string_view run_help();

} // namespace casemate
