// SPDX-License-Identifier: Apache-2.0
#include "guard/root_clock.hpp"

#include "memory/layout.hpp"

#include <cassert>

namespace casemate {

static_assert(layout::max_cpus * sizeof(uint64_t) <= page_bytes);

Result<std::unique_ptr<const RootClock>> RootClock::create(const GuestRange& page, uint64_t interval,
                                                           Protection& protection) {
    const std::span<std::byte> view = TRY(protection.replace(page, [](std::span<std::byte>) {}));
    return std::unique_ptr<const RootClock>(new RootClock(view, interval));
}

void RootClock::set(uint32_t vcpu, uint64_t now) const {
    assert(vcpu < layout::max_cpus);
    __atomic_store_n(reinterpret_cast<uint64_t*>(m_view.data()) + vcpu, now + m_interval, __ATOMIC_RELAXED);
}

} // namespace casemate
