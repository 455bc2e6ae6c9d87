// SPDX-License-Identifier: Apache-2.0
// Zero page: writes the boot parameters, the memory map and the command line into guest RAM.
#pragma once

#include "base/error.hpp"
#include "boot/kernel_image.hpp"
#include "memory/guest_memory.hpp"

#include <optional>
#include <string_view>
#include <vector>

namespace casemate {

// What the guest is told about its addresses, in ascending order.
std::vector<E820Entry> memory_map(uint64_t ram_bytes);

struct BootHandover {
    std::string_view command_line; // without a NUL
    std::optional<GuestRange> initrd;
    GuestPhysical rsdp;
};

// Writes layout::zero_page and layout::command_line. A command line that the kernel cannot take is the
// user's error.
Result<void> write_zero_page(const GuestMemory& memory, const LoadedKernel& kernel,
                             const BootHandover& handover);

} // namespace casemate
