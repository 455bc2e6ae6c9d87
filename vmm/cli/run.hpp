// SPDX-License-Identifier: Apache-2.0
// `casemate run`: boots a guest with its console on this terminal.
#pragma once

#include <span>

namespace casemate {

// `arguments` without the program and the subcommand. Returns the process's exit status (exit_status.hpp).
int run_command(std::span<const char* const> arguments);

} // namespace casemate
