// SPDX-License-Identifier: Apache-2.0
// Standard output and error: kept open, and never written to without looking whether it went out.
#pragma once

#include <string_view>

namespace casemate {

// A descriptor opened later must never become a standard one by its number. What is written to one that the
// caller had closed fails, as it would have. False when /dev/null cannot take their places.
bool occupy_standard_descriptors();

// All of `text` to standard output; if that fails, one line on stderr says why. Returns the exit status.
int print(std::string_view text);

} // namespace casemate
