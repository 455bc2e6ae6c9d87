// SPDX-License-Identifier: Apache-2.0
// What a fuzz target holds to be true.
#pragma once

#include <cstdlib>

namespace casemate {

// libFuzzer takes the end for a finding and keeps the input.
inline void expect(bool condition) {
    if (!condition)
        std::abort();
}

} // namespace casemate
