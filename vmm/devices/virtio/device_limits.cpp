// SPDX-License-Identifier: Apache-2.0
#include "devices/virtio/device_limits.hpp"

#include "base/fd.hpp"

#include <algorithm>
#include <array>
#include <charconv>
#include <concepts>
#include <fcntl.h>
#include <unistd.h>

namespace casemate::virtio {
namespace {

// A file whose first line is a decimal number; nullopt when it is missing or has something else.
template <std::unsigned_integral T>
std::optional<T> read_number(const std::string& path) {
    const auto file = open_file(path.c_str(), O_RDONLY);
    std::array<char, 32> buffer{}; // more than a number of 64 bits and the end of its line
    const ssize_t count = file ? read(file->get(), buffer.data(), buffer.size()) : -1;
    if (count <= 0)
        return std::nullopt;
    const char* const begin = buffer.data();
    const char* const end = begin + count;
    const char* const line_end = std::find(begin, end, '\n');
    if (line_end == end && static_cast<size_t>(count) == buffer.size())
        return std::nullopt;
    T value = 0;
    const auto [stop, error] = std::from_chars(begin, line_end, value);
    return error == std::errc() && stop == line_end ? std::optional(value) : std::nullopt;
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
