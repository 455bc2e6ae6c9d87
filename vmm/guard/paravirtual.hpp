// SPDX-License-Identifier: Apache-2.0
// Paravirtual structures: what KVM itself writes into guest memory, where an MSR of the guest's says (linux
// Documentation/virt/kvm/x86/msr.rst). It tells nobody when a lock kept it from that. Of the other ways to
// name it an address, Hyper-V's and Xen's MSRs are not in a CPUID of ours, and a hypercall leaves no trace.
#pragma once

#include "guard/lock.hpp"
#include "memory/guest_range.hpp"

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>

namespace casemate {

struct ParavirtualMsr {
    uint32_t index;     // that KVM is asked for
    uint32_t old_index; // another name of the same; 0: none
    const char* name;
    uint64_t flags; // the bits below the address
    bool has_enable_bit;
    uint64_t bytes; // that KVM may write there
};
// linux v6.12 arch/x86/kvm/x86.c, kvm_set_msr_common(), and lapic.c, kvm_lapic_set_pv_eoi(). KVM writes the
// wall clock only when the MSR is written, the others whenever it likes.
inline constexpr std::array paravirtual_msrs{
    ParavirtualMsr{0x4b564d00, 0x11, "wall clock", 0, false, 12},
    ParavirtualMsr{0x4b564d01, 0x12, "system time", 1, true, 32},
    ParavirtualMsr{0x4b564d02, 0, "async page fault", 0x3f, true, 64},
    ParavirtualMsr{0x4b564d03, 0, "steal time", 0x3f, true, 64},
    ParavirtualMsr{0x4b564d04, 0, "PV EOI", 1, true, 1},
};
// As paravirtual_msrs has them; empty where this KVM has no such MSR.
using ParavirtualValues = std::array<std::optional<uint64_t>, paravirtual_msrs.size()>;

// Under either index; null for another MSR.
const ParavirtualMsr* find_paravirtual_msr(uint32_t index);
// Where KVM writes by this value; empty when it is switched off or not an address.
std::optional<GuestRange> written_by_kvm(const ParavirtualMsr& msr, uint64_t value);

// Which values of one vCPU that point into a lock have been told of: each once as long as it stays. On its
// thread.
class ToldParavirtual {
public:
    // `at` is the place in paravirtual_msrs.
    bool is_new(size_t at, uint64_t value, LockPolicy policy);
    void forget(size_t at) { m_told.at(at).reset(); }

private:
    struct Told {
        uint64_t value;
        LockPolicy policy; // may be raised
        bool operator==(const Told&) const = default;
    };
    std::array<std::optional<Told>, paravirtual_msrs.size()> m_told;
};

} // namespace casemate
