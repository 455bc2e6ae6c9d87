// SPDX-License-Identifier: Apache-2.0
// casemate check: says what this host can do for guests and their locks.
#pragma once

#include <span>

namespace casemate {

// `arguments` is what follows "check". Returns the exit status: 0 guests can be run here, 1 they cannot,
// 2 usage.
[[gnu::cold]] int run_check(std::span<const char* const> arguments);

} // namespace casemate
