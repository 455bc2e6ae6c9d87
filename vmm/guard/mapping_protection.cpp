// SPDX-License-Identifier: Apache-2.0
#include "guard/mapping_protection.hpp"

namespace casemate {

Result<void> MappingProtection::protect(std::span<const GuestRange> ranges) {
    return m_memory.deny_writes(ranges, m_sealing);
}

Result<Mapping> MappingProtection::replace(const GuestRange& range,
                                           const std::function<void(std::span<std::byte>)>& fill) {
    return m_memory.replace_pages(range, fill, m_sealing);
}

} // namespace casemate
