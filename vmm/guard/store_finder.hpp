// SPDX-License-Identifier: Apache-2.0
// Store finder: where an instruction stores, by its opcode, as the SDM says. Capstone 4 and 5 call half of
// all stores reads, have some sizes wrong and tell of no implicit ones
// (tests/unit/guard/capstone_agreement_test.cpp).
#pragma once

#include "guard/encoding.hpp"
#include "guard/instruction.hpp"

#include <cstddef>
#include <optional>
#include <span>
#include <vector>

namespace casemate {

// `bytes` are all of the instruction's, which Capstone knows. Empty for what only looks like one that it
// knows: newer instructions in the same place.
[[gnu::cold]] std::optional<std::vector<StoreOperand>>
find_stores(const Encoding& encoding, std::span<const std::byte> bytes, const CpuState& state, CodeSize size);

} // namespace casemate
