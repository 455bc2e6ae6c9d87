// SPDX-License-Identifier: Apache-2.0
// Hypercalls of vmm/guard/casemate_abi.h as a guest makes them, rightly and wrongly.
#pragma once

#include "guard/casemate_abi.h"
#include "runtime.hpp"

namespace payload {

// Any registers, with the instruction that suits the CPU's vendor. The result is rax.
int64_t hypercall(uint64_t number, uint64_t rbx, uint64_t rcx, uint64_t rdx);

inline int64_t casemate_call(uint64_t address, uint64_t pages, uint64_t attributes) {
    return hypercall(CASEMATE_HYPERCALL, address, pages, attributes);
}

// Finds the signature as the ABI header says, and knows the version. Without a true result no call is valid.
bool find_casemate();
// CPUID's feature bits, of the start.
uint32_t start_features();

inline int64_t lock(uint64_t address, uint64_t pages, uint64_t policy, uint64_t kind = CASEMATE_KIND_DATA) {
    return casemate_call(address, pages, casemate_attributes(CASEMATE_CALL_LOCK, policy, kind));
}
inline int64_t seal() {
    return casemate_call(0, 1, casemate_attributes(CASEMATE_CALL_SEAL, 0, 0));
}
inline int64_t features() {
    return casemate_call(0, 1, casemate_attributes(CASEMATE_CALL_FEATURES, 0, 0));
}

} // namespace payload
