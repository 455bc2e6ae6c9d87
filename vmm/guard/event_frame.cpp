// SPDX-License-Identifier: Apache-2.0
#include "guard/event_frame.hpp"

#include "guard/page_walk.hpp"

#include <array>
#include <optional>

namespace casemate {
namespace {

constexpr uint64_t word = sizeof(uint64_t);

// Of a 64-bit task-state segment: RSP0 to RSP2, IST1 to IST7.
constexpr std::array<uint64_t, 10> stack_pointers{4, 12, 20, 36, 44, 52, 60, 68, 76, 84};

std::optional<uint64_t> read_word(const GuestMemory& memory, const CpuState& state, uint64_t linear) {
    uint64_t value = 0;
    for (uint64_t byte = 0; byte < word; ++byte) {
        const auto translation = translate(memory, state.system, {linear + byte});
        const auto part = translation ? memory.fetch<uint8_t>(translation->address)
                                      : GuestResult<uint8_t>(std::unexpected(GuestFault::outside_ram));
        if (!part)
            return std::nullopt;
        value |= uint64_t{*part} << (8 * byte);
    }
    return value;
}

} // namespace

std::vector<GuestLinear> event_frame_words(const GuestMemory& memory, const CpuState& state) {
    if (!uses_64_bit_code(state))
        return {};
    // The CPU aligns the stack first.
    const auto first_word = [](uint64_t stack) { return GuestLinear{(stack & ~uint64_t{15}) - word}; };
    std::vector<GuestLinear> words{first_word(state.registers.rsp)};
    for (const uint64_t offset : stack_pointers)
        if (const auto stack = read_word(memory, state, state.system.tr.base + offset))
            words.push_back(first_word(*stack));
    return words;
}

} // namespace casemate
