// SPDX-License-Identifier: Apache-2.0
// Initrd: the initial RAM disk, placed where the kernel finds and keeps it.
#pragma once

#include "base/error.hpp"
#include "boot/kernel_image.hpp"
#include "memory/guest_memory.hpp"

namespace casemate {

// Loads the file at the highest page that the kernel, the RAM below the hole and the loaded kernel's own
// range allow. The range returned has the file's exact length.
Result<GuestRange> load_initrd(const GuestMemory& memory, const LoadedKernel& kernel, const char* path);

} // namespace casemate
