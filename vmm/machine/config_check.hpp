// SPDX-License-Identifier: Apache-2.0
// What of a Config cannot work, or is surely not what was meant, as far as files and values together tell.
#pragma once

#include "base/error.hpp"
#include "machine/config.hpp"

namespace casemate {

// A usage error for what cannot work: too many devices, one file or interface for two of them, events into a
// file that is the guest's. Of files that are not there it says only what is wrong with the name: who opens
// them says the rest.
Result<void> check_config(const Config& config);

} // namespace casemate
