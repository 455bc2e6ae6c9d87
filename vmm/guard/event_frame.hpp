// SPDX-License-Identifier: Apache-2.0
// Event frames: where the CPU pushes the frame of an exception or interrupt.
#pragma once

#include "base/units.hpp"
#include "guard/instruction.hpp"
#include "memory/guest_memory.hpp"

#include <vector>

namespace casemate {

// The first word of a frame on each stack that the CPU may choose: the present one, and those that the
// task-state segment names (SDM Vol. 3A, "64-Bit Mode Stack Frame", "Task Management in 64-bit Mode"). At
// most eleven; none outside 64-bit code. The task-state segment is the guest's: any address may come back.
[[gnu::cold]] std::vector<GuestLinear> event_frame_words(const GuestMemory& memory, const CpuState& state);

} // namespace casemate
