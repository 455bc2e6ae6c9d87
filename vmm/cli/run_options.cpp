// SPDX-License-Identifier: Apache-2.0
#include "cli/run_options.hpp"

#include "memory/layout.hpp"

#include <charconv>
#include <cstdio>
#include <fmt/core.h>

// Commas separate the parts of one --disk or --net, not several of them.
#define CXXOPTS_VECTOR_DELIMITER '\0'
#define CXXOPTS_NO_REGEX
#include <cxxopts.hpp>

namespace casemate {
namespace {

constexpr const char* example =
    "Example:\n"
    "  casemate run --kernel bzImage --initrd rootfs.cpio --memory 512M --cpus 2 \\\n"
    "      --disk data.img --net tap=tap0\n\n"
    "The guest's serial console is this terminal. Ctrl-A x ends the guest, Ctrl-A c\n"
    "presses its power button, Ctrl-A h lists the rest.\n"
    "Exit status: 0 power-off or reboot, 1 host failure, 2 usage, 10 guest panic or\n"
    "triple fault, 22 a memory fault that nothing explains.\n";

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

cxxopts::Options make_options() {
    cxxopts::Options options("casemate run",
                             "Boots a Linux guest with its serial console on this terminal.\n");
    options.custom_help("--kernel FILE [OPTION]...");
    options.add_options()("kernel", "vmlinux or bzImage", cxxopts::value<std::string>(),
                          "FILE")("initrd", "initial RAM disk", cxxopts::value<std::string>(), "FILE")(
        "cmdline", "kernel command line", cxxopts::value<std::string>()->default_value("console=ttyS0"),
        "TEXT")("memory", "RAM with its unit, 16M or more",
                cxxopts::value<std::string>()->default_value("256M"),
                "SIZE")("cpus", "virtual CPUs, 1 to 32", cxxopts::value<std::string>()->default_value("1"),
                        "N")("disk", "raw file or block device as a virtio disk; repeatable",
                             cxxopts::value<std::vector<std::string>>(), "FILE[,ro]")(
        "net", "virtio network device on an existing tap interface; repeatable",
        cxxopts::value<std::vector<std::string>>(), "tap=IF[,mac=M]")(
        "force", "start even where KVM is too slow to boot Linux")("h,help", "print this help");
    return options;
}

Result<std::optional<RunOptions>> parse(std::span<const char* const> arguments) {
    cxxopts::Options options = make_options();
    std::vector<const char*> argv{"casemate run"};
    argv.insert(argv.end(), arguments.begin(), arguments.end());
    const cxxopts::ParseResult parsed = options.parse(static_cast<int>(argv.size()), argv.data());
    if (parsed.count("help") != 0) {
        std::fputs(options.help().c_str(), stdout);
        std::fputs(example, stdout);
        return std::nullopt;
    }
    if (!parsed.unmatched().empty())
        return fail(Error::usage(fmt::format("unexpected argument {}", parsed.unmatched().front())));
    if (parsed.count("kernel") == 0)
        return fail(Error::usage(
            "no kernel given: --kernel FILE, a vmlinux or bzImage; tools/guest-kernel builds one"));
    RunOptions run;
    run.force = parsed.count("force") != 0;
    run.config.kernel = parsed["kernel"].as<std::string>();
    if (parsed.count("initrd") != 0)
        run.config.initrd = parsed["initrd"].as<std::string>();
    run.config.command_line = parsed["cmdline"].as<std::string>();
    run.config.memory_bytes = TRY(parse_memory(parsed["memory"].as<std::string>()));
    run.config.cpus = TRY(parse_cpus(parsed["cpus"].as<std::string>()));
    if (parsed.count("disk") != 0)
        for (const std::string& text : parsed["disk"].as<std::vector<std::string>>())
            run.config.disks.push_back(TRY(parse_disk(text)));
    if (parsed.count("net") != 0)
        for (const std::string& text : parsed["net"].as<std::vector<std::string>>())
            run.config.nets.push_back(TRY(parse_net(text)));
    return run;
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
    try {
        return parse(arguments);
    } catch (const cxxopts::exceptions::exception& exception) {
        return fail(Error::usage(std::string(exception.what()) + "; see casemate run --help"));
    }
}

} // namespace casemate
