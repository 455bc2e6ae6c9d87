// SPDX-License-Identifier: Apache-2.0
// Protection: how the host keeps locked pages from changing. There is no way back while the VM lives.
#pragma once

#include "base/error.hpp"
#include "memory/guest_memory.hpp"

#include <cstddef>
#include <functional>
#include <span>
#include <string>

namespace casemate {

class Protection {
public:
    Protection() = default;
    Protection(const Protection&) = delete;
    Protection& operator=(const Protection&) = delete;
    virtual ~Protection() = default;

    // Makes the ranges (whole pages of RAM, ascending, disjoint, not protected yet) unwritable for the guest
    // and for KVM: all of them, or on failure none. When it returns, no vCPU has a stale mapping through
    // which a store could land. This process may be able to write to them still, so the caller has made sure
    // that no host-side write to them is under way or begins. One caller at a time; vCPUs may run.
    virtual Result<void> protect(std::span<const GuestRange> ranges) = 0;
    // Gives pages (one range of RAM, not protected yet) the contents that `fill` writes, given zeroed ones,
    // and protects them in the same way. Through the bytes that are returned, which live as long as this, the
    // monitor changes them; nothing else does. On failure none is protected; the pages may then be zeroed.
    using Fill = std::function<void(std::span<std::byte>)>;
    virtual Result<std::span<std::byte>> replace(const GuestRange& range, const Fill& fill) = 0;
    // Memory slots that it uses beside one for each region of RAM.
    virtual size_t extra_memory_slots() const { return 0; }
    // As --protect takes it.
    virtual std::string name() const = 0;
    // Whether a store that is refused may keep a vCPU in KVM_RUN for ever, without an exit.
    virtual bool may_hang_vcpus() const { return false; }

protected:
    // replace() where this process can still write to what is protected: `memory` has the range.
    Result<std::span<std::byte>> replace_in_place(const GuestMemory& memory, const GuestRange& range,
                                                  const Fill& fill);
};

} // namespace casemate
