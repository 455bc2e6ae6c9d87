// SPDX-License-Identifier: Apache-2.0
#include "cli/check.hpp"

#include "probe/host_probe.hpp"
#include "probe/render.hpp"

#include <cstdio>
#include <fmt/core.h>
#include <string_view>

namespace casemate {
namespace {

constexpr const char* help =
    R"(Usage: casemate check [--json]

Tries out in small throwaway virtual machines what this host's KVM can do, and says what that means for
guests and their locks. Takes a few seconds at most and changes nothing.

  --json    print one JSON object instead of the table
  --help    print this

Exit status: 0 guests can be run here, 1 they cannot, 2 bad option.

Example: choose how to test by what the host offers
  casemate check --json | jq -r '.protection, .tables'
)";

// False when not all of it could be written; stdout is closed by the caller of main.
bool print(std::string_view text) {
    return std::fwrite(text.data(), 1, text.size(), stdout) == text.size() && std::fflush(stdout) == 0;
}

} // namespace

int run_check(std::span<const char* const> arguments) {
    bool json = false;
    for (const std::string_view argument : arguments) {
        if (argument == "--help" || argument == "-h")
            return print(help) ? 0 : 1;
        if (argument != "--json") {
            fmt::print(stderr, "casemate: check: unknown option '{}'; see casemate check --help\n", argument);
            return 2;
        }
        json = true;
    }
    const HostReport report = probe_host();
    if (!print(json ? render_json(report) : render_table(report))) {
        fmt::print(stderr, "casemate: check: cannot write the report to standard output\n");
        return 1;
    }
    return is_usable(report) ? 0 : 1;
}

} // namespace casemate
