// SPDX-License-Identifier: Apache-2.0
// DeviceLimits: what a host block device can do besides reading and writing, as sysfs tells.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

namespace casemate::virtio {

// In bytes. linux Documentation/ABI/stable/sysfs-block has each by the name of its file.
struct DeviceLimits {
    uint64_t discard_max = 0; // 0: the device cannot discard
    uint32_t discard_granularity = 0;
    uint32_t discard_alignment = 0; // where the first granule begins
    uint64_t write_zeroes_max = 0;  // 0: the device has no command that writes zeroes
};

// Of the device or partition whose sysfs directory this is: /sys/dev/block/MAJOR:MINOR. nullopt without one.
std::optional<DeviceLimits> read_device_limits(const std::string& directory);

} // namespace casemate::virtio
