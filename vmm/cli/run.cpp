// SPDX-License-Identifier: Apache-2.0
#include "cli/run.hpp"

#include "base/event_loop.hpp"
#include "base/log.hpp"
#include "cli/run_options.hpp"
#include "cli/terminal_guard.hpp"
#include "devices/console.hpp"
#include "devices/terminal.hpp"
#include "kvm/system.hpp"
#include "machine/exit_status.hpp"
#include "machine/machine.hpp"
#include "probe/host_probe.hpp"
#include "probe/speed.hpp"

#include <algorithm>
#include <array>
#include <cerrno>
#include <chrono>
#include <csignal>
#include <fmt/core.h>
#include <poll.h>
#include <string_view>
#include <sys/signalfd.h>
#include <unistd.h>

namespace casemate {
namespace {

constexpr std::array ending_signals{SIGINT, SIGTERM};

// Blocks the signals that ask to end in every thread made from here on, to take them from a descriptor.
Result<Fd> take_ending_signals() {
    sigset_t set;
    sigemptyset(&set);
    for (const int number : ending_signals)
        sigaddset(&set, number);
    pthread_sigmask(SIG_BLOCK, &set, nullptr);
    Fd fd(signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK));
    if (!fd)
        return fail(Error::system("signalfd", errno));
    return fd;
}

// Until the machine has ended, on a thread that does nothing else: the first request goes to the guest, the
// second does not ask it.
void serve_end_requests(const Fd& signals, Machine& machine, const Log& log) {
    std::array waited{pollfd{.fd = machine.ended(), .events = POLLIN, .revents = 0},
                      pollfd{.fd = signals.get(), .events = POLLIN, .revents = 0}};
    unsigned seen = 0;
    while (waited[0].revents == 0) {
        poll(waited.data(), waited.size(), -1);
        signalfd_siginfo info{};
        while (read(signals.get(), &info, sizeof(info)) == sizeof(info)) {
            if (seen++ == 0) {
                machine.press_power_button();
                log.host("power button pressed; another signal ends the guest at once");
            } else {
                machine.end({EndReason::host_request, "ended by a second signal"});
            }
        }
    }
}

// For what the guest has printed, when it was ended by request.
constexpr std::chrono::milliseconds last_words_time{500};

// A KVM without hardware virtualization would take hours to boot Linux, without a word.
Result<void> insist_on_speed(const RunOptions& options) {
    if (options.force || hardware_kind() != KvmKind::software)
        return {};
    const System system = TRY(System::open());
    const SpeedReport speed = probe_speed_at_start(system);
    if (speed.useful)
        return {};
    return fail(
        Error(speed.ratio ? fmt::format("this KVM runs guest code {:.0f} times slower than the processor, "
                                        "too slow to boot Linux",
                                        *speed.ratio)
                          : std::string("this KVM is too slow to boot Linux"))
            .hint("tools/kvm-host emulates a faster host, --force goes on; casemate check tells more"));
}

Result<MachineEnd> run_machine(const RunOptions& options, const Log& log) {
    TRY(insist_on_speed(options));
    const Fd signals = TRY(take_ending_signals());
    const auto loop = TRY(EventLoop::create());
    Terminal terminal(STDIN_FILENO);
    const TerminalGuard guard(terminal.modes());

    std::unique_ptr<Machine> machine;
    const auto console = TRY(
        Console::create(*loop, terminal, log,
                        {.quit = [&machine] { machine->end({EndReason::host_request, "ended by Ctrl-A x"}); },
                         .press_power_button = [&machine] { machine->press_power_button(); }}));
    machine = TRY(Machine::create(options.config, log, *loop, *console));

    TRY(console->start(machine->serial()));
    TRY(machine->start());
    serve_end_requests(signals, *machine, log);
    MachineEnd end = machine->wait();
    // Who has asked twice does not wait for the console's reader, and who asks now has waited enough.
    if (end.reason == EndReason::host_request)
        console->finish(last_words_time);
    else
        console->finish(std::chrono::hours(1), signals.get());
    return end;
}

} // namespace

int run_command(std::span<const char* const> arguments) {
    const Log log(STDERR_FILENO);
    const auto options = parse_run_options(arguments);
    if (!options) {
        log.host(options.error().message());
        return usage_status;
    }
    const std::optional<RunOptions>& run = *options;
    if (!run)
        return 0;
    const auto end = run_machine(*run, log);
    if (!end) {
        log.host(end.error().message());
        return end.error().blame() == Blame::usage ? usage_status
                                                   : exit_status(EndReason::host_failure).status;
    }
    if (!end->detail.empty())
        log.host(end->detail);
    for (std::string_view rest = end->report; !rest.empty();) {
        const std::string_view line = rest.substr(0, rest.find('\n'));
        log.host(line);
        rest.remove_prefix(std::min(rest.size(), line.size() + 1));
    }
    return exit_status(end->reason).status;
}

} // namespace casemate
