// SPDX-License-Identifier: Apache-2.0
#include "guard/store_effect.hpp"

namespace casemate {
namespace {

constexpr uint8_t rax = 0;
constexpr uint8_t rdx = 2;

bool addresses_with(const Encoding& encoding, uint8_t number) {
    return encoding.memory && (encoding.memory->base == number || encoding.memory->index == number);
}

StoreEffect unless_in_address(const Encoding& encoding, uint8_t number) {
    return addresses_with(encoding, number) ? StoreEffect::unknown : StoreEffect::same_addresses;
}

// Of XCHG and XADD, which load the register of ModRM. AH, CH, DH and BH are parts of the first four.
StoreEffect loads_register(const Encoding& encoding) {
    const bool byte = (encoding.opcode & 1U) == 0;
    const bool high = byte && !encoding.has_rex && encoding.reg >= 4 && encoding.reg < 8;
    return unless_in_address(encoding, high ? encoding.reg & 3U : encoding.reg);
}

// ADC and SBB, RCL and RCR: of their groups 2 and 3.
StoreEffect unless_it_reads_carry(uint8_t extension) {
    return extension == 2 || extension == 3 ? StoreEffect::same_addresses : StoreEffect::repeatable;
}

StoreEffect of_one_byte(const Encoding& encoding) {
    const uint8_t opcode = encoding.opcode;
    if (opcode < 0x38 && (opcode & 7U) < 2)
        return unless_it_reads_carry(opcode >> 3U);
    if ((opcode & 0xf8U) == 0x50)
        return StoreEffect::push;
    switch (opcode) {
    case 0x68:
    case 0x6a:
    case 0x9a:
    case 0x9c:
    case 0xe8: // PUSH, CALL, PUSHF
        return StoreEffect::push;
    case 0x6c:
    case 0x6d:
    case 0xa4:
    case 0xa5:
    case 0xaa:
    case 0xab: // INS, MOVS, STOS
        return StoreEffect::string;
    case 0x80:
    case 0x81:
    case 0x83: // group 1
    case 0xc0:
    case 0xc1:
    case 0xd0:
    case 0xd1:
    case 0xd2:
    case 0xd3: // group 2
        return unless_it_reads_carry(encoding.extension());
    case 0x86:
    case 0x87:
        return loads_register(encoding);
    case 0x88:
    case 0x89:
    case 0x8c:
    case 0xa2:
    case 0xa3:
    case 0xc6:
    case 0xc7: // MOV
    case 0xf6:
    case 0xf7: // NOT, NEG
    case 0xfe: // INC, DEC
        return StoreEffect::repeatable;
    case 0xff: // and CALL, PUSH
        return encoding.extension() < 2 ? StoreEffect::repeatable : StoreEffect::push;
    case 0xd9:
    case 0xdd: // FNSTCW, FNSTSW; others change the x87 unit
        return encoding.extension() == 7 ? StoreEffect::repeatable : StoreEffect::same_addresses;
    case 0xdb:
    case 0xdf:
        return StoreEffect::same_addresses;
    default:
        return StoreEffect::unknown;
    }
}

StoreEffect of_two_byte(const Encoding& encoding) {
    const uint8_t opcode = encoding.opcode;
    if ((opcode & 0xf0U) == 0x90) // SETcc
        return StoreEffect::repeatable;
    switch (opcode) {
    case 0x00: // SLDT, STR
    case 0x01: // SGDT, SIDT, SMSW, CLZERO
    case 0x11:
    case 0x13:
    case 0x17:
    case 0x1b: // BNDMOV
    case 0x29:
    case 0x2b: // MOVUPS, MOVLPS, MOVHPS, MOVAPS, MOVNTPS and their kin
    case 0x7e:
    case 0x7f:
    case 0xd6:
    case 0xe7: // MOVD, MOVQ, MOVDQA, MOVNTDQ and their kin
    case 0xa4:
    case 0xa5:
    case 0xac:
    case 0xad: // SHLD, SHRD
    case 0xab:
    case 0xb3:
    case 0xba:
    case 0xbb: // BTS, BTR, BTC
    case 0xae: // FXSAVE, STMXCSR, XSAVE
    case 0xc3: // MOVNTI
    case 0xf7: // MASKMOVQ, MASKMOVDQU
        return StoreEffect::repeatable;
    case 0x78: // VMREAD
        return StoreEffect::same_addresses;
    case 0xa0:
    case 0xa8: // PUSH FS, GS
        return StoreEffect::push;
    case 0xb0:
    case 0xb1: // CMPXCHG
        return unless_in_address(encoding, rax);
    case 0xc0:
    case 0xc1: // XADD
        return loads_register(encoding);
    case 0xc7: // CMPXCHG8B, CMPXCHG16B; XSAVEC, XSAVES
        return addresses_with(encoding, rdx) ? StoreEffect::unknown : unless_in_address(encoding, rax);
    default:
        return StoreEffect::unknown;
    }
}

} // namespace

bool marks_descriptor(const Encoding& encoding) {
    if (encoding.vex)
        return false;
    if (encoding.map == OpcodeMap::one_byte) {
        switch (encoding.opcode) {
        case 0x07: // POP ES, SS, DS outside 64-bit code
        case 0x17:
        case 0x1f:
        case 0x8e: // MOV Sreg
        case 0x9a: // CALL, JMP ptr16:32 there
        case 0xea:
        case 0xc4: // LES, LDS there
        case 0xc5:
        case 0xca: // far RET, IRET
        case 0xcb:
        case 0xcf:
            return true;
        case 0xff: // far CALL, JMP
            return encoding.extension() == 3 || encoding.extension() == 5;
        default:
            return false;
        }
    }
    if (encoding.map != OpcodeMap::two_byte)
        return false;
    switch (encoding.opcode) {
    case 0x00: // LTR
        return encoding.extension() == 3;
    case 0xa1: // POP FS, GS
    case 0xa9:
    case 0xb2: // LSS, LFS, LGS
    case 0xb4:
    case 0xb5:
        return true;
    default:
        return false;
    }
}

StoreEffect store_effect(const Encoding& encoding) {
    switch (encoding.map) {
    case OpcodeMap::one_byte:
        return of_one_byte(encoding);
    case OpcodeMap::two_byte:
        return encoding.vex ? StoreEffect::same_addresses : of_two_byte(encoding);
    case OpcodeMap::three_byte_38: // MOVBE, MOVDIR64B, MOVDIRI
        return !encoding.vex ? StoreEffect::repeatable : StoreEffect::same_addresses;
    case OpcodeMap::three_byte_3a: // PEXTRB and its kin
        break;
    }
    return encoding.vex ? StoreEffect::same_addresses : StoreEffect::repeatable;
}

} // namespace casemate
