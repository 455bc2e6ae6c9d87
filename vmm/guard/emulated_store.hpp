// SPDX-License-Identifier: Apache-2.0
// Emulated store: which instruction made a store that KVM emulated and hands over (KVM_EXIT_MMIO), when RIP
// is behind the instruction already and registers may have changed.
#pragma once

#include "base/units.hpp"
#include "guard/instruction.hpp"
#include "memory/guest_memory.hpp"

#include <cstddef>
#include <optional>
#include <span>
#include <string>
#include <vector>

namespace casemate {

struct StoreOrigin {
    uint64_t rip = 0;
    GuestLinear linear; // where it stores
    std::string instruction;
    std::vector<std::byte> code;
};

// `data`, 1 to 8 bytes in one page, was to be stored at `address`; `state` is that of after the instruction.
// The result is an instruction whose only store that is, which left everything else that it uses as it was:
// with RIP set back to it, it is as if it had not been executed, but for arithmetic flags. Every other one
// that may have made the store (of any length that ends at RIP, a CALL from anywhere, a REP string
// instruction under way) is ruled out, else the result is empty: guest memory is hostile, and the bytes
// before RIP may be made to have several meanings. Empty as well outside 64-bit code, and for a part of a
// longer store. As attribute_store() it names, never permits: another vCPU may have changed code and tables
// since, and KVM may know an instruction that the decoder does not.
[[gnu::cold]] std::optional<StoreOrigin> find_store_origin(const GuestMemory& memory, const CpuState& state,
                                                           const Decoder& decoder, GuestPhysical address,
                                                           std::span<const std::byte> data);

} // namespace casemate
