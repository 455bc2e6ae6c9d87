// SPDX-License-Identifier: Apache-2.0
// The casemate command: dispatches to its subcommands.
#include "cli/check.hpp"
#include "cli/run.hpp"
#include "machine/exit_status.hpp"

#include <cstdio>
#include <fcntl.h>
#include <span>
#include <string_view>
#include <unistd.h>

namespace {

constexpr const char* help = "casemate boots Linux guests that can make their own kernel unwritable.\n"
                             "\n"
                             "  casemate run --kernel FILE [OPTION]...   boot a guest\n"
                             "  casemate check [--json]                  what this host's KVM can do\n"
                             "\n"
                             "casemate SUBCOMMAND --help tells more. On a machine without usable KVM,\n"
                             "tools/kvm-host emulates a host that has it.\n";

// A descriptor opened later must never become a standard one by its number.
bool occupy_standard_descriptors() {
    for (int descriptor = STDIN_FILENO; descriptor <= STDERR_FILENO; ++descriptor)
        if (fcntl(descriptor, F_GETFD) < 0 && open("/dev/null", O_RDWR) != descriptor)
            return false;
    return true;
}

} // namespace

int main(int argc, char** argv) {
    const std::span<const char* const> arguments(argv, static_cast<size_t>(argc));
    if (!occupy_standard_descriptors()) {
        std::fputs("casemate: a standard descriptor is closed and /dev/null cannot take its place\n", stderr);
        return casemate::exit_status(casemate::EndReason::host_failure).status;
    }
    const std::string_view command = argc > 1 ? argv[1] : "";
    if (command == "run")
        return casemate::run_command(arguments.subspan(2));
    if (command == "check")
        return casemate::run_check(arguments.subspan(2));
    if (command == "--help" || command == "-h" || command == "help") {
        std::fputs(help, stdout);
        return 0;
    }
    if (command == "--version") {
        std::puts("casemate " CASEMATE_VERSION);
        return 0;
    }
    if (command.empty())
        std::fputs("casemate: no subcommand: give run or check; see casemate --help\n", stderr);
    else
        std::fprintf(stderr, "casemate: unknown subcommand %s: give run or check; see casemate --help\n",
                     argv[1]);
    return casemate::usage_status;
}
