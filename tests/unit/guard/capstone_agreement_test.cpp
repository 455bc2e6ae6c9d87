// SPDX-License-Identifier: Apache-2.0
// Compares what the decoder makes of opcodes and addresses with Capstone's own account of operands, over all
// opcodes and all forms of an address: two readings of the manual that share no code.
#include "guard/instruction.hpp"

#include "assembled.hpp"

#include <algorithm>
#include <array>
#include <capstone/capstone.h>
#include <cstdio>
#include <doctest/doctest.h>
#include <set>
#include <string>

namespace casemate {
namespace {

using Bytes = std::vector<uint8_t>;

class Disassembler {
public:
    explicit Disassembler(cs_mode mode) {
        REQUIRE(cs_open(CS_ARCH_X86, mode, &m_handle) == CS_ERR_OK);
        REQUIRE(cs_option(m_handle, CS_OPT_DETAIL, CS_OPT_ON) == CS_ERR_OK);
        m_instruction = cs_malloc(m_handle);
    }
    Disassembler(const Disassembler&) = delete;
    Disassembler& operator=(const Disassembler&) = delete;
    ~Disassembler() {
        cs_free(m_instruction, 1);
        cs_close(&m_handle);
    }
    const cs_insn* decode(const Bytes& bytes, uint64_t address) {
        const uint8_t* code = bytes.data();
        size_t left = bytes.size();
        return cs_disasm_iter(m_handle, &code, &left, &address, m_instruction) ? m_instruction : nullptr;
    }

private:
    csh m_handle = 0;
    cs_insn* m_instruction = nullptr;
};

std::string hex(const Bytes& bytes) {
    std::string text;
    for (const uint8_t byte : bytes) {
        std::array<char, 4> digits{};
        (void)std::snprintf(digits.data(), digits.size(), "%02x ", static_cast<unsigned>(byte));
        text += digits.data();
    }
    return text;
}

const cs_x86_op* memory_operand(const cs_insn& instruction) {
    const cs_x86& x86 = instruction.detail->x86;
    const auto* const end = x86.operands + x86.op_count;
    const auto* const found =
        std::find_if(x86.operands, end, [](const cs_x86_op& operand) { return operand.type == X86_OP_MEM; });
    return found == end ? nullptr : found;
}

// Calls `take` with every opcode of every map, with each mandatory prefix, W, L, ModRM.reg, and a memory and
// a register operand.
template <typename F>
void for_all_opcodes(F take) {
    constexpr std::array<uint8_t, 15> legacy_prefixes{0x0f, 0x26, 0x2e, 0x36, 0x3e, 0x62, 0x64, 0x65,
                                                      0x66, 0x67, 0xc4, 0xc5, 0xf0, 0xf2, 0xf3};
    for (const unsigned modrm : {0x03U, 0xc3U})
        for (unsigned reg = 0; reg < 8; ++reg)
            for (unsigned map = 0; map < 4; ++map)
                for (unsigned opcode = 0; opcode < 256; ++opcode)
                    for (unsigned form = 0; form < 8; ++form) {
                        const auto op = static_cast<uint8_t>(opcode);
                        const auto last = static_cast<uint8_t>(modrm | reg << 3U);
                        if (map != 0)
                            for (const unsigned length : {0U, 4U})
                                take(Bytes{
                                    0xc4, static_cast<uint8_t>(0xe0 | map),
                                    static_cast<uint8_t>((form & 4U) << 5U | 0x78 | length | (form & 3U)), op,
                                    last});
                        if (map == 0 && ((op & 0xf0U) == 0x40 ||
                                         std::ranges::find(legacy_prefixes, op) != legacy_prefixes.end()))
                            continue;
                        if (map == 1 && (op == 0x38 || op == 0x3a))
                            continue;
                        Bytes bytes;
                        constexpr std::array<uint8_t, 4> mandatory{0, 0x66, 0xf3, 0xf2};
                        if ((form & 3U) != 0)
                            bytes.push_back(mandatory[form & 3U]);
                        if ((form & 4U) != 0)
                            bytes.push_back(0x48);
                        if (map != 0)
                            bytes.push_back(0x0f);
                        if (map > 1)
                            bytes.push_back(map == 2 ? 0x38 : 0x3a);
                        bytes.push_back(op);
                        bytes.push_back(last);
                        take(bytes);
                    }
}

TEST_CASE("whatever Capstone calls a store is one here, but for its mistakes") {
    // By mnemonic: of these Capstone 4.0.2 or 5.0.7 says wrongly that they store, or it takes bytes for them
    // that the CPU refuses or runs as something else.
    const std::set<std::string> mistakes{
        "test",       // F6 /0, F7 /0 only set flags
        "frstor",     // loads
        "movd",       // F3 REX.W 0F 7E is MOVQ, a load
        "vmptrst",    // 66 0F C7 /7 is no instruction
        "vmread",     // nor is 66 0F 78 with memory
        "xsaveopt64", // 66 0F AE /6 is CLWB
        "vpermil2ps", // load
        "vpermil2pd",
    };
    Disassembler capstone(CS_MODE_64);
    const Decoder decoder;
    const CpuState state = state_64();
    size_t known = 0;
    std::set<std::string> stores_not_seen;
    for_all_opcodes([&](Bytes bytes) {
        bytes.resize(longest_instruction);
        const cs_insn* instruction = capstone.decode(bytes, state.registers.rip);
        const auto decoded = decoder.decode(std::as_bytes(std::span(bytes)), state);
        if (instruction == nullptr) {
            if (decoded)
                FAIL("known without Capstone: " << hex(bytes));
            return;
        }
        if (!decoded)
            return;
        ++known;
        if (decoded->length != instruction->size)
            FAIL("another length: " << hex(bytes));
        const cs_x86_op* operand = memory_operand(*instruction);
        if (operand != nullptr && (operand->access & CS_AC_WRITE) != 0 && decoded->stores.empty() &&
            !mistakes.contains(instruction->mnemonic))
            stores_not_seen.insert(hex(bytes) + instruction->mnemonic);
    });
    CHECK(known > 20000);
    for (const std::string& form : stores_not_seen)
        FAIL_CHECK(form);
}

std::optional<uint64_t> register_value(const CpuState& state, unsigned id, uint64_t next_rip) {
    struct Names {
        std::array<unsigned, 3> ids; // 64, 32 and 16 bits
        uint64_t value;
    };
    const kvm_regs& r = state.registers;
    const std::array<Names, 16> names{{
        {{X86_REG_RAX, X86_REG_EAX, X86_REG_AX}, r.rax},
        {{X86_REG_RCX, X86_REG_ECX, X86_REG_CX}, r.rcx},
        {{X86_REG_RDX, X86_REG_EDX, X86_REG_DX}, r.rdx},
        {{X86_REG_RBX, X86_REG_EBX, X86_REG_BX}, r.rbx},
        {{X86_REG_RSP, X86_REG_ESP, X86_REG_SP}, r.rsp},
        {{X86_REG_RBP, X86_REG_EBP, X86_REG_BP}, r.rbp},
        {{X86_REG_RSI, X86_REG_ESI, X86_REG_SI}, r.rsi},
        {{X86_REG_RDI, X86_REG_EDI, X86_REG_DI}, r.rdi},
        {{X86_REG_R8, X86_REG_R8D, X86_REG_R8W}, r.r8},
        {{X86_REG_R9, X86_REG_R9D, X86_REG_R9W}, r.r9},
        {{X86_REG_R10, X86_REG_R10D, X86_REG_R10W}, r.r10},
        {{X86_REG_R11, X86_REG_R11D, X86_REG_R11W}, r.r11},
        {{X86_REG_R12, X86_REG_R12D, X86_REG_R12W}, r.r12},
        {{X86_REG_R13, X86_REG_R13D, X86_REG_R13W}, r.r13},
        {{X86_REG_R14, X86_REG_R14D, X86_REG_R14W}, r.r14},
        {{X86_REG_R15, X86_REG_R15D, X86_REG_R15W}, r.r15},
    }};
    if (id == X86_REG_INVALID || id == X86_REG_RIZ || id == X86_REG_EIZ)
        return 0;
    if (id == X86_REG_RIP || id == X86_REG_EIP)
        return next_rip;
    for (const Names& name : names)
        for (size_t i = 0; i < 3; ++i)
            if (name.ids[i] == id)
                return name.value & (~0ULL >> (i == 0 ? 0 : i == 1 ? 32 : 48));
    return std::nullopt;
}

void compare_addresses(const CpuState& state, cs_mode mode, std::initializer_list<int> prefixes) {
    Disassembler capstone(mode);
    const Decoder decoder;
    size_t compared = 0;
    for (const int prefix : prefixes)
        for (const bool small : {false, true})
            for (unsigned rex = mode == CS_MODE_64 ? 0x40 : 0; rex < 0x50; ++rex) {
                if (rex == 1)
                    break;
                for (unsigned modrm = 0; modrm < 0xc0; ++modrm)
                    for (unsigned sib = 0; sib < 0x100; sib += (modrm & 7U) == 4 ? 1 : 0x55) {
                        Bytes bytes;
                        if (prefix != 0)
                            bytes.push_back(static_cast<uint8_t>(prefix));
                        if (small)
                            bytes.push_back(0x67);
                        if (rex != 0)
                            bytes.push_back(static_cast<uint8_t>(rex));
                        for (const unsigned byte : {0x89U, modrm, sib, 0xf7U, 0x12U, 0x83U, 0x94U})
                            bytes.push_back(static_cast<uint8_t>(byte));
                        bytes.resize(longest_instruction);
                        const cs_insn* instruction = capstone.decode(bytes, state.registers.rip);
                        const auto decoded = decoder.decode(std::as_bytes(std::span(bytes)), state);
                        if (instruction == nullptr || !decoded || decoded->stores.size() != 1) {
                            FAIL_CHECK(hex(bytes));
                            return;
                        }
                        const cs_x86_op* operand = memory_operand(*instruction);
                        REQUIRE(operand != nullptr);
                        const uint64_t next_rip = state.registers.rip + instruction->size;
                        const auto base = register_value(state, operand->mem.base, next_rip);
                        const auto index = register_value(state, operand->mem.index, next_rip);
                        if (!base || !index) {
                            FAIL_CHECK(hex(bytes));
                            return;
                        }
                        uint64_t address = *base + *index * static_cast<uint64_t>(operand->mem.scale) +
                                           static_cast<uint64_t>(operand->mem.disp);
                        const unsigned bits = instruction->detail->x86.addr_size * 8U;
                        if (bits < 64)
                            address &= (1ULL << bits) - 1;
                        if (operand->mem.segment == X86_REG_FS)
                            address += state.system.fs.base;
                        else if (operand->mem.segment == X86_REG_GS)
                            address += state.system.gs.base;
                        else if (operand->mem.segment == X86_REG_ES && mode != CS_MODE_64)
                            address += state.system.es.base;
                        else if (mode != CS_MODE_64)
                            address += state.system.ds.base;
                        if (mode != CS_MODE_64)
                            address &= 0xffffffff;
                        ++compared;
                        if (address != decoded->stores[0].address.value ||
                            operand->size != decoded->stores[0].bytes) {
                            FAIL_CHECK(hex(bytes) << decoded->text);
                            return;
                        }
                    }
            }
    CHECK(compared > 5000);
}

TEST_CASE("every form of an address agrees with Capstone's operands" * doctest::test_suite("exhaustive")) {
    SUBCASE("64-bit code") {
        compare_addresses(state_64(), CS_MODE_64, {0, 0x64, 0x65});
    }
    // SS and DS alike: Capstone does not say which of them is the default.
    CpuState state = state_32();
    state.system.ss.base = state.system.ds.base;
    SUBCASE("32-bit code") {
        compare_addresses(state, CS_MODE_32, {0, 0x26, 0x64, 0x65});
    }
    state = state_16();
    state.system.ss.base = state.system.ds.base;
    SUBCASE("16-bit code") {
        compare_addresses(state, CS_MODE_16, {0, 0x26, 0x64, 0x65});
    }
}

TEST_CASE("Capstone's other architectures are not linked in") {
    // Each costs every monitor start-up time and memory; a new one gets its line in capstone_x86_only.cpp.
    for (int architecture = 0; architecture < CS_ARCH_MAX; ++architecture) {
        if (architecture == CS_ARCH_X86)
            continue;
        INFO("cs_arch " << architecture);
        csh handle = 0;
        const cs_err error = cs_open(static_cast<cs_arch>(architecture), static_cast<cs_mode>(0), &handle);
        CHECK(error == CS_ERR_ARCH);
        if (error == CS_ERR_OK)
            cs_close(&handle);
    }
}

} // namespace
} // namespace casemate
