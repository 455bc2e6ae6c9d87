// SPDX-License-Identifier: Apache-2.0
// Protection: how the host keeps locked pages from changing. There is no way back while the VM lives.
#pragma once

#include "base/error.hpp"
#include "base/mapping.hpp"
#include "memory/guest_range.hpp"

#include <cstddef>
#include <functional>
#include <span>

namespace casemate {

class Protection {
public:
    Protection() = default;
    Protection(const Protection&) = delete;
    Protection& operator=(const Protection&) = delete;
    virtual ~Protection() = default;

    // Makes the ranges (whole pages of RAM, ascending, disjoint, not protected yet) unwritable for the guest,
    // for KVM and for this process: all of them, or on failure none. When it returns, no vCPU has a stale
    // mapping through which a store could land. The caller has made sure that no host-side write to them is
    // under way or begins. One caller at a time; vCPUs may run.
    virtual Result<void> protect(std::span<const GuestRange> ranges) = 0;
    // Replaces pages (one range of RAM, not protected yet) by ones that are protected in the same way, with
    // the contents that `fill` gives them, given zeroed ones, and that the view which is returned changes,
    // nothing else. On failure none is protected; the pages may then be zeroed.
    virtual Result<Mapping> replace(const GuestRange& range,
                                    const std::function<void(std::span<std::byte>)>& fill) = 0;
    // "mapping": the name that --protect takes.
    virtual const char* name() const = 0;
};

} // namespace casemate
