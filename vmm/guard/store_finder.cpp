// SPDX-License-Identifier: Apache-2.0
#include "guard/store_finder.hpp"

#include <algorithm>
#include <bit>
#include <cstring>

namespace casemate {

namespace {

constexpr uint64_t rflags_cf = 1ULL << 0;
constexpr uint64_t rflags_pf = 1ULL << 2;
constexpr uint64_t rflags_zf = 1ULL << 6;
constexpr uint64_t rflags_sf = 1ULL << 7;
constexpr uint64_t rflags_df = 1ULL << 10;
constexpr uint64_t rflags_of = 1ULL << 11;
constexpr uint64_t rflags_rf = 1ULL << 16;
constexpr uint64_t rflags_vm = 1ULL << 17;

constexpr uint8_t rax = 0;
constexpr uint8_t rcx = 1;
constexpr uint8_t rsp = 4;
constexpr uint8_t rbp = 5;
constexpr uint8_t rdi = 7;

constexpr uint64_t mask_of_bits(unsigned bits) {
    return bits >= 64 ? ~0ULL : (1ULL << bits) - 1;
}

constexpr uint64_t mask_of_bytes(uint64_t bytes) {
    return bytes >= 8 ? ~0ULL : (1ULL << (8 * bytes)) - 1;
}

uint64_t general_register(const kvm_regs& registers, uint8_t number) {
    switch (number & 15U) {
    case 0:
        return registers.rax;
    case 1:
        return registers.rcx;
    case 2:
        return registers.rdx;
    case 3:
        return registers.rbx;
    case 4:
        return registers.rsp;
    case 5:
        return registers.rbp;
    case 6:
        return registers.rsi;
    case 7:
        return registers.rdi;
    case 8:
        return registers.r8;
    case 9:
        return registers.r9;
    case 10:
        return registers.r10;
    case 11:
        return registers.r11;
    case 12:
        return registers.r12;
    case 13:
        return registers.r13;
    case 14:
        return registers.r14;
    default:
        return registers.r15;
    }
}

const kvm_segment& segment_register(const kvm_sregs& system, Segment segment) {
    switch (segment) {
    case Segment::es:
        return system.es;
    case Segment::cs:
        return system.cs;
    case Segment::ss:
        return system.ss;
    case Segment::ds:
        return system.ds;
    case Segment::fs:
        return system.fs;
    case Segment::gs:
        break;
    }
    return system.gs;
}

// SDM Vol. 1, appendix B "EFLAGS Condition Codes".
bool condition(uint64_t rflags, unsigned code) {
    const bool sign_differs = ((rflags & rflags_sf) != 0) != ((rflags & rflags_of) != 0);
    bool holds = false;
    switch (code >> 1U & 7U) {
    case 0:
        holds = (rflags & rflags_of) != 0;
        break;
    case 1:
        holds = (rflags & rflags_cf) != 0;
        break;
    case 2:
        holds = (rflags & rflags_zf) != 0;
        break;
    case 3:
        holds = (rflags & (rflags_cf | rflags_zf)) != 0;
        break;
    case 4:
        holds = (rflags & rflags_sf) != 0;
        break;
    case 5:
        holds = (rflags & rflags_pf) != 0;
        break;
    case 6:
        holds = sign_differs;
        break;
    default:
        holds = sign_differs || (rflags & rflags_zf) != 0;
    }
    return holds != ((code & 1U) != 0);
}

// Finds the stores of one instruction that Capstone knows, by opcode. Capstone's own account of what an
// operand's access is has gaps (4 and 5 call many stores reads, and some reads stores) and tells of no
// implicit ones.
class StoreFinder {
public:
    StoreFinder(const Encoding& encoding, std::span<const std::byte> bytes, const CpuState& state,
                CodeSize size)
        : m_encoding(encoding)
        , m_bytes(bytes)
        , m_state(state)
        , m_size(size) {}

    // False for what only looks like an instruction that Capstone knows: newer ones in the same place.
    bool find() {
        switch (m_encoding.map) {
        case OpcodeMap::one_byte:
            return one_byte();
        case OpcodeMap::two_byte:
            return m_encoding.vex ? vex_two_byte() : two_byte();
        case OpcodeMap::three_byte_38:
            return m_encoding.vex ? vex_three_byte_38() : three_byte_38();
        case OpcodeMap::three_byte_3a:
            break;
        }
        return three_byte_3a();
    }

    std::vector<StoreOperand> take_stores() { return std::move(m_stores); }

private:
    bool is_64_bit() const { return m_size == CodeSize::bits_64; }

    // Sizes (SDM Vol. 1, 3.6 "Operand-Size and Address-Size Attributes").
    uint64_t operand_bytes() const {
        if (is_64_bit())
            return m_encoding.wide ? 8 : m_encoding.operand_size_prefix ? 2 : 4;
        return (m_size == CodeSize::bits_16) != m_encoding.operand_size_prefix ? 2 : 4;
    }
    // Of the instructions whose operand is 64 bits wide without REX.W (SDM Vol. 2A, 2.2.1.7).
    uint64_t stack_operand_bytes() const {
        if (!is_64_bit())
            return operand_bytes();
        return m_encoding.operand_size_prefix && !m_encoding.wide ? 2 : 8;
    }
    uint64_t byte_or_operand_bytes() const { return (m_encoding.opcode & 1U) == 0 ? 1 : operand_bytes(); }
    // Of a general register in vector code, where 66 is no operand size.
    uint64_t wide_bytes() const { return is_64_bit() && m_encoding.wide ? 8 : 4; }
    uint64_t vector_bytes() const { return m_encoding.vector_256 ? 32 : 16; }
    unsigned stack_bits() const {
        if (is_64_bit())
            return 64;
        return m_state.system.ss.db != 0 ? 32 : 16;
    }

    // Values.
    uint64_t full_register(uint8_t number) const { return general_register(m_state.registers, number); }
    uint64_t value_of_register(uint8_t number, uint64_t bytes) const {
        // Without REX, 4 to 7 are AH, CH, DH and BH.
        if (bytes == 1 && !m_encoding.has_rex && number >= 4 && number < 8)
            return full_register(number & 3U) >> 8U & 0xffU;
        return full_register(number) & mask_of_bytes(bytes);
    }
    uint64_t xmm(unsigned byte_offset, uint64_t bytes) const {
        uint64_t value = 0;
        std::memcpy(&value, &m_state.fpu.xmm[m_encoding.reg & 15U][byte_offset],
                    std::min<uint64_t>(bytes, 8));
        return value;
    }
    // `bytes` at the end of the instruction, sign-extended. Empty when Capstone's length leaves other room.
    std::optional<uint64_t> immediate(size_t offset, size_t bytes) const {
        if (m_encoding.immediate_offset + offset + bytes > m_bytes.size())
            return std::nullopt;
        uint64_t value = 0;
        std::memcpy(&value, m_bytes.data() + m_encoding.immediate_offset + offset, bytes);
        const uint64_t sign = 1ULL << (8 * bytes - 1);
        return bytes >= 8 ? value : (value ^ sign) - sign;
    }
    std::optional<uint64_t> last_immediate(size_t bytes, uint64_t store_bytes) const {
        if (m_encoding.immediate_offset + bytes != m_bytes.size())
            return std::nullopt;
        auto value = immediate(0, bytes);
        if (value)
            *value &= mask_of_bytes(store_bytes);
        return value;
    }

    // Addresses. All wrap as the CPU's do.
    uint64_t linear(Segment segment, uint64_t offset) const {
        const uint64_t base = segment_register(m_state.system, segment).base;
        if (is_64_bit())
            return segment == Segment::fs || segment == Segment::gs ? base + offset : offset;
        return (base + offset) & mask_of_bits(32);
    }
    uint64_t next_instruction() const { return m_state.registers.rip + m_bytes.size(); }
    // Of the ModRM operand, within its segment; `rsp_change` for POP (SDM Vol. 2B, POP: the address is
    // computed after the increment).
    uint64_t effective_address(const MemoryOperand& memory, uint64_t rsp_change = 0) const {
        uint64_t address = memory.displacement;
        if (memory.rip_relative)
            address += next_instruction();
        if (memory.base) {
            address += full_register(*memory.base);
            if (*memory.base == rsp)
                address += rsp_change;
        }
        if (memory.index)
            address += full_register(*memory.index) << memory.scale_shift;
        return address & mask_of_bits(m_encoding.address_bits);
    }

    void add(uint64_t address, uint64_t bytes, std::optional<uint64_t> value = {}) {
        m_stores.push_back({.address = {address}, .bytes = bytes, .value = value});
    }
    // Into the ModRM operand when it is in memory.
    void to_memory(uint64_t bytes, std::optional<uint64_t> value = {}) {
        if (m_encoding.memory)
            add(linear(m_encoding.memory->segment, effective_address(*m_encoding.memory)), bytes, value);
    }
    void to_memory_from_register(uint64_t bytes) {
        to_memory(bytes, value_of_register(m_encoding.reg, bytes));
    }
    void to_memory_from_xmm(uint64_t bytes) { to_memory(bytes, xmm(0, bytes)); }
    void push(uint64_t bytes, std::optional<uint64_t> value = {}) {
        const uint64_t offset = (full_register(rsp) - bytes) & mask_of_bits(stack_bits());
        if (value)
            *value &= mask_of_bytes(bytes);
        add(linear(Segment::ss, offset), bytes, value);
    }
    // MASKMOVQ, MASKMOVDQU: the bytes that a mask selects at rDI.
    void to_masked_bytes(uint64_t bytes) {
        add(linear(m_encoding.override_with.value_or(Segment::ds),
                   full_register(rdi) & mask_of_bits(m_encoding.address_bits)),
            bytes);
    }

    // MOVS, STOS, INS (SDM Vol. 2B, REP): to ES:rDI, which no prefix overrides; F2 repeats as F3 does.
    void string(uint64_t unit, std::optional<uint64_t> value = {}) {
        const uint64_t mask = mask_of_bits(m_encoding.address_bits);
        const uint64_t offset = full_register(rdi) & mask;
        const uint64_t count = m_encoding.repeat ? full_register(rcx) & mask : 1;
        if (count == 0)
            return;
        add(linear(Segment::es, offset), unit, value);
        if (count == 1)
            return;
        const uint64_t top = is_64_bit() ? ~0ULL : mask_of_bits(32);
        // The run ends where the offset or the linear address would wrap.
        StoreOperand run{.is_run = true, .downward = (m_state.registers.rflags & rflags_df) != 0};
        if (run.downward) {
            run.bytes = std::min(count - 1, offset / unit) * unit;
            if (run.bytes == 0)
                return;
            const uint64_t last = linear(Segment::es, offset - 1);
            run.bytes = std::min(run.bytes - 1, last) + 1;
            run.address = {last - (run.bytes - 1)};
        } else {
            if (mask - offset < unit)
                return;
            run.bytes = std::min(count - 1, (mask - offset - unit + 1) / unit) * unit;
            if (run.bytes == 0)
                return;
            run.address = {linear(Segment::es, offset + unit)};
            run.bytes = std::min(run.bytes - 1, top - run.address.value) + 1;
        }
        m_stores.push_back(run);
    }

    // SDM Vol. 2A, ENTER: rBP, then one frame pointer less than the level, then the new frame's own. The CPU
    // also makes sure that it could store at the final rSP.
    void enter() {
        const auto allocated = immediate(0, 2);
        const auto level_byte = immediate(2, 1);
        if (!allocated || !level_byte)
            return;
        const uint64_t level = *level_byte & 31U;
        const uint64_t unit = stack_operand_bytes();
        const uint64_t pushed = unit * (level == 0 ? 1 : level + 1);
        push(pushed, level == 0 ? std::optional(full_register(rbp)) : std::nullopt);
        if ((*allocated & 0xffffU) != 0) {
            const uint64_t offset = full_register(rsp) - pushed - (*allocated & 0xffffU);
            add(linear(Segment::ss, offset & mask_of_bits(stack_bits())), unit);
        }
    }

    void call(uint64_t bytes, bool length_is_certain = true) {
        // With 66 in 64-bit mode Intel ignores the prefix, AMD pushes two bytes: within these eight.
        if (is_64_bit() && m_encoding.operand_size_prefix)
            push(8);
        else
            push(bytes, length_is_certain ? std::optional(next_instruction()) : std::nullopt);
    }
    // Capstone 4 takes the displacement for two bytes or four, in the wrong mode, behind some prefixes.
    void relative_call() {
        const uint64_t displacement_bytes = is_64_bit() ? 4 : operand_bytes();
        call(stack_operand_bytes(), last_immediate(displacement_bytes, 8).has_value());
    }
    // The return address, and above it CS (SDM Vol. 2A, CALL).
    void far_call() {
        const uint64_t unit = operand_bytes();
        const uint64_t address = next_instruction() & mask_of_bytes(unit);
        push(2 * unit, unit == 8 ? address : address | uint64_t{m_state.system.cs.selector} << (8 * unit));
    }

    // BTS, BTR and BTC with a register: any bit from the operand on, up and down (SDM Vol. 2A, figure 3-2).
    void to_bit() {
        if (!m_encoding.memory)
            return;
        const uint64_t bytes = operand_bytes();
        const uint64_t sign = 1ULL << (8 * bytes - 1);
        const uint64_t raw = full_register(m_encoding.reg) & mask_of_bytes(bytes);
        const auto bit = static_cast<int64_t>((raw ^ sign) - sign);
        const auto unit_shift = static_cast<unsigned>(std::countr_zero(bytes));
        const auto units = static_cast<uint64_t>(bit >> (unit_shift + 3));
        const uint64_t offset = effective_address(*m_encoding.memory) + (units << unit_shift);
        add(linear(m_encoding.memory->segment, offset & mask_of_bits(m_encoding.address_bits)), bytes);
    }

    bool one_byte() {
        const uint8_t opcode = m_encoding.opcode;
        // ADD OR ADC SBB AND SUB XOR, to ModRM.
        if (opcode < 0x38 && (opcode & 7U) < 2) {
            to_memory(byte_or_operand_bytes());
            return true;
        }
        if ((opcode & 0xf8U) == 0x50) {
            push(stack_operand_bytes(), full_register(m_encoding.opcode_register));
            return true;
        }
        if ((opcode & 0xf8U) == 0xd8) {
            x87();
            return true;
        }
        switch (opcode) {
        case 0x06:
        case 0x0e:
        case 0x16:
        case 0x1e: // PUSH ES, CS, SS, DS
            push_segment(static_cast<Segment>(opcode >> 3U));
            break;
        case 0x60:
            push(8 * operand_bytes()); // PUSHA
            break;
        case 0x68:
            push(stack_operand_bytes(),
                 last_immediate(std::min<uint64_t>(stack_operand_bytes(), 4), stack_operand_bytes()));
            break;
        case 0x6a:
            push(stack_operand_bytes(), last_immediate(1, stack_operand_bytes()));
            break;
        case 0x63: // ARPL; in 64-bit code MOVSXD, a load
            if (!is_64_bit())
                to_memory(2);
            break;
        case 0x6c:
        case 0x6d: // INS
            string(opcode == 0x6c ? 1 : std::min<uint64_t>(operand_bytes(), 4));
            break;
        case 0x80:
        case 0x81:
        case 0x82:
        case 0x83: // group 1; /7 is CMP
            if (m_encoding.extension() != 7)
                to_memory(opcode == 0x82 ? 1 : byte_or_operand_bytes());
            break;
        case 0x86:
        case 0x87: // XCHG
        case 0x88:
        case 0x89: // MOV
            to_memory_from_register(byte_or_operand_bytes());
            break;
        case 0x8c: // MOV from a segment register
            if (m_encoding.extension() < 6)
                to_memory(
                    2,
                    segment_register(m_state.system, static_cast<Segment>(m_encoding.extension())).selector);
            break;
        case 0x8f: // POP
            if (m_encoding.memory) {
                const MemoryOperand& memory = *m_encoding.memory;
                const uint64_t bytes = stack_operand_bytes();
                add(linear(memory.segment, effective_address(memory, bytes)), bytes);
            }
            break;
        case 0x9a:
            far_call();
            break;
        case 0x9c: // PUSHF: without VM and RF
            push(stack_operand_bytes(), m_state.registers.rflags & ~(rflags_vm | rflags_rf));
            break;
        case 0xa2:
        case 0xa3: // MOV to an offset in the instruction
            if (const auto offset = last_immediate(m_encoding.address_bits / 8U, 8)) {
                const uint64_t bytes = byte_or_operand_bytes();
                add(linear(m_encoding.override_with.value_or(Segment::ds),
                           *offset & mask_of_bits(m_encoding.address_bits)),
                    bytes, full_register(rax) & mask_of_bytes(bytes));
                break;
            }
            return false;
        case 0xa4:
        case 0xa5: // MOVS
            string(byte_or_operand_bytes());
            break;
        case 0xaa:
        case 0xab: // STOS
            string(byte_or_operand_bytes(), full_register(rax) & mask_of_bytes(byte_or_operand_bytes()));
            break;
        case 0xc0:
        case 0xc1:
        case 0xd0:
        case 0xd1:
        case 0xd2:
        case 0xd3: // shifts and rotates
            to_memory(byte_or_operand_bytes());
            break;
        case 0xc6:
        case 0xc7: // MOV
            to_memory(byte_or_operand_bytes(), last_immediate(std::min<uint64_t>(byte_or_operand_bytes(), 4),
                                                              byte_or_operand_bytes()));
            break;
        case 0xc8:
            enter();
            break;
        case 0xe8:
            relative_call();
            break;
        case 0xf6:
        case 0xf7: // NOT, NEG; the others of group 3 store to registers
            if (m_encoding.extension() == 2 || m_encoding.extension() == 3)
                to_memory(byte_or_operand_bytes());
            break;
        case 0xfe:
        case 0xff:
            group_5();
            break;
        default:
            break;
        }
        return true;
    }

    void push_segment(Segment segment) {
        push(stack_operand_bytes(), segment_register(m_state.system, segment).selector);
    }

    void group_5() {
        const uint8_t extension = m_encoding.extension();
        if (extension < 2) // INC, DEC
            to_memory(byte_or_operand_bytes());
        if (m_encoding.opcode == 0xfe)
            return;
        if (extension == 2)
            call(stack_operand_bytes());
        if (extension == 3)
            far_call();
        if (extension == 6)
            push(stack_operand_bytes(),
                 m_encoding.memory ? std::nullopt : std::optional(full_register(m_encoding.rm)));
    }

    // SDM Vol. 2A, FST, FIST, FISTTP, FBSTP, FNSTCW, FNSTSW, FNSTENV, FNSAVE.
    void x87() {
        const bool narrow = operand_bytes() == 2;
        switch (uint32_t{m_encoding.opcode} << 4U | m_encoding.extension()) {
        case 0xd92:
        case 0xd93:
        case 0xdb1:
        case 0xdb2:
        case 0xdb3:
            to_memory(4);
            break;
        case 0xd96:
            to_memory(narrow ? 14 : 28);
            break;
        case 0xd97:
            to_memory(2, m_state.fpu.fcw);
            break;
        case 0xdd7:
            to_memory(2, m_state.fpu.fsw);
            break;
        case 0xdb7:
        case 0xdf6:
            to_memory(10);
            break;
        case 0xdd1:
        case 0xdd2:
        case 0xdd3:
        case 0xdf7:
            to_memory(8);
            break;
        case 0xdd6:
            to_memory(narrow ? 94 : 108);
            break;
        case 0xdf1:
        case 0xdf2:
        case 0xdf3:
            to_memory(2);
            break;
        default:
            break;
        }
    }

    bool two_byte() {
        const uint8_t opcode = m_encoding.opcode;
        const Prefix prefix = m_encoding.mandatory;
        if ((opcode & 0xf0U) == 0x90) {
            to_memory(1, condition(m_state.registers.rflags, opcode & 15U) ? 1 : 0);
            return true;
        }
        switch (opcode) {
        case 0x00: // SLDT, STR
            if (m_encoding.extension() == 0)
                to_memory(2, m_state.system.ldt.selector);
            if (m_encoding.extension() == 1)
                to_memory(2, m_state.system.tr.selector);
            return true;
        case 0x01:
            return group_7();
        case 0x11:
            to_memory_from_xmm(prefix == Prefix::xf3 ? 4 : prefix == Prefix::xf2 ? 8 : 16);
            return true;
        case 0x13: // MOVLPS, MOVLPD
            if (prefix == Prefix::none || prefix == Prefix::x66)
                to_memory_from_xmm(8);
            return true;
        case 0x17: // MOVHPS, MOVHPD
            if (prefix == Prefix::none || prefix == Prefix::x66)
                to_memory(8, xmm(8, 8));
            return true;
        case 0x29:
            to_memory_from_xmm(16);
            return true;
        case 0x1b:
            return bound();
        case 0x2b: // MOVNTPS, MOVNTPD; MOVNTSS, MOVNTSD (AMD)
            to_memory_from_xmm(prefix == Prefix::xf3 ? 4 : prefix == Prefix::xf2 ? 8 : 16);
            return true;
        case 0x78: // VMREAD
            if (prefix == Prefix::none)
                to_memory(is_64_bit() ? 8 : 4);
            return true;
        case 0x7e: // MOVD, MOVQ; with F3 a load
            if (prefix == Prefix::x66)
                to_memory_from_xmm(wide_bytes());
            else if (prefix == Prefix::none)
                to_memory(wide_bytes());
            return true;
        case 0x7f:
            if (prefix == Prefix::none)
                to_memory(8);
            else
                to_memory_from_xmm(16);
            return true;
        case 0xa0:
        case 0xa8:
            push_segment(opcode == 0xa0 ? Segment::fs : Segment::gs);
            return true;
        case 0xa4:
        case 0xa5:
        case 0xac:
        case 0xad: // SHLD, SHRD
            to_memory(operand_bytes());
            return true;
        case 0xa6:
        case 0xa7: // PadLock
            return false;
        case 0xab:
        case 0xb3:
        case 0xbb:
            to_bit();
            return true;
        case 0xae:
            return group_15();
        case 0xb0:
        case 0xb1: // CMPXCHG stores the old value when it fails
        case 0xc0:
        case 0xc1: // XADD
            to_memory(byte_or_operand_bytes());
            return true;
        case 0xba:
            if (m_encoding.extension() > 4)
                to_memory(operand_bytes());
            return true;
        case 0xc3: // MOVNTI
            to_memory(wide_bytes(), full_register(m_encoding.reg) & mask_of_bytes(wide_bytes()));
            return true;
        case 0xc7:
            return group_9();
        case 0xd6: // MOVQ
            if (prefix == Prefix::x66)
                to_memory_from_xmm(8);
            return true;
        case 0xe7: // MOVNTQ, MOVNTDQ
            if (prefix == Prefix::none)
                to_memory(8);
            else if (prefix == Prefix::x66)
                to_memory_from_xmm(16);
            return true;
        case 0xf7: // MASKMOVQ, MASKMOVDQU
            to_masked_bytes(prefix == Prefix::x66 ? 16 : 8);
            return true;
        default:
            return true;
        }
    }

    // SDM Vol. 2A, BNDMOV, BNDSTX, BNDMK; Vol. 2B, NOP, which they all are while MPX is off. BNDSTX stores to
    // a table that BNDCFGU or BNDCFGS leads to, which are not here.
    bool bound() {
        if (m_encoding.mandatory == Prefix::x66)
            to_memory(is_64_bit() ? 16 : 8);
        return m_encoding.mandatory != Prefix::none || !m_encoding.memory;
    }

    // AMD APM Vol. 3, CLZERO: all of the cache line that rAX points into, 64 bytes on every CPU that has it.
    void clear_cache_line() {
        constexpr uint64_t line_bytes = 64;
        const uint64_t pointed_to = linear(m_encoding.override_with.value_or(Segment::ds),
                                           full_register(rax) & mask_of_bits(m_encoding.address_bits));
        add(pointed_to & ~(line_bytes - 1), line_bytes, 0);
    }

    // SGDT, SIDT, SMSW, CLZERO. With F3: shadow stacks, whose pages no other store reaches.
    bool group_7() {
        if (m_encoding.mandatory == Prefix::xf3 && m_encoding.extension() == 5)
            return false;
        if (!m_encoding.memory) {
            if (m_encoding.extension() == 7 && (m_encoding.rm & 7U) == 4)
                clear_cache_line();
            return true;
        }
        const kvm_sregs& system = m_state.system;
        const auto table = [&](const kvm_dtable& pseudo_descriptor) {
            to_memory(is_64_bit() ? 10 : 6,
                      pseudo_descriptor.limit | (pseudo_descriptor.base & mask_of_bits(is_64_bit() ? 48 : 32))
                                                    << 16U);
        };
        if (m_encoding.extension() == 0)
            table(system.gdt);
        if (m_encoding.extension() == 1)
            table(system.idt);
        if (m_encoding.extension() == 4)
            to_memory(2, system.cr0 & 0xffffU);
        return true;
    }

    // CMPXCHG8B, CMPXCHG16B, XSAVEC, XSAVES, VMPTRST.
    bool group_9() {
        switch (m_encoding.extension()) {
        case 1:
            to_memory(m_encoding.wide ? 16 : 8);
            return true;
        case 4:
        case 5:
            xsave();
            return true;
        case 6: // with F3 and a register SENDUIPI, which stores
            return m_encoding.mandatory != Prefix::xf3 || m_encoding.memory.has_value();
        case 7:
            if (m_encoding.mandatory == Prefix::none)
                to_memory(8);
            return true;
        default:
            return true;
        }
    }

    // FXSAVE, STMXCSR, XSAVE, XSAVEOPT. Capstone takes for the latter two also what F3 makes PTWRITE and
    // CLRSSBSY, and 66 CLWB. The AMD manual does not rule prefixes out for the others.
    bool group_15() {
        const bool repeat = m_encoding.mandatory == Prefix::xf3 || m_encoding.mandatory == Prefix::xf2;
        switch (m_encoding.extension()) {
        case 0:
            to_memory(512);
            return true;
        case 3:
            to_memory(4); // KVM_GET_FPU leaves MXCSR out
            return true;
        case 4:
            xsave();
            return !repeat;
        case 6:
            if (m_encoding.mandatory != Prefix::x66)
                xsave();
            return !repeat;
        default:
            return true;
        }
    }

    // SDM Vol. 1, 13.4 "XSAVE Area": the legacy region and the header, which any XSAVE may store, then the
    // components that EDX:EAX asks for. Where they lie and which exist XCR0 and CPUID tell, which are not
    // here: all components of the SDM together, each aligned to 64 bytes, take less than 16 KiB.
    void xsave() {
        constexpr uint64_t legacy_and_header_bytes = 576;
        constexpr uint64_t area_bytes = 16_KiB;
        to_memory(legacy_and_header_bytes);
        const uint64_t asked = m_state.registers.rdx << 32U | (m_state.registers.rax & mask_of_bits(32));
        if (!m_encoding.memory || (asked & ~3ULL) == 0)
            return;
        const uint64_t offset = effective_address(*m_encoding.memory) + legacy_and_header_bytes;
        add(linear(m_encoding.memory->segment, offset & mask_of_bits(m_encoding.address_bits)),
            area_bytes - legacy_and_header_bytes);
    }

    // SDM Vol. 2B, MOVDIR64B: to ES:reg, a register as wide as an address.
    void move_64_bytes() {
        constexpr uint64_t moved_bytes = 64;
        add(linear(Segment::es, full_register(m_encoding.reg) & mask_of_bits(m_encoding.address_bits)),
            moved_bytes);
    }

    bool three_byte_38() {
        const Prefix prefix = m_encoding.mandatory;
        switch (m_encoding.opcode) {
        case 0xf1: // MOVBE; with F2 CRC32
            if (prefix != Prefix::xf2 && m_encoding.memory) {
                const uint64_t bytes = operand_bytes();
                to_memory(bytes, std::byteswap(full_register(m_encoding.reg)) >> (64 - 8 * bytes));
            }
            return true;
        case 0xf5: // WRUSS
            return false;
        case 0xf6: // ADOX, ADCX; without prefix WRSS, and Capstone 5 takes it for that with F2, too
            return prefix == Prefix::x66 || prefix == Prefix::xf3;
        case 0xf8: // MOVDIR64B; ENQCMD, ENQCMDS
            if (prefix != Prefix::x66)
                return false;
            move_64_bytes();
            return true;
        case 0xf9: // MOVDIRI
            to_memory_from_register(wide_bytes());
            return prefix == Prefix::none;
        case 0xfc: // AADD and its kin
            return false;
        default:
            return true;
        }
    }

    bool three_byte_3a() {
        const bool x66 = m_encoding.mandatory == Prefix::x66;
        if (!x66)
            return true;
        // Behind the lanes that a register has the immediate's bits are ignored.
        const auto lane = last_immediate(1, 1);
        const auto element = [&](uint64_t bytes) {
            std::optional<uint64_t> value;
            if (lane)
                value = xmm(static_cast<unsigned>((*lane & (16 / bytes - 1)) * bytes), bytes);
            to_memory(bytes, value);
        };
        switch (m_encoding.opcode) {
        case 0x14: // PEXTRB, PEXTRW, PEXTRD or PEXTRQ, EXTRACTPS
            element(1);
            break;
        case 0x15:
            element(2);
            break;
        case 0x16:
            element(wide_bytes());
            break;
        case 0x17:
            element(4);
            break;
        case 0x19:
        case 0x39: // VEXTRACTF128, VEXTRACTI128: the upper half is not in kvm_fpu
            if (m_encoding.vex)
                to_memory(16, lane && (*lane & 1U) == 0 ? std::optional(xmm(0, 8)) : std::nullopt);
            break;
        case 0x1d: // VCVTPS2PH
            if (m_encoding.vex)
                to_memory(vector_bytes() / 2);
            break;
        default:
            break;
        }
        return true;
    }

    bool vex_two_byte() {
        const Prefix prefix = m_encoding.mandatory;
        const uint64_t scalar_or_vector = prefix == Prefix::xf3   ? 4
                                          : prefix == Prefix::xf2 ? 8
                                                                  : vector_bytes();
        switch (m_encoding.opcode) {
        case 0x11:
            to_memory_from_xmm(scalar_or_vector);
            break;
        case 0x13:
            to_memory_from_xmm(8);
            break;
        case 0x17:
            to_memory(8, xmm(8, 8));
            break;
        case 0x29:
        case 0x2b:
        case 0x7f:
        case 0xe7:
            to_memory_from_xmm(vector_bytes());
            break;
        case 0x7e:
            if (prefix == Prefix::x66)
                to_memory_from_xmm(wide_bytes());
            break;
        case 0x91: // KMOVB, KMOVW; with W, KMOVD and KMOVQ
            if (m_encoding.wide)
                to_memory(prefix == Prefix::x66 ? 4 : 8);
            else
                to_memory(prefix == Prefix::x66 ? 1 : 2);
            break;
        case 0xae:
            if (m_encoding.extension() == 3)
                to_memory(4); // as STMXCSR
            break;
        case 0xd6:
            to_memory_from_xmm(8);
            break;
        case 0xf7:
            to_masked_bytes(16);
            break;
        default:
            break;
        }
        return true;
    }

    bool vex_three_byte_38() {
        switch (m_encoding.opcode) {
        case 0x2e:
        case 0x2f:
        case 0x8e: // VMASKMOVPS, VMASKMOVPD, VPMASKMOV: the elements that a mask selects
            to_memory(vector_bytes());
            return true;
        case 0x4b: // TILELOADD, TILESTORED
            return false;
        default:
            return (m_encoding.opcode & 0xf0U) != 0xe0; // CMPccXADD
        }
    }

    const Encoding& m_encoding;
    std::span<const std::byte> m_bytes;
    const CpuState& m_state;
    CodeSize m_size;
    std::vector<StoreOperand> m_stores;
};

} // namespace

std::optional<std::vector<StoreOperand>> find_stores(const Encoding& encoding,
                                                     std::span<const std::byte> bytes, const CpuState& state,
                                                     CodeSize size) {
    StoreFinder finder(encoding, bytes, state, size);
    if (!finder.find())
        return std::nullopt;
    return finder.take_stores();
}

} // namespace casemate
