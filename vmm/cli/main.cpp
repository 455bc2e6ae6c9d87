// SPDX-License-Identifier: Apache-2.0
// casemate: hands the command line to the subcommand.
#include "cli/check.hpp"

#include <fmt/core.h>
#include <string_view>

int main(int argc, char** argv) {
    const std::span<const char* const> arguments(argv, static_cast<size_t>(argc));
    if (arguments.size() >= 2 && std::string_view(arguments[1]) == "check")
        return casemate::run_check(arguments.subspan(2));
    fmt::print(stderr, "casemate: no such command; try casemate check --help\n");
    return 2;
}
