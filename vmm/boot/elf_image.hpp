// SPDX-License-Identifier: Apache-2.0
// ELF kernels: an uncompressed vmlinux, or a small freestanding guest.
#pragma once

#include "boot/kernel_image.hpp"

namespace casemate {

// For load_kernel, once the file has ELF's magic.
Result<LoadedKernel> load_elf_image(const GuestMemory& memory, const ImageFile& file);

} // namespace casemate
