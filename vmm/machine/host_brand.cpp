// SPDX-License-Identifier: Apache-2.0
#include "machine/host_brand.hpp"

#include <algorithm>
#include <cpuid.h>
#include <cstring>

namespace casemate {
namespace {

constexpr uint32_t first_leaf = 0x80000002;
constexpr uint32_t last_leaf = 0x80000004;

std::array<uint32_t, 4> cpuid(uint32_t leaf) {
    std::array<uint32_t, 4> registers{};
    __cpuid(leaf, registers[0], registers[1], registers[2], registers[3]);
    return registers;
}

} // namespace

CpuBrand make_brand(std::string_view name) {
    CpuBrand brand{};
    std::memcpy(brand.data(), name.data(), std::min(name.size(), sizeof(brand) - 1));
    return brand;
}

CpuBrand host_brand(std::array<uint32_t, 4> (*leaf)(uint32_t)) {
    std::array<char, sizeof(CpuBrand)> text{};
    if (leaf(0x80000000)[0] >= last_leaf)
        for (uint32_t i = first_leaf; i <= last_leaf; ++i) {
            const auto registers = leaf(i);
            std::memcpy(text.data() + (i - first_leaf) * sizeof(registers), registers.data(),
                        sizeof(registers));
        }
    // Some have spaces in front; some hypervisors have nothing but spaces or zeros.
    std::string_view name(text.data(), strnlen(text.data(), text.size()));
    name.remove_prefix(std::min(name.find_first_not_of(' '), name.size()));
    return make_brand(name.empty() ? "x86-64 processor without a name" : name);
}

CpuBrand host_brand() {
    return host_brand(cpuid);
}

} // namespace casemate
