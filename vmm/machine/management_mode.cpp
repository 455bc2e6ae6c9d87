// SPDX-License-Identifier: Apache-2.0
#include "machine/management_mode.hpp"

#include "memory/layout.hpp"

#include <algorithm>
#include <array>

namespace casemate {
namespace {

// KVM API, KVM_SET_USER_MEMORY_REGION: bits 16 up of the slot say in whose address space; 1 is management
// mode's.
constexpr uint32_t management_slot = 1U << 16U;
constexpr uint32_t smbase_msr = 0x9e;

// SDM Vol. 3C, 33.4: it begins at SMBASE + 8000H, and its state is saved below SMBASE + 10000H.
constexpr uint64_t entry_offset = 0x8000;
constexpr layout::Area memory_area = layout::management_memory;

// OUT to a port of nobody's, again and again.
constexpr std::array<uint8_t, 4> leave{0xe6, 0x80, 0xeb, 0xfc};

} // namespace

Result<ManagementMode> ManagementMode::create(const Vm& vm) {
    ManagementMode mode;
    if (vm.check_extension(KVM_CAP_X86_SMM) == 0 || vm.check_extension(KVM_CAP_MULTI_ADDRESS_SPACE) < 2)
        return mode;
    mode.m_memory = TRY(Mapping::anonymous(memory_area.bytes, page_bytes));
    std::ranges::copy(std::as_bytes(std::span(leave)), mode.m_memory.data());
    TRY(vm.set_memory_slot(management_slot, memory_area.start, memory_area.bytes, mode.m_memory.data()));
    return mode;
}

Result<void> ManagementMode::set_up(const Vcpu& vcpu) const {
    if (m_memory.size() == 0)
        return {};
    const std::array smbase{
        kvm_msr_entry{.index = smbase_msr, .reserved = 0, .data = memory_area.start.value - entry_offset}};
    return vcpu.set_msrs(smbase);
}

} // namespace casemate
