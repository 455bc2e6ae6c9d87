// SPDX-License-Identifier: Apache-2.0
#include "cli/check.hpp"

#include "base/log.hpp"
#include "cli/standard_output.hpp"
#include "machine/exit_status.hpp"
#include "probe/host_probe.hpp"
#include "probe/render.hpp"

#include <fmt/core.h>
#include <string_view>
#include <unistd.h>

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

} // namespace

int run_check(std::span<const char* const> arguments) {
    bool json = false;
    for (const std::string_view argument : arguments) {
        if (argument == "--help" || argument == "-h")
            return print(help);
        if (argument != "--json") {
            Log(STDERR_FILENO)
                .host(fmt::format("check: unknown option '{}'; see casemate check --help", argument));
            return usage_status;
        }
        json = true;
    }
    const HostReport report = probe_host();
    const int printed = print(json ? render_json(report) : render_table(report));
    return printed == 0 && !is_usable(report) ? exit_status(EndReason::host_failure).status : printed;
}

} // namespace casemate
