// SPDX-License-Identifier: Apache-2.0
// What of a Config cannot work, or is surely not what was meant, as far as files and values together tell.
#pragma once

#include "base/error.hpp"
#include "base/log.hpp"
#include "machine/config.hpp"

namespace casemate {

// A usage error for what cannot work: too many devices, one file or interface for two of them, events into a
// file that is the guest's. What may be meant is a line in the log. Says nothing of files that are not there:
// who opens them does.
Result<void> check_config(const Config& config, const Log& log);

} // namespace casemate
