// SPDX-License-Identifier: Apache-2.0
// Capstone without its disassemblers for other architectures than x86.
#pragma once

#include <cstddef>

namespace casemate {

// A handle (csh) for 64-bit code; the caller closes it. 0: out of memory.
size_t open_capstone();

} // namespace casemate
