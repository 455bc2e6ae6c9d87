// SPDX-License-Identifier: Apache-2.0
#include "cli/run_options.hpp"

#include "cli/option_values.hpp"

#include <algorithm>
#include <array>
#include <bitset>
#include <fmt/core.h>
#include <getopt.h>
#include <string>
#include <vector>

namespace casemate {
namespace {

constexpr std::string_view help_text =
    R"(Usage: casemate run --kernel FILE [OPTION]...

Boots a Linux guest with its serial console on this terminal.

  --kernel FILE             vmlinux or bzImage
  --initrd FILE             initial RAM disk
  --cmdline TEXT            kernel command line (default: console=ttyS0)
  --memory SIZE             RAM with its unit, 16M or more (default: 256M)
  --cpus N                  virtual CPUs, 1 to 32 (default: 1)
  --disk FILE[,ro]          raw file or block device as a virtio disk; repeatable
  --net tap=IF[,mac=M][,mtu=N]
                            virtio network device on an existing tap interface, with an
                            address (default: random) and an MTU, 68 to 65535 (default: the
                            tap's); repeatable
  --locks MODE              the guest's locks are allowed, required or off (default: allowed)
  --lock-deadline SECONDS   how long --locks required waits for them, 1 to 3600 (default: 60)
  --protect HOW             attributes: KVM's memory attributes, where this host's KVM has them;
                            mapping: host page protection of guest RAM; slots: read-only
                            memory slots; auto: the first of them that works here; several,
                            as in mapping,slots, are layers (default: auto)
  --audit-interval MS       look at a sealed guest's registers this often, 10 to 60000 ms;
                            0 does not (default: 100)
  --max-violations N        end the guest at its Nth write to locked memory (default: never)
  --events FILE             append what happens as JSON lines; - is stderr
  --symbols FILE            the guest kernel's System.map or vmlinux, for names in reports
  --force                   start even where KVM is too slow to boot Linux
  --help                    print this

Example:
  casemate run --kernel bzImage --initrd rootfs.cpio --memory 512M --cpus 2 \
      --disk data.img --net tap=tap0

On a terminal, Ctrl-A x ends the guest, Ctrl-A c presses its power button and
Ctrl-A h lists the rest. SIGTERM, SIGINT or SIGHUP presses the power button, a
second SIGTERM or SIGINT ends the guest.

Exit status: 0 power-off or reboot, 1 host failure, or power-off or reboot with
what the guest printed, its events or messages lost, 2 usage, 10 guest panic or
triple fault, 11 the guest did what its CPU or machine cannot do, 20 a write to
locked memory ended the guest, 21 a page-table root that is not the kernel's,
22 a memory fault that nothing explains, 23 a register changed that was pinned
when the guest sealed, 24 locks were required and not taken in time, 25 the user
ended the guest.
)";

struct Option {
    const char* name;
    enum class Kind { flag, once, repeatable } kind;
    Result<void> (*take)(std::string_view value, RunOptions& run);
};
using Kind = Option::Kind;

constexpr std::array options{
    Option{"kernel", Kind::once,
           [](std::string_view value, RunOptions& run) -> Result<void> {
               run.config.kernel = TRY(parse_path("--kernel", value, "bzImage"));
               return {};
           }},
    Option{"initrd", Kind::once,
           [](std::string_view value, RunOptions& run) -> Result<void> {
               run.config.initrd = TRY(parse_path("--initrd", value, "rootfs.cpio"));
               return {};
           }},
    Option{"cmdline", Kind::once,
           [](std::string_view value, RunOptions& run) -> Result<void> {
               run.config.command_line = value;
               return {};
           }},
    Option{"memory", Kind::once,
           [](std::string_view value, RunOptions& run) -> Result<void> {
               run.config.memory_bytes = TRY(parse_memory(value));
               return {};
           }},
    Option{"cpus", Kind::once,
           [](std::string_view value, RunOptions& run) -> Result<void> {
               run.config.cpus = TRY(parse_cpus(value));
               return {};
           }},
    Option{"disk", Kind::repeatable,
           [](std::string_view value, RunOptions& run) -> Result<void> {
               run.config.disks.push_back(TRY(parse_disk(value)));
               return {};
           }},
    Option{"net", Kind::repeatable,
           [](std::string_view value, RunOptions& run) -> Result<void> {
               run.config.nets.push_back(TRY(parse_net(value)));
               return {};
           }},
    Option{"locks", Kind::once,
           [](std::string_view value, RunOptions& run) -> Result<void> {
               run.config.locks = TRY(parse_locks(value));
               return {};
           }},
    Option{"lock-deadline", Kind::once,
           [](std::string_view value, RunOptions& run) -> Result<void> {
               run.config.lock_deadline = TRY(parse_lock_deadline(value));
               return {};
           }},
    Option{"protect", Kind::once,
           [](std::string_view value, RunOptions& run) -> Result<void> {
               run.config.protect = TRY(parse_protect(value));
               return {};
           }},
    Option{"audit-interval", Kind::once,
           [](std::string_view value, RunOptions& run) -> Result<void> {
               run.config.audit_interval = TRY(parse_audit_interval(value));
               return {};
           }},
    Option{"max-violations", Kind::once,
           [](std::string_view value, RunOptions& run) -> Result<void> {
               run.config.max_violations = TRY(parse_max_violations(value));
               return {};
           }},
    Option{"events", Kind::once,
           [](std::string_view value, RunOptions& run) -> Result<void> {
               run.config.events_path = TRY(parse_path("--events", value, "events.json"));
               return {};
           }},
    Option{"symbols", Kind::once,
           [](std::string_view value, RunOptions& run) -> Result<void> {
               run.config.symbols_path = TRY(parse_path("--symbols", value, "System.map"));
               return {};
           }},
    Option{"force", Kind::flag,
           [](std::string_view, RunOptions& run) -> Result<void> {
               run.force = true;
               return {};
           }},
    Option{"help", Kind::flag, [](std::string_view, RunOptions&) -> Result<void> { return {}; }},
};

size_t index_of(std::string_view name) {
    const auto found = std::ranges::find(options, name, [](const Option& option) { return option.name; });
    return static_cast<size_t>(found - options.begin());
}

std::unexpected<Error> refuse(const std::string& what) {
    return fail(Error::usage(what + "; see casemate run --help"));
}

// The name in "--name" and "--name=value"; empty for anything else.
std::string_view name_in(std::string_view argument) {
    if (!argument.starts_with("--"))
        return {};
    return argument.substr(2, argument.find('=') - 2);
}

std::unexpected<Error> refuse_unknown(std::string_view argument) {
    std::string_view name = argument.substr(std::min(argument.find_first_not_of('-'), argument.size()));
    name = name.substr(0, name.find('='));
    for (const Option& option : options)
        if (name.size() >= 2 && std::string_view(option.name).starts_with(name))
            return refuse(fmt::format("unknown option {}: did you mean --{}?", argument, option.name));
    return refuse(fmt::format("unknown option {}", argument));
}

// What getopt_long() calls an option: its index here, out of the way of characters.
constexpr int first_code = 256;

std::vector<option> getopt_options() {
    std::vector<option> list;
    list.reserve(options.size() + 1);
    for (size_t i = 0; i < options.size(); ++i)
        list.push_back({.name = options.at(i).name,
                        .has_arg = options.at(i).kind == Kind::flag ? no_argument : required_argument,
                        .flag = nullptr,
                        .val = first_code + static_cast<int>(i)});
    list.push_back({});
    return list;
}

class Given {
public:
    // False when it was there before.
    bool add(size_t index) {
        const bool before = m_given.test(index);
        m_given.set(index);
        return !before;
    }
    bool has(std::string_view name) const { return m_given.test(index_of(name)); }

private:
    std::bitset<options.size()> m_given;
};

// Each by itself is right.
Result<void> check_together(const Given& given, const Config& config) {
    if (config.kernel.empty())
        return refuse("no kernel given: --kernel FILE, a vmlinux or bzImage, such as /boot/vmlinuz-*");
    if (given.has("lock-deadline") && config.locks != LockMode::required)
        return refuse("--lock-deadline has no effect without --locks required");
    if (config.locks == LockMode::off)
        for (const char* const option : {"protect", "audit-interval", "max-violations", "symbols"})
            if (given.has(option))
                return refuse(
                    fmt::format("--{} has no effect with --locks off: leave one of them out", option));
    return {};
}

} // namespace

std::string_view run_help() {
    return help_text;
}

Result<std::optional<RunOptions>> parse_run_options(std::span<const char* const> arguments) {
    // getopt_long permutes its argv, but leaves the strings alone.
    std::vector<char*> argv{const_cast<char*>("casemate run")};
    for (const char* const argument : arguments)
        argv.push_back(const_cast<char*>(argument));
    argv.push_back(nullptr);
    const auto argc = static_cast<int>(argv.size() - 1);
    const auto argument_at = [&argv](int index) {
        return std::string_view(argv[static_cast<size_t>(index)]);
    };
    const std::vector<option> known = getopt_options();
    RunOptions run;
    Given given;
    opterr = 0;
    optind = 0; // glibc: start over
    for (;;) {
        const std::string_view argument =
            argc == 1 ? "" : argument_at(std::min(optind == 0 ? 1 : optind, argc - 1));
        const int found = getopt_long(argc, argv.data(), "+:h", known.data(), nullptr);
        if (found == -1)
            break;
        if (found == 'h')
            return std::nullopt;
        // It would take the start of a name for the name.
        const size_t index = index_of(name_in(argument));
        if (index == options.size())
            return refuse_unknown(argument);
        const Option& option = options.at(index);
        if (found == ':')
            return refuse(fmt::format("--{} needs a value", option.name));
        if (found == '?')
            return refuse(fmt::format("{}: --{} takes no value", argument, option.name));
        if (option.name == std::string_view("help"))
            return std::nullopt;
        const std::string_view value = optarg == nullptr ? "" : optarg;
        if (index_of(name_in(value)) != options.size() && argument.find('=') == std::string_view::npos)
            return refuse(
                fmt::format("--{0} needs a value, and {1} is an option: write --{0}={1} to mean that",
                            option.name, value));
        if (!given.add(index) && option.kind != Kind::repeatable)
            return refuse(fmt::format("--{} is there twice", option.name));
        TRY(option.take(value, run));
    }
    if (optind < argc)
        return refuse(fmt::format("unexpected argument '{}'", argument_at(optind)));
    TRY(check_together(given, run.config));
    return run;
}

} // namespace casemate
