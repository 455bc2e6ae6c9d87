// SPDX-License-Identifier: Apache-2.0
// bzImage kernels: compressed Linux behind a setup header. linux v6.12 Documentation/arch/x86/boot.rst.
#pragma once

#include "boot/kernel_image.hpp"

namespace casemate {

// For load_kernel, once the file has the setup header's magic.
Result<LoadedKernel> load_bz_image(const GuestMemory& memory, const ImageFile& file);

} // namespace casemate
