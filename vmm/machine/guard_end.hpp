// SPDX-License-Identifier: Apache-2.0
// What ends a machine on the guard's word, as the machine tells it.
#pragma once

#include "guard/guard.hpp"
#include "machine/exit_status.hpp"

namespace casemate {

MachineEnd machine_end(GuardEnd end);

} // namespace casemate
