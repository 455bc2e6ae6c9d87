// SPDX-License-Identifier: Apache-2.0
#include "guard/instruction.hpp"

#include "guard/capstone_x86_only.hpp"
#include "guard/encoding.hpp"
#include "guard/page_walk.hpp"
#include "guard/store_finder.hpp"

#include <algorithm>
#include <capstone/capstone.h>
#include <utility>

namespace casemate {

namespace {

constexpr uint64_t cr0_pe = 1ULL << 0;
constexpr uint64_t efer_lma = 1ULL << 10;
constexpr uint64_t rflags_vm = 1ULL << 17;

CodeSize code_size(const CpuState& state) {
    const kvm_sregs& system = state.system;
    const bool long_mode = (system.efer & efer_lma) != 0;
    if (uses_64_bit_code(state))
        return CodeSize::bits_64;
    if ((system.cr0 & cr0_pe) == 0 || (!long_mode && (state.registers.rflags & rflags_vm) != 0))
        return CodeSize::bits_16;
    return system.cs.db != 0 ? CodeSize::bits_32 : CodeSize::bits_16;
}

size_t capstone_mode(CodeSize size) {
    switch (size) {
    case CodeSize::bits_16:
        return CS_MODE_16;
    case CodeSize::bits_32:
        return CS_MODE_32;
    case CodeSize::bits_64:
        break;
    }
    return CS_MODE_64;
}

} // namespace

bool uses_64_bit_code(const CpuState& state) {
    return (state.system.efer & efer_lma) != 0 && state.system.cs.l != 0;
}

GuestLinear instruction_address(const CpuState& state) {
    if (uses_64_bit_code(state))
        return {state.registers.rip};
    return {(state.system.cs.base + state.registers.rip) & (4_GiB - 1)};
}

std::vector<std::byte> fetch_instruction(const GuestMemory& memory, const CpuState& state) {
    const bool wide = uses_64_bit_code(state);
    uint64_t linear = instruction_address(state).value;
    std::vector<std::byte> bytes(longest_instruction);
    size_t fetched = 0;
    while (fetched < bytes.size()) {
        if (!wide)
            linear &= 4_GiB - 1;
        const auto translation = translate(memory, state.system, {linear});
        const size_t part =
            std::min<uint64_t>(bytes.size() - fetched, page_bytes - (linear & (page_bytes - 1)));
        if (!translation)
            break;
        const auto range =
            GuestRange::from_guest(GuestValue(translation->address.value), GuestValue(uint64_t{part}));
        if (!range || !memory.read(*range, std::span(bytes).subspan(fetched, part)))
            break;
        fetched += part;
        linear += part;
    }
    bytes.resize(fetched);
    return bytes;
}

Decoder::~Decoder() {
    if (m_handle != 0)
        cs_close(&m_handle);
}

std::optional<DecodedInstruction> Decoder::decode(std::span<const std::byte> bytes,
                                                  const CpuState& state) const {
    const CodeSize size = code_size(state);
    if (m_handle == 0)
        m_handle = open_capstone();
    if (m_handle == 0 || cs_option(m_handle, CS_OPT_MODE, capstone_mode(size)) != CS_ERR_OK)
        return std::nullopt;

    // cs_disasm_iter() takes uint8_t; std::byte may alias it.
    const auto* code = reinterpret_cast<const uint8_t*>(bytes.data()); // NOLINT(*-reinterpret-cast)
    size_t left = std::min(bytes.size(), longest_instruction);
    uint64_t address = state.registers.rip;
    cs_insn instruction{};
    if (!cs_disasm_iter(m_handle, &code, &left, &address, &instruction))
        return std::nullopt;
    if (instruction.size == 0 || instruction.size > std::min(bytes.size(), longest_instruction))
        return std::nullopt;

    const auto encoded = bytes.first(instruction.size);
    const auto encoding = parse_encoding(encoded, size);
    if (!encoding)
        return std::nullopt;
    auto stores = find_stores(*encoding, encoded, state, size);
    if (!stores)
        return std::nullopt;
    DecodedInstruction decoded{.text = instruction.mnemonic,
                               .length = static_cast<uint8_t>(instruction.size),
                               .stores = std::move(*stores),
                               .effect = store_effect(*encoding),
                               .marks_descriptor = marks_descriptor(*encoding)};
    if (instruction.op_str[0] != '\0')
        decoded.text.append(" ").append(instruction.op_str);
    return decoded;
}

} // namespace casemate
