// SPDX-License-Identifier: Apache-2.0
// RootClock: a page that the guest reads and the monitor alone writes: when each vCPU has to ask for a check
// of its root again. Casemate ABI, ROOT_CLOCK.
#pragma once

#include "base/error.hpp"
#include "guard/protection.hpp"
#include "memory/guest_range.hpp"

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>

namespace casemate {

// set() from any thread; each vCPU has an entry of its own.
class RootClock {
public:
    // Replaces a page of RAM, locked so that no host-side write begins or is under way, by entries of 0:
    // every vCPU has to ask at once. `interval` in cycles of the guest's TSC. `protection` outlives this.
    static Result<std::unique_ptr<const RootClock>> create(const GuestRange& page, uint64_t interval,
                                                           Protection& protection);

    // A vCPU below layout::max_cpus has asked, when its TSC was `now`.
    void set(uint32_t vcpu, uint64_t now) const;

private:
    RootClock(std::span<std::byte> view, uint64_t interval)
        : m_view(view)
        , m_interval(interval) {}

    std::span<std::byte> m_view; // the only writable one there is
    uint64_t m_interval;
};

} // namespace casemate
