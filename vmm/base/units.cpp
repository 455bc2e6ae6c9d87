// SPDX-License-Identifier: Apache-2.0
#include "base/units.hpp"

#include <fmt/core.h>

namespace casemate {

std::string to_string(GuestPhysical address) {
    return fmt::format("gpa:{:#x}", address.value);
}
std::string to_string(GuestLinear address) {
    return fmt::format("gla:{:#x}", address.value);
}

std::string format_bytes(uint64_t bytes) {
    struct Unit {
        uint64_t bytes;
        const char* name;
    };
    for (const Unit unit : {Unit{1_GiB, "GiB"}, Unit{1_MiB, "MiB"}, Unit{1_KiB, "KiB"}})
        if (bytes != 0 && bytes % unit.bytes == 0)
            return fmt::format("{} {}", bytes / unit.bytes, unit.name);
    return fmt::format("{} bytes", bytes);
}

} // namespace casemate
