// SPDX-License-Identifier: Apache-2.0
#include "devices/virtio/device_limits.hpp"

#include <charconv>
#include <concepts>
#include <fstream>
#include <unistd.h>

namespace casemate::virtio {
namespace {

// A file with one decimal number; nullopt when it is missing or has something else.
template <std::unsigned_integral T>
std::optional<T> read_number(const std::string& path) {
    std::ifstream file(path);
    std::string line;
    if (!std::getline(file, line))
        return std::nullopt;
    T value = 0;
    const char* const end = line.data() + line.size();
    const auto [stop, error] = std::from_chars(line.data(), end, value);
    return error == std::errc() && stop == end ? std::optional(value) : std::nullopt;
}

} // namespace

std::optional<DeviceLimits> read_device_limits(const std::string& directory) {
    // A partition's directory lies in that of its disk, which has the queue.
    const bool partition = access((directory + "/partition").c_str(), F_OK) == 0;
    const std::string queue = directory + (partition ? "/../queue/" : "/queue/");
    const auto discard_max = read_number<uint64_t>(queue + "discard_max_bytes");
    if (!discard_max)
        return std::nullopt;
    return DeviceLimits{
        .discard_max = *discard_max,
        .discard_granularity = read_number<uint32_t>(queue + "discard_granularity").value_or(0),
        .discard_alignment = read_number<uint32_t>(directory + "/discard_alignment").value_or(0),
        .write_zeroes_max = read_number<uint64_t>(queue + "write_zeroes_max_bytes").value_or(0),
    };
}

} // namespace casemate::virtio
