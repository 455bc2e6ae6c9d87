// SPDX-License-Identifier: Apache-2.0
#include "hypercall.hpp"

namespace payload {
namespace {

uint32_t feature_bits;

enum class Vendor : uint8_t { unknown, amd, other };
Vendor vendor = Vendor::unknown; // CPUID costs an exit

bool is_amd() {
    if (vendor == Vendor::unknown) {
        const uint32_t name = cpuid(0).ebx;
        vendor = name == 0x68747541 || name == 0x6f677948 ? Vendor::amd : Vendor::other; // "Auth", "Hygo"
    }
    return vendor == Vendor::amd;
}

} // namespace

int64_t hypercall(uint64_t number, uint64_t rbx, uint64_t rcx, uint64_t rdx) {
    auto result = static_cast<int64_t>(number);
    if (is_amd())
        asm volatile("vmmcall" : "+a"(result) : "b"(rbx), "c"(rcx), "d"(rdx) : "memory");
    else
        asm volatile("vmcall" : "+a"(result) : "b"(rbx), "c"(rcx), "d"(rdx) : "memory");
    return result;
}

bool find_casemate() {
    for (uint32_t leaf = 0x40000000; leaf <= 0x4000ff00; leaf += 0x100) {
        const Cpuid found = cpuid(leaf);
        const uint32_t words[3] = {found.ebx, found.ecx, found.edx};
        bool same = true;
        for (unsigned i = 0; i < sizeof(CASEMATE_CPUID_SIGNATURE); ++i) // with the zero
            same &= static_cast<char>(words[i / 4] >> (8 * (i % 4))) == CASEMATE_CPUID_SIGNATURE[i];
        if (!same)
            continue;
        const Cpuid what = cpuid(leaf + 1);
        feature_bits = what.ebx;
        return what.eax == CASEMATE_ABI_VERSION;
    }
    return false;
}

uint32_t start_features() {
    return feature_bits;
}

} // namespace payload
