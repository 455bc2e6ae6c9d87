// SPDX-License-Identifier: Apache-2.0
#include "guard/encoding.hpp"

namespace casemate {

namespace {

constexpr uint8_t rex_w = 8;
constexpr uint8_t rex_r = 4;
constexpr uint8_t rex_x = 2;
constexpr uint8_t rex_b = 1;

// SDM Vol. 2D, appendix A "Opcode Map".
bool takes_modrm(OpcodeMap map, uint8_t opcode) {
    if (map == OpcodeMap::one_byte) {
        if (opcode < 0x40)
            return (opcode & 7U) < 4;
        switch (opcode) {
        case 0x62:
        case 0x63:
        case 0x69:
        case 0x6b:
        case 0xc0:
        case 0xc1:
        case 0xc4:
        case 0xc5:
        case 0xc6:
        case 0xc7:
        case 0xf6:
        case 0xf7:
        case 0xfe:
        case 0xff:
            return true;
        default:
            return (opcode & 0xf0U) == 0x80 || (opcode & 0xfcU) == 0xd0 || (opcode & 0xf8U) == 0xd8;
        }
    }
    if (map != OpcodeMap::two_byte)
        return true;
    switch (opcode) {
    case 0x04:
    case 0x05:
    case 0x06:
    case 0x07:
    case 0x08:
    case 0x09:
    case 0x0a:
    case 0x0b:
    case 0x0c:
    case 0x0e:
    case 0x77:
    case 0xa0:
    case 0xa1:
    case 0xa2:
    case 0xa8:
    case 0xa9:
    case 0xaa:
        return false;
    default:
        return (opcode & 0xf8U) != 0x30 && (opcode & 0xf0U) != 0x80 && (opcode & 0xf8U) != 0xc8;
    }
}

class Parser {
public:
    Parser(std::span<const std::byte> bytes, CodeSize size)
        : m_bytes(bytes)
        , m_long(size == CodeSize::bits_64)
        , m_size(size) {}

    std::optional<Encoding> parse() {
        if (!take_prefixes() || !take_opcode())
            return std::nullopt;
        m_encoding.address_bits = address_bits();
        m_encoding.opcode_register =
            static_cast<uint8_t>((m_encoding.opcode & 7U) | ((m_rex & rex_b) != 0 ? 8U : 0U));
        m_encoding.wide = (m_rex & rex_w) != 0;
        m_encoding.has_modrm = takes_modrm(m_encoding.map, m_encoding.opcode);
        if (m_encoding.has_modrm && !take_modrm())
            return std::nullopt;
        m_encoding.immediate_offset = m_at;
        return m_encoding;
    }

private:
    std::optional<uint8_t> peek(size_t ahead = 0) const {
        if (m_bytes.size() <= m_at + ahead)
            return std::nullopt;
        return static_cast<uint8_t>(m_bytes[m_at + ahead]);
    }
    std::optional<uint8_t> take() {
        const auto byte = peek();
        m_at += byte ? 1 : 0;
        return byte;
    }

    void override_with(Segment segment) {
        // In 64-bit mode the other overrides are ignored (SDM Vol. 1, 3.3.7.1).
        if (!m_long || segment == Segment::fs || segment == Segment::gs)
            m_encoding.override_with = segment;
    }

    // Legacy prefixes and REX; false when nothing follows.
    bool take_prefixes() {
        for (;;) {
            const auto byte = peek();
            if (!byte)
                return false;
            switch (*byte) {
            case 0x26:
                override_with(Segment::es);
                break;
            case 0x2e:
                override_with(Segment::cs);
                break;
            case 0x36:
                override_with(Segment::ss);
                break;
            case 0x3e:
                override_with(Segment::ds);
                break;
            case 0x64:
                override_with(Segment::fs);
                break;
            case 0x65:
                override_with(Segment::gs);
                break;
            case 0x66:
                m_encoding.operand_size_prefix = true;
                break;
            case 0x67:
                m_encoding.address_size_prefix = true;
                break;
            case 0xf0:
                m_lock = true;
                break;
            case 0xf2:
                m_repeat = Prefix::xf2;
                break;
            case 0xf3:
                m_repeat = Prefix::xf3;
                break;
            default:
                if (!m_long || (*byte & 0xf0U) != 0x40) {
                    finish_prefixes();
                    return true;
                }
                // A REX counts only right before the opcode: the next prefix takes it back.
                m_rex = *byte;
                m_encoding.has_rex = true;
                ++m_at;
                continue;
            }
            m_rex = 0;
            m_encoding.has_rex = false;
            ++m_at;
        }
    }

    void finish_prefixes() {
        m_encoding.repeat = m_repeat != Prefix::none;
        m_encoding.mandatory = m_repeat;
        if (m_repeat == Prefix::none && m_encoding.operand_size_prefix)
            m_encoding.mandatory = Prefix::x66;
    }

    // Whether C4, C5 and 62 start a VEX or EVEX prefix: always in 64-bit mode, else when LES, LDS or BOUND
    // would have a register operand.
    bool next_starts_vector_prefix() const {
        const auto next = peek(1);
        return m_long || (next && (*next & 0xc0U) == 0xc0);
    }

    bool take_opcode() {
        const uint8_t first = peek().value_or(0); // there is one: take_prefixes() saw it
        if ((first == 0xc4 || first == 0xc5) && next_starts_vector_prefix()) {
            ++m_at;
            return take_vex(first == 0xc4);
        }
        if (first == 0x62 && next_starts_vector_prefix())
            return false;
        const auto next = peek(1);
        if (first == 0x8f && next && (*next & 0x1fU) >= 8) // XOP (AMD APM Vol. 3, 1.2.4)
            return false;
        ++m_at;
        if (first != 0x0f) {
            m_encoding.opcode = first;
            return true;
        }
        return take_escaped_opcode();
    }

    bool take_escaped_opcode() {
        const auto second = take();
        if (!second)
            return false;
        m_encoding.map = OpcodeMap::two_byte;
        m_encoding.opcode = *second;
        if (*second != 0x38 && *second != 0x3a)
            return true;
        const auto third = take();
        if (!third)
            return false;
        m_encoding.map = *second == 0x38 ? OpcodeMap::three_byte_38 : OpcodeMap::three_byte_3a;
        m_encoding.opcode = *third;
        return true;
    }

    // SDM Vol. 2A, 2.3.5 "The VEX Prefix". Prefixes that are #UD before it: LOCK, 66, F2, F3, REX.
    bool take_vex(bool three_bytes) {
        if (m_lock || m_encoding.operand_size_prefix || m_encoding.repeat || m_encoding.has_rex)
            return false;
        const auto second = take();
        const auto third = three_bytes ? take() : second;
        const auto opcode = take();
        if (!second || !third || !opcode)
            return false;
        uint8_t map = 1;
        m_rex = (*second & 0x80U) != 0 ? 0 : rex_r;
        if (three_bytes) {
            map = *second & 0x1fU;
            if ((*second & 0x40U) == 0)
                m_rex |= rex_x;
            if ((*second & 0x20U) == 0)
                m_rex |= rex_b;
            if ((*third & 0x80U) != 0)
                m_rex |= rex_w;
        }
        // Outside 64-bit mode there are eight registers.
        if (!m_long)
            m_rex &= rex_w;
        if (map < 1 || map > 3)
            return false;
        m_encoding.vex = true;
        m_encoding.map = static_cast<OpcodeMap>(map);
        m_encoding.vector_256 = (*third & 4U) != 0;
        switch (*third & 3U) {
        case 0:
            m_encoding.mandatory = Prefix::none;
            break;
        case 1:
            m_encoding.mandatory = Prefix::x66;
            break;
        case 2:
            m_encoding.mandatory = Prefix::xf3;
            break;
        default:
            m_encoding.mandatory = Prefix::xf2;
        }
        m_encoding.opcode = *opcode;
        return true;
    }

    uint8_t address_bits() const {
        if (m_long)
            return m_encoding.address_size_prefix ? 32 : 64;
        return (m_size == CodeSize::bits_32) != m_encoding.address_size_prefix ? 32 : 16;
    }

    // The next `count` bytes, sign-extended.
    std::optional<uint64_t> take_signed(unsigned count) {
        uint64_t value = 0;
        for (unsigned i = 0; i < count; ++i) {
            const auto byte = take();
            if (!byte)
                return std::nullopt;
            value |= uint64_t{*byte} << (8 * i);
        }
        const uint64_t sign = 1ULL << (8 * count - 1);
        return (value ^ sign) - sign;
    }

    bool take_modrm() {
        const auto modrm = take();
        if (!modrm)
            return false;
        m_encoding.mod = static_cast<uint8_t>(*modrm >> 6U);
        m_encoding.reg = static_cast<uint8_t>((*modrm >> 3U & 7U) | ((m_rex & rex_r) != 0 ? 8U : 0U));
        m_encoding.rm = static_cast<uint8_t>((*modrm & 7U) | ((m_rex & rex_b) != 0 ? 8U : 0U));
        if (m_encoding.mod == 3)
            return true;
        MemoryOperand memory;
        const bool parsed = m_encoding.address_bits == 16 ? take_memory_16(memory) : take_memory(memory);
        if (m_encoding.override_with)
            memory.segment = *m_encoding.override_with;
        m_encoding.memory = memory;
        return parsed;
    }

    bool take_displacement(MemoryOperand& memory, unsigned count) {
        if (count == 0)
            return true;
        const auto displacement = take_signed(count);
        memory.displacement = displacement.value_or(0);
        return displacement.has_value();
    }

    // SDM Vol. 2A, table 2-1: BX+SI, BX+DI, BP+SI, BP+DI, SI, DI, BP, BX.
    bool take_memory_16(MemoryOperand& memory) {
        constexpr uint8_t bx = 3;
        constexpr uint8_t bp = 5;
        constexpr uint8_t si = 6;
        constexpr uint8_t di = 7;
        const uint8_t rm = m_encoding.rm & 7U;
        if (rm == 6 && m_encoding.mod == 0)
            return take_displacement(memory, 2);
        if (rm == 2 || rm == 3 || rm == 6) {
            memory.base = bp;
            memory.segment = Segment::ss;
        } else if (rm == 0 || rm == 1 || rm == 7) {
            memory.base = bx;
        }
        if (rm < 6)
            memory.index = (rm & 1U) != 0 ? di : si;
        return take_displacement(memory, m_encoding.mod);
    }

    // SDM Vol. 2A, tables 2-2 and 2-3, and 2.2.1.6 "RIP-Relative Addressing".
    bool take_memory(MemoryOperand& memory) {
        constexpr uint8_t sp = 4;
        constexpr uint8_t bp = 5;
        unsigned displacement_bytes = m_encoding.mod == 0 ? 0 : m_encoding.mod == 1 ? 1 : 4;
        if ((m_encoding.rm & 7U) == 4) {
            const auto sib = take();
            if (!sib)
                return false;
            const auto index = static_cast<uint8_t>((*sib >> 3U & 7U) | ((m_rex & rex_x) != 0 ? 8U : 0U));
            if (index != sp) {
                memory.index = index;
                memory.scale_shift = static_cast<uint8_t>(*sib >> 6U);
            }
            if ((*sib & 7U) == bp && m_encoding.mod == 0)
                displacement_bytes = 4;
            else
                memory.base = static_cast<uint8_t>((*sib & 7U) | ((m_rex & rex_b) != 0 ? 8U : 0U));
        } else if ((m_encoding.rm & 7U) == bp && m_encoding.mod == 0) {
            displacement_bytes = 4;
            memory.rip_relative = m_long;
        } else {
            memory.base = m_encoding.rm;
        }
        if (memory.base == sp || memory.base == bp)
            memory.segment = Segment::ss;
        return take_displacement(memory, displacement_bytes);
    }

    std::span<const std::byte> m_bytes;
    size_t m_at = 0;
    bool m_long;
    CodeSize m_size;
    bool m_lock = false;
    uint8_t m_rex = 0;
    Prefix m_repeat = Prefix::none;
    Encoding m_encoding;
};

} // namespace

std::optional<Encoding> parse_encoding(std::span<const std::byte> bytes, CodeSize size) {
    return Parser(bytes, size).parse();
}

} // namespace casemate
