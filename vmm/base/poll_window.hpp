// SPDX-License-Identifier: Apache-2.0
// PollWindow: for how long to poll before a wait, so that what comes soon finds its thread awake. Adapts to
// what the waits have taken, as KVM's polling for halted vCPUs does.
#pragma once

#include <algorithm>
#include <chrono>

namespace casemate {

class PollWindow {
public:
    using Duration = std::chrono::nanoseconds;

    // A guest that reads from a disk in the host's page cache, one block at a time, asks again within this.
    static constexpr Duration longest = std::chrono::microseconds(300);

    // Zero: wait at once.
    Duration length() const { return m_length; }
    // `time` has gone by, in polling and waiting, until something came.
    void waited(Duration time) {
        if (time > longest)
            m_length = Duration::zero();
        else if (time > m_length)
            m_length = std::clamp(2 * m_length, first, longest);
    }

private:
    static constexpr Duration first = std::chrono::microseconds(25);

    Duration m_length = Duration::zero();
};

} // namespace casemate
