// SPDX-License-Identifier: Apache-2.0
// Instruction: what the bytes at RIP would store, where, and of what value, given the vCPU's registers.
#pragma once

#include "base/units.hpp"
#include "guard/store_effect.hpp"
#include "kvm/uapi.hpp"
#include "memory/guest_memory.hpp"

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

namespace casemate {

// A vCPU as KVM_GET_REGS, KVM_GET_SREGS and KVM_GET_FPU tell it. All of it is the guest's.
struct CpuState {
    kvm_regs registers{};
    kvm_sregs system{};
    kvm_fpu fpu{}; // XMM registers, for values
};

// Whether it runs 64-bit code; other code has linear addresses of 32 bits.
bool uses_64_bit_code(const CpuState& state);
// Of the next instruction to run. In 64-bit code the base of CS does not count (SDM Vol. 3A, 3.4.4).
GuestLinear instruction_address(const CpuState& state);

// A memory write that the instruction makes. `bytes` is at least 1 and may cross pages; an operand at the top
// of the address space may go on at its bottom, a run never does.
struct StoreOperand {
    GuestLinear address;
    uint64_t bytes = 0;            // an upper bound where a mask or XCR0 decides
    std::optional<uint64_t> value; // the low 8 bytes, when registers and the instruction alone determine it
    bool is_run = false;           // the elements of a REP string instruction after the next one
    bool downward = false;         // of a run: from its highest address to its lowest (RFLAGS.DF)
};

struct DecodedInstruction {
    std::string text;   // "mov qword ptr [rax], rbx", Intel syntax
    uint8_t length = 0; // 1..15
    // Every explicit and implicit store (stack pushes, string destinations, sgdt and so on). For a string
    // instruction with REP: the element that is next, then one operand for the rest of the run. Not here:
    // what the CPU writes into descriptors (accessed, busy) and into shadow stacks, and frames that it pushes
    // for INT n, for exceptions, and through call gates.
    std::vector<StoreOperand> stores;
    StoreEffect effect = StoreEffect::unknown; // for 64-bit code with stores
    bool marks_descriptor = false;
};

constexpr size_t longest_instruction = 15; // SDM Vol. 2A, 2.3.11

// The instruction bytes at CS:RIP through the guest's tables: up to 15, fewer when the page behind is not
// mapped or not RAM. Empty when the first byte cannot be fetched.
std::vector<std::byte> fetch_instruction(const GuestMemory& memory, const CpuState& state);

// Decodes `bytes` in the mode of `state` (16, 32 or 64 bits). Empty when the decoder does not know it. Never
// throws on any bytes. May be called from several threads, each with a Decoder of its own. Capstone and its
// tables are first touched by the first decode().
class Decoder {
public:
    Decoder() = default;
    Decoder(const Decoder&) = delete;
    Decoder& operator=(const Decoder&) = delete;
    ~Decoder();
    [[gnu::cold]] std::optional<DecodedInstruction> decode(std::span<const std::byte> bytes,
                                                           const CpuState& state) const;

private:
    mutable size_t m_handle = 0; // Capstone's csh; 0: not opened yet, or it could not be
};

} // namespace casemate
