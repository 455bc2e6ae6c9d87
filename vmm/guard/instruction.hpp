// SPDX-License-Identifier: Apache-2.0
// Instruction: what the bytes at RIP would store, where, and of what value, given the vCPU's registers.
#pragma once

#include "base/units.hpp"
#include "kvm/uapi.hpp"
#include "memory/guest_memory.hpp"

#include <array>
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

// A memory write that the instruction makes; `bytes` may cross a page.
struct StoreOperand {
    GuestLinear address;
    uint64_t bytes = 0;
    std::optional<uint64_t> value; // the low 8 bytes, when registers and the instruction alone determine it
};

struct DecodedInstruction {
    std::string text;   // "mov qword ptr [rax], rbx", Intel syntax
    uint8_t length = 0; // 1..15
    // Every explicit and implicit store (stack pushes, string destinations, sgdt and so on). For a string
    // instruction with REP: the element that is next, then one operand for the rest of the run.
    std::vector<StoreOperand> stores;
};

constexpr size_t longest_instruction = 15; // SDM Vol. 2A, 2.3.11

// The instruction bytes at CS:RIP through the guest's tables: up to 15, fewer when the page behind is not
// mapped or not RAM. Empty when the first byte cannot be fetched.
std::vector<std::byte> fetch_instruction(const GuestMemory& memory, const CpuState& state);

// Decodes `bytes` in the mode of `state` (16, 32 or 64 bits). Empty when the decoder does not know it. Never
// throws on any bytes. May be called from several threads, each with a Decoder of its own.
class Decoder {
public:
    Decoder();
    Decoder(const Decoder&) = delete;
    Decoder& operator=(const Decoder&) = delete;
    ~Decoder();
    std::optional<DecodedInstruction> decode(std::span<const std::byte> bytes, const CpuState& state) const;

private:
};

} // namespace casemate
