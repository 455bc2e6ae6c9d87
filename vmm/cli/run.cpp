// SPDX-License-Identifier: Apache-2.0
#include "cli/run.hpp"

#include "base/event_loop.hpp"
#include "base/log.hpp"
#include "cli/end_requests.hpp"
#include "cli/run_options.hpp"
#include "cli/standard_output.hpp"
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

// Blocks the signals that ask to end in every thread made from here on, to take them from a descriptor.
Result<Fd> take_ending_signals() {
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGINT);
    sigaddset(&set, SIGTERM);
    // nohup(1): the guest is to outlive the terminal.
    struct sigaction hang_up{};
    if (sigaction(SIGHUP, nullptr, &hang_up) == 0 && hang_up.sa_handler != SIG_IGN)
        sigaddset(&set, SIGHUP);
    pthread_sigmask(SIG_BLOCK, &set, nullptr);
    Fd fd(signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK));
    if (!fd)
        return fail(Error::system("signalfd", errno));
    return fd;
}

// Until the machine has ended, on a thread that does nothing else.
void serve_end_requests(const Fd& signals, Machine& machine, const Log& log) {
    std::array waited{pollfd{.fd = machine.ended(), .events = POLLIN, .revents = 0},
                      pollfd{.fd = signals.get(), .events = POLLIN, .revents = 0}};
    EndRequests requests;
    while (waited[0].revents == 0) {
        const auto patience = requests.patience(EndRequests::Clock::now());
        if (patience == std::chrono::milliseconds(0)) {
            machine.end({EndReason::host_request,
                         fmt::format("the terminal is gone, and the guest has not powered off in {} s",
                                     EndRequests::hang_up_time.count())});
            return;
        }
        poll(waited.data(), waited.size(), patience ? static_cast<int>(patience->count()) : -1);
        signalfd_siginfo info{};
        while (read(signals.get(), &info, sizeof(info)) == sizeof(info)) {
            switch (requests.take(static_cast<int>(info.ssi_signo), EndRequests::Clock::now())) {
            case EndRequests::Step::none:
                break;
            case EndRequests::Step::press_power_button:
                machine.press_power_button();
                log.host("power button pressed; SIGTERM or SIGINT now ends the guest at once");
                break;
            case EndRequests::Step::end:
                machine.end({EndReason::host_request, "ended by a second signal"});
                break;
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
            .hint(
                "give --force to go on, or use tools/kvm-host of Casemate's source, which emulates a faster "
                "host; casemate check tells more"));
}

struct RunEnd {
    MachineEnd machine;
    Console::Loss console_lost;
};

Result<RunEnd> run_machine(const RunOptions& options, const Log& log) {
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
    return RunEnd{.machine = std::move(end), .console_lost = console->loss()};
}

// Says how it ended, in lines, and what is missing of what was asked for. Returns the exit status.
int report(const RunEnd& end, const Log& log) {
    const MachineEnd& machine = end.machine;
    if (!machine.detail.empty())
        log.host(machine.detail);
    for (std::string_view rest = machine.report; !rest.empty();) {
        const std::string_view line = rest.substr(0, rest.find('\n'));
        log.host(line);
        rest.remove_prefix(std::min(rest.size(), line.size() + 1));
    }
    if (end.console_lost.bytes != 0)
        log.host(fmt::format("console: {} bytes of the guest's output are lost: {}", end.console_lost.bytes,
                             end.console_lost.why));
    if (machine.events_lost.events != 0)
        log.host(fmt::format("events: {} are lost: {}", machine.events_lost.events, machine.events_lost.why));
    const bool record_complete =
        end.console_lost.bytes == 0 && machine.events_lost.events == 0 && log.lost() == 0;
    return process_status(machine.reason, record_complete);
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
        return print(run_help());
    const auto end = run_machine(*run, log);
    if (!end) {
        log.host(end.error().message());
        return end.error().blame() == Blame::usage ? usage_status
                                                   : exit_status(EndReason::host_failure).status;
    }
    return report(*end, log);
}

} // namespace casemate
