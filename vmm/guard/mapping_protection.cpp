// SPDX-License-Identifier: Apache-2.0
#include "guard/mapping_protection.hpp"

namespace casemate {

Result<void> MappingProtection::protect(std::span<const GuestRange> ranges) {
    return m_memory.deny_writes(ranges, m_sealing);
}

Result<std::span<std::byte>> MappingProtection::replace(const GuestRange& range, const Fill& fill) {
    m_views.push_back(TRY(m_memory.replace_pages(range, fill, m_sealing)));
    return m_views.back().bytes();
}

} // namespace casemate
