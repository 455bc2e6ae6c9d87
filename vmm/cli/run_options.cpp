// SPDX-License-Identifier: Apache-2.0
#include "cli/run_options.hpp"

#include "memory/layout.hpp"

#include <algorithm>
#include <array>
#include <charconv>
#include <chrono>
#include <cstdio>
#include <fmt/core.h>
#include <getopt.h>
#include <vector>

namespace casemate {
namespace {

constexpr const char* help_text =
    R"(Usage: casemate run --kernel FILE [OPTION]...

Boots a Linux guest with its serial console on this terminal.

  --kernel FILE             vmlinux or bzImage
  --initrd FILE             initial RAM disk
  --cmdline TEXT            kernel command line (default: console=ttyS0)
  --memory SIZE             RAM with its unit, 16M or more (default: 256M)
  --cpus N                  virtual CPUs, 1 to 32 (default: 1)
  --disk FILE[,ro]          raw file or block device as a virtio disk; repeatable
  --net tap=IF[,mac=M]      virtio network device on an existing tap interface; repeatable
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
Ctrl-A h lists the rest. SIGTERM or SIGINT presses the power button, a second
one ends the guest.

Exit status: 0 power-off or reboot, 1 host failure, 2 usage, 10 guest panic or
triple fault, 11 the guest did what its CPU or machine cannot do, 20 a write to
locked memory ended the guest, 21 a page-table root that is not the kernel's, 22
a memory fault that nothing explains, 23 a register changed that was pinned when
the guest sealed, 24 locks were required and not taken in time.
)";

template <typename T>
std::optional<T> parse_number(std::string_view text, int base = 10) {
    T value{};
    const auto [end, failure] = std::from_chars(text.data(), text.data() + text.size(), value, base);
    if (failure != std::errc{} || end != text.data() + text.size())
        return std::nullopt;
    return value;
}

Result<uint64_t> parse_memory(std::string_view text) {
    const uint64_t bytes = TRY(parse_size(text));
    if (bytes < layout::min_ram_bytes || bytes > layout::max_ram_bytes || !is_aligned(bytes, page_bytes))
        return fail(Error::usage(fmt::format("--memory {}: give {} to {} in whole pages of 4 KiB", text,
                                             format_bytes(layout::min_ram_bytes),
                                             format_bytes(layout::max_ram_bytes))));
    return bytes;
}

Result<uint32_t> parse_cpus(std::string_view text) {
    const auto count = parse_number<uint32_t>(text);
    if (!count || *count == 0 || *count > layout::max_cpus)
        return fail(Error::usage(fmt::format("--cpus {}: give 1 to {}", text, layout::max_cpus)));
    return *count;
}

Result<DiskConfig> parse_disk(std::string_view text) {
    DiskConfig disk;
    if (text.ends_with(",ro")) {
        disk.read_only = true;
        text.remove_suffix(3);
    }
    if (text.empty())
        return fail(
            Error::usage("--disk: give a file or a block device, as in --disk data.img or data.img,ro"));
    disk.path = text;
    return disk;
}

Result<std::array<uint8_t, 6>> parse_mac(std::string_view text) {
    std::array<uint8_t, 6> mac{};
    bool good = text.size() == 17;
    for (size_t i = 0; good && i < mac.size(); ++i) {
        const auto byte = parse_number<uint8_t>(text.substr(3 * i, 2), 16);
        good = byte.has_value() && (i == 5 || text[3 * i + 2] == ':');
        mac[i] = byte.value_or(0);
    }
    // The lowest bit of the first byte marks group addresses (IEEE 802, 8.2).
    if (!good || (mac[0] & 1) != 0)
        return fail(
            Error::usage(fmt::format("mac={}: give a unicast address such as 02:00:00:00:00:01", text)));
    return mac;
}

Result<NetConfig> parse_net(std::string_view text) {
    NetConfig net;
    for (std::string_view rest = text; !rest.empty();) {
        const std::string_view part = rest.substr(0, rest.find(','));
        rest.remove_prefix(std::min(rest.size(), part.size() + 1));
        if (part.starts_with("tap="))
            net.tap = part.substr(4);
        else if (part.starts_with("mac="))
            net.mac = TRY(parse_mac(part.substr(4)));
        else
            return fail(
                Error::usage(fmt::format("--net {}: unknown part {}, give tap=IF[,mac=M]", text, part)));
    }
    if (net.tap.empty())
        return fail(Error::usage(fmt::format("--net {}: name a tap interface, as in --net tap=tap0", text)));
    return net;
}

Result<LockMode> parse_locks(std::string_view text) {
    if (text == "allowed")
        return LockMode::allowed;
    if (text == "required")
        return LockMode::required;
    if (text == "off")
        return LockMode::off;
    return fail(Error::usage(fmt::format("--locks {}: give allowed, required or off", text)));
}

Result<std::chrono::seconds> parse_lock_deadline(std::string_view text) {
    constexpr uint32_t max_seconds = 3600;
    const auto seconds = parse_number<uint32_t>(text);
    if (!seconds || *seconds == 0 || *seconds > max_seconds)
        return fail(Error::usage(fmt::format("--lock-deadline {}: give 1 to {} seconds", text, max_seconds)));
    return std::chrono::seconds(*seconds);
}

Result<std::vector<ProtectionKind>> parse_protect(std::string_view text) {
    std::vector<ProtectionKind> kinds;
    if (text == "auto")
        return kinds;
    const auto refuse = [text](std::string_view why) {
        return fail(Error::usage(fmt::format("--protect {}: {}; give auto, or one or more of attributes, "
                                             "mapping and slots, as in --protect mapping,slots",
                                             text, why)));
    };
    for (size_t at = 0; at <= text.size();) {
        const std::string_view part = text.substr(at, text.find(',', at) - at);
        at += part.size() + 1;
        if (part.empty())
            return refuse("a name is missing");
        if (part == "auto")
            return refuse("auto stands alone");
        const auto kind = protection_kind(part);
        if (!kind)
            return refuse(fmt::format("{} is unknown", part));
        if (std::ranges::find(kinds, *kind) != kinds.end())
            return refuse(fmt::format("{} is there twice", part));
        kinds.push_back(*kind);
    }
    return kinds;
}

Result<std::chrono::milliseconds> parse_audit_interval(std::string_view text) {
    constexpr uint32_t min_milliseconds = 10; // more often, and the guest does little else
    constexpr uint32_t max_milliseconds = 60'000;
    const auto interval = parse_number<uint32_t>(text);
    if (!interval || (*interval != 0 && *interval < min_milliseconds) || *interval > max_milliseconds)
        return fail(
            Error::usage(fmt::format("--audit-interval {}: give {} to {} milliseconds, or 0 for no audits",
                                     text, min_milliseconds, max_milliseconds)));
    return std::chrono::milliseconds(*interval);
}

Result<uint64_t> parse_max_violations(std::string_view text) {
    const auto count = parse_number<uint64_t>(text);
    if (!count || *count == 0)
        return fail(Error::usage(
            fmt::format("--max-violations {}: give a number from 1, or leave it out for no limit", text)));
    return *count;
}

Result<std::string> parse_path(const char* name, std::string_view text, const char* example) {
    if (text.empty())
        return fail(Error::usage(fmt::format("{0}: give a file, as in {0} {1}", name, example)));
    return std::string(text);
}

enum class Option : int {
    kernel = 256,
    initrd,
    cmdline,
    memory,
    cpus,
    disk,
    net,
    locks,
    lock_deadline,
    protect,
    audit_interval,
    max_violations,
    events,
    symbols,
    force,
    help
};

constexpr option make_option(const char* name, Option value, int argument) {
    return {.name = name, .has_arg = argument, .flag = nullptr, .val = static_cast<int>(value)};
}

constexpr std::array options{make_option("kernel", Option::kernel, required_argument),
                             make_option("initrd", Option::initrd, required_argument),
                             make_option("cmdline", Option::cmdline, required_argument),
                             make_option("memory", Option::memory, required_argument),
                             make_option("cpus", Option::cpus, required_argument),
                             make_option("disk", Option::disk, required_argument),
                             make_option("net", Option::net, required_argument),
                             make_option("locks", Option::locks, required_argument),
                             make_option("lock-deadline", Option::lock_deadline, required_argument),
                             make_option("protect", Option::protect, required_argument),
                             make_option("audit-interval", Option::audit_interval, required_argument),
                             make_option("max-violations", Option::max_violations, required_argument),
                             make_option("events", Option::events, required_argument),
                             make_option("symbols", Option::symbols, required_argument),
                             make_option("force", Option::force, no_argument),
                             make_option("help", Option::help, no_argument),
                             option{}};

Result<void> take_option(Option name, std::string_view value, RunOptions& run) {
    Config& config = run.config;
    switch (name) {
    case Option::kernel:
        config.kernel = value;
        break;
    case Option::initrd:
        config.initrd = value;
        break;
    case Option::cmdline:
        config.command_line = value;
        break;
    case Option::memory:
        config.memory_bytes = TRY(parse_memory(value));
        break;
    case Option::cpus:
        config.cpus = TRY(parse_cpus(value));
        break;
    case Option::disk:
        config.disks.push_back(TRY(parse_disk(value)));
        break;
    case Option::net:
        config.nets.push_back(TRY(parse_net(value)));
        break;
    case Option::locks:
        config.locks = TRY(parse_locks(value));
        break;
    case Option::lock_deadline:
        config.lock_deadline = TRY(parse_lock_deadline(value));
        break;
    case Option::protect:
        config.protect = TRY(parse_protect(value));
        break;
    case Option::audit_interval:
        config.audit_interval = TRY(parse_audit_interval(value));
        break;
    case Option::max_violations:
        config.max_violations = TRY(parse_max_violations(value));
        break;
    case Option::events:
        config.events_path = TRY(parse_path("--events", value, "events.json"));
        break;
    case Option::symbols:
        config.symbols_path = TRY(parse_path("--symbols", value, "System.map"));
        break;
    case Option::force:
        run.force = true;
        break;
    case Option::help:
        break;
    }
    return {};
}

} // namespace

Result<uint64_t> parse_size(std::string_view text) {
    const std::string_view units = "KMGT";
    const size_t unit = text.empty() ? std::string_view::npos : units.find(text.back());
    const auto number = parse_number<uint64_t>(text.substr(0, text.empty() ? 0 : text.size() - 1));
    if (unit == std::string_view::npos || !number)
        return fail(Error::usage(
            fmt::format("size '{}': give a whole number with its unit, as in 256M or 2G", text)));
    const unsigned shift = 10 * (static_cast<unsigned>(unit) + 1);
    if (*number > (~uint64_t{0} >> shift))
        return fail(Error::usage(fmt::format("size '{}' is too large", text)));
    return *number << shift;
}

Result<std::optional<RunOptions>> parse_run_options(std::span<const char* const> arguments) {
    // getopt_long permutes its argv, but leaves the strings alone.
    std::vector<char*> argv{const_cast<char*>("casemate run")};
    for (const char* const argument : arguments)
        argv.push_back(const_cast<char*>(argument));
    argv.push_back(nullptr);
    const auto argc = static_cast<int>(argv.size() - 1);
    const auto argument_at = [&argv](int index) { return argv[static_cast<size_t>(index)]; };
    RunOptions run;
    opterr = 0;
    optind = 0; // glibc: start over
    for (;;) {
        const int at = optind == 0 ? 1 : optind;
        const int found = getopt_long(argc, argv.data(), "+:", options.data(), nullptr);
        if (found == -1)
            break;
        if (found == ':')
            return fail(Error::usage(
                fmt::format("{} needs a value; see casemate run --help", argument_at(optind - 1))));
        if (found == '?')
            return fail(
                Error::usage(fmt::format("unknown option {}; see casemate run --help", argument_at(at))));
        if (found == static_cast<int>(Option::help)) {
            std::fputs(help_text, stdout);
            return std::nullopt;
        }
        TRY(take_option(static_cast<Option>(found), optarg == nullptr ? "" : optarg, run));
    }
    if (optind < argc)
        return fail(Error::usage(
            fmt::format("unexpected argument {}; see casemate run --help", argument_at(optind))));
    if (run.config.kernel.empty())
        return fail(Error::usage(
            "no kernel given: --kernel FILE, a vmlinux or bzImage; tools/guest-kernel builds one"));
    return run;
}

} // namespace casemate
