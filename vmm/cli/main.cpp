// SPDX-License-Identifier: Apache-2.0
// The casemate command: dispatches to its subcommands.
#include "base/log.hpp"
#include "cli/check.hpp"
#include "cli/run.hpp"
#include "cli/standard_output.hpp"
#include "cli/terminal_guard.hpp"
#include "machine/exit_status.hpp"

#include <fmt/core.h>
#include <malloc.h>
#include <new>
#include <span>
#include <string_view>
#include <unistd.h>

namespace {

using namespace casemate;

constexpr std::string_view help = "casemate boots Linux guests that can make their own kernel unwritable.\n"
                                  "\n"
                                  "  casemate run --kernel FILE [OPTION]...   boot a guest\n"
                                  "  casemate check [--json]                  what this host's KVM can do\n"
                                  "\n"
                                  "casemate SUBCOMMAND --help tells more. On a machine without usable KVM,\n"
                                  "tools/kvm-host of Casemate's source emulates a host that has it.\n";

// On any thread; allocates nothing.
[[noreturn]] void out_of_memory() {
    constexpr std::string_view message = "casemate: no memory for the monitor itself: free some, or raise "
                                         "the limits on it (ulimit -v, ulimit -d, the cgroup's)\n";
    TerminalGuard::restore_terminal();
    [[maybe_unused]] const ssize_t written = write(STDERR_FILENO, message.data(), message.size());
    _exit(exit_status(EndReason::host_failure).status);
}

int refuse(const std::string& message) {
    Log(STDERR_FILENO).host(message);
    return usage_status;
}

} // namespace

int main(int argc, char** argv) {
    std::set_new_handler(out_of_memory);
    const std::span<const char* const> arguments(argv, static_cast<size_t>(argc));
    // One heap for all threads: they allocate little, and each heap keeps pages of its own.
    mallopt(M_ARENA_MAX, 1);
    if (!occupy_standard_descriptors()) {
        Log(STDERR_FILENO).host("a standard descriptor is closed and /dev/null cannot take its place");
        return exit_status(EndReason::host_failure).status;
    }
    const std::string_view command = argc > 1 ? argv[1] : "";
    if (command == "run")
        return run_command(arguments.subspan(2));
    if (command == "check")
        return run_check(arguments.subspan(2));
    const bool asks_version = command == "--version";
    if (!asks_version && command != "--help" && command != "-h" && command != "help")
        return refuse(
            argc < 2
                ? "no subcommand: give run or check; see casemate --help"
                : fmt::format("unknown subcommand '{}': give run or check; see casemate --help", command));
    if (argc > 2)
        return refuse(
            fmt::format("unexpected argument '{}' after {}; see casemate --help", argv[2], command));
    return print(asks_version ? "casemate " CASEMATE_VERSION "\n" : help);
}
