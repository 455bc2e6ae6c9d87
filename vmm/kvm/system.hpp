// SPDX-License-Identifier: Apache-2.0
// System: /dev/kvm.
#pragma once

#include "base/error.hpp"
#include "base/fd.hpp"
#include "kvm/uapi.hpp"

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace casemate {

class Vm;

// Whether KVM may keep shadows of its guests' page tables. It does not where the processor walks two sets of
// tables (NPT, EPT) and KVM uses that: its modules' parameters tell, and when they do not, it may.
bool may_shadow_page_tables(const std::string& modules = "/sys/module");

// One thread at a time.
class System {
public:
    // Opens /dev/kvm and insists on API version 12. The error says how to get a usable KVM.
    static Result<System> open();

    // KVM_CHECK_EXTENSION: 0 when there is none, else its value.
    int check_extension(int capability) const;
    // KVM_GET_SUPPORTED_CPUID: what this host could show a guest. KVM is asked once: it executes CPUID for
    // each leaf, and every one ends in the hypervisor below where there is one.
    Result<std::vector<kvm_cpuid_entry2>> supported_cpuid() const;
    // KVM_GET_MSRS of /dev/kvm: an MSR by which this processor tells what it is. Empty where KVM has it not.
    std::optional<uint64_t> feature_msr(uint32_t index) const;
    // KVM_CREATE_VM, type 0. The Vm is independent of the System afterwards.
    Result<Vm> create_vm() const;

private:
    System(Fd fd, uint32_t run_bytes)
        : m_fd(std::move(fd))
        , m_run_bytes(run_bytes) {}

    Fd m_fd;
    uint32_t m_run_bytes;                                                   // KVM_GET_VCPU_MMAP_SIZE
    mutable std::optional<std::vector<kvm_cpuid_entry2>> m_supported_cpuid; // once asked for
};

} // namespace casemate
