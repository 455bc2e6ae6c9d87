// SPDX-License-Identifier: Apache-2.0
#include "cli/option_values.hpp"

#include "memory/layout.hpp"

#include <algorithm>
#include <charconv>
#include <fmt/core.h>
#include <net/if.h>

namespace casemate {
namespace {

template <typename T>
std::optional<T> parse_number(std::string_view text, int base = 10) {
    T value{};
    const auto [end, failure] = std::from_chars(text.data(), text.data() + text.size(), value, base);
    if (failure != std::errc{} || end != text.data() + text.size())
        return std::nullopt;
    return value;
}

// `--name value: what`.
std::unexpected<Error> refuse(std::string_view option, std::string_view value, std::string_view what) {
    return fail(Error::usage(value.empty() ? fmt::format("{}: {}", option, what)
                                           : fmt::format("{} {}: {}", option, value, what)));
}

Result<uint16_t> parse_mtu(std::string_view whole, std::string_view text) {
    constexpr uint16_t min_mtu = 68; // RFC 791: what every IPv4 module must forward
    const auto mtu = parse_number<uint16_t>(text);
    if (!mtu || *mtu < min_mtu)
        return refuse("--net", whole, fmt::format("mtu='{}': give {} to 65535 bytes", text, min_mtu));
    return *mtu;
}

Result<std::array<uint8_t, 6>> parse_mac(std::string_view whole, std::string_view text) {
    std::array<uint8_t, 6> mac{};
    bool good = text.size() == 17;
    for (size_t i = 0; good && i < mac.size(); ++i) {
        const auto byte = parse_number<uint8_t>(text.substr(3 * i, 2), 16);
        good = byte.has_value() && (i == 5 || text[3 * i + 2] == ':');
        mac[i] = byte.value_or(0);
    }
    // The lowest bit of the first byte marks group addresses (IEEE 802, 8.2).
    if (!good || (mac[0] & 1) != 0 || mac == std::array<uint8_t, 6>{})
        return refuse("--net", whole,
                      fmt::format("mac='{}': give a unicast address such as 02:00:00:00:00:01", text));
    return mac;
}

} // namespace

Result<uint64_t> parse_memory(std::string_view text) {
    constexpr std::string_view units = "KMGT";
    const size_t unit = text.empty() ? std::string_view::npos : units.find(text.back());
    const auto number = parse_number<uint64_t>(text.substr(0, text.empty() ? 0 : text.size() - 1));
    if (unit == std::string_view::npos || !number)
        return refuse("--memory", text, "give a whole number and one of the units K, M, G and T, as in 256M");
    const unsigned shift = 10 * (static_cast<unsigned>(unit) + 1);
    const uint64_t bytes = *number << shift;
    if (*number > (~uint64_t{0} >> shift) || bytes < layout::min_ram_bytes || bytes > layout::max_ram_bytes ||
        !is_aligned(bytes, page_bytes))
        return refuse("--memory", text,
                      fmt::format("give {} to {} in whole pages of 4 KiB",
                                  format_bytes(layout::min_ram_bytes), format_bytes(layout::max_ram_bytes)));
    return bytes;
}

Result<uint32_t> parse_cpus(std::string_view text) {
    const auto count = parse_number<uint32_t>(text);
    if (!count || *count == 0 || *count > layout::max_cpus)
        return refuse("--cpus", text, fmt::format("give 1 to {}", layout::max_cpus));
    return *count;
}

Result<DiskConfig> parse_disk(std::string_view text) {
    DiskConfig disk;
    std::string_view path = text;
    if (path.ends_with(",ro")) {
        disk.read_only = true;
        path.remove_suffix(3);
    }
    if (path.empty())
        return refuse("--disk", text, "give a file or a block device, as in --disk data.img or data.img,ro");
    disk.path = path;
    return disk;
}

Result<NetConfig> parse_net(std::string_view text) {
    NetConfig net;
    const auto refuse_it = [text](std::string_view what) { return refuse("--net", text, what); };
    for (size_t at = 0; at <= text.size();) {
        const std::string_view part = text.substr(at, text.find(',', at) - at);
        at += part.size() + 1;
        const size_t equals = part.find('=');
        const std::string_view key = part.substr(0, equals);
        const std::string_view value =
            equals == std::string_view::npos ? std::string_view() : part.substr(equals + 1);
        const bool known = key == "tap" || key == "mac" || key == "mtu";
        if (!known || equals == std::string_view::npos)
            return refuse_it(
                fmt::format("'{}' is not tap=IF, mac=M or mtu=N; give as in --net tap=tap0", part));
        if ((key == "tap" && !net.tap.empty()) || (key == "mac" && net.mac) || (key == "mtu" && net.mtu))
            return refuse_it(fmt::format("{}= is there twice", key));
        if (key == "mac") {
            net.mac = TRY(parse_mac(text, value));
        } else if (key == "mtu") {
            net.mtu = TRY(parse_mtu(text, value));
        } else {
            if (value.empty() || value.size() >= IFNAMSIZ)
                return refuse_it(fmt::format("tap='{}': the name of an interface has 1 to {} characters",
                                             value, IFNAMSIZ - 1));
            net.tap = value;
        }
    }
    if (net.tap.empty())
        return refuse_it("name the tap interface, as in --net tap=tap0");
    return net;
}

Result<LockMode> parse_locks(std::string_view text) {
    if (text == "allowed")
        return LockMode::allowed;
    if (text == "required")
        return LockMode::required;
    if (text == "off")
        return LockMode::off;
    return refuse("--locks", text, "give allowed, required or off");
}

Result<std::chrono::seconds> parse_lock_deadline(std::string_view text) {
    constexpr uint32_t max_seconds = 3600;
    const auto seconds = parse_number<uint32_t>(text);
    if (!seconds || *seconds == 0 || *seconds > max_seconds)
        return refuse("--lock-deadline", text, fmt::format("give 1 to {} seconds", max_seconds));
    return std::chrono::seconds(*seconds);
}

Result<std::vector<ProtectionKind>> parse_protect(std::string_view text) {
    std::vector<ProtectionKind> kinds;
    if (text == "auto")
        return kinds;
    const auto refuse_it = [text](std::string_view why) {
        return refuse("--protect", text,
                      fmt::format("{}; give auto, or one or more of attributes, mapping and slots, as in "
                                  "--protect mapping,slots",
                                  why));
    };
    for (size_t at = 0; at <= text.size();) {
        const std::string_view part = text.substr(at, text.find(',', at) - at);
        at += part.size() + 1;
        if (part.empty())
            return refuse_it("a name is missing");
        if (part == "auto")
            return refuse_it("auto stands alone");
        const auto kind = protection_kind(part);
        if (!kind)
            return refuse_it(fmt::format("{} is unknown", part));
        if (std::ranges::find(kinds, *kind) != kinds.end())
            return refuse_it(fmt::format("{} is there twice", part));
        kinds.push_back(*kind);
    }
    return kinds;
}

Result<std::chrono::milliseconds> parse_audit_interval(std::string_view text) {
    constexpr uint32_t min_milliseconds = 10; // more often, and the guest does little else
    constexpr uint32_t max_milliseconds = 60'000;
    const auto interval = parse_number<uint32_t>(text);
    if (!interval || (*interval != 0 && *interval < min_milliseconds) || *interval > max_milliseconds)
        return refuse("--audit-interval", text,
                      fmt::format("give {} to {} milliseconds, or 0 for no audits", min_milliseconds,
                                  max_milliseconds));
    return std::chrono::milliseconds(*interval);
}

Result<uint64_t> parse_max_violations(std::string_view text) {
    const auto count = parse_number<uint64_t>(text);
    if (!count || *count == 0)
        return refuse("--max-violations", text, "give a number from 1, or leave it out for no limit");
    return *count;
}

Result<std::string> parse_path(const char* option, std::string_view text, const char* example) {
    if (text.empty())
        return refuse(option, text, fmt::format("give a file, as in {} {}", option, example));
    return std::string(text);
}

} // namespace casemate
