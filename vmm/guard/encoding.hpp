// SPDX-License-Identifier: Apache-2.0
// Encoding: the fields of one x86 instruction's bytes, as SDM Vol. 2A, chapter 2 "Instruction Format" lays
// them out. It tells opcode and operands apart; what they mean is for instruction.cpp.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>

namespace casemate {

enum class CodeSize : uint8_t { bits_16, bits_32, bits_64 };
// Numbered as in instructions (SDM Vol. 2B, "Segment Register (sreg) Field").
enum class Segment : uint8_t { es, cs, ss, ds, fs, gs };
enum class OpcodeMap : uint8_t { one_byte, two_byte, three_byte_38, three_byte_3a };
enum class Prefix : uint8_t { none, x66, xf3, xf2 };

struct MemoryOperand {
    Segment segment = Segment::ds;
    std::optional<uint8_t> base; // general register 0..15
    std::optional<uint8_t> index;
    uint8_t scale_shift = 0;
    bool rip_relative = false;
    uint64_t displacement = 0; // sign-extended
};

struct Encoding {
    OpcodeMap map = OpcodeMap::one_byte;
    uint8_t opcode = 0;
    bool vex = false;
    bool vector_256 = false;          // VEX.L
    Prefix mandatory = Prefix::none;  // F2 or F3 if there is one, else 66; of VEX: pp
    bool operand_size_prefix = false; // 66
    bool address_size_prefix = false; // 67
    bool repeat = false;              // F2 or F3
    bool has_rex = false;
    bool wide = false;                    // REX.W, VEX.W
    std::optional<Segment> override_with; // segment prefix that counts in this mode
    bool has_modrm = false;
    uint8_t mod = 0;
    uint8_t reg = 0;                     // with REX.R
    uint8_t rm = 0;                      // with REX.B
    uint8_t opcode_register = 0;         // low three opcode bits, with REX.B
    uint8_t address_bits = 0;            // 16, 32, 64
    std::optional<MemoryOperand> memory; // ModRM's
    size_t immediate_offset = 0;         // of the first byte behind all of these

    // Opcode extension in ModRM.reg.
    uint8_t extension() const { return reg & 7U; }
};

// Empty for bytes that end early, and for EVEX and XOP.
[[gnu::cold]] std::optional<Encoding> parse_encoding(std::span<const std::byte> bytes, CodeSize size);

} // namespace casemate
