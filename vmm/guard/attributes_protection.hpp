// SPDX-License-Identifier: Apache-2.0
// AttributesProtection: KVM itself denies writes to locked pages, the guest's and its own, by memory
// attributes that nothing takes back while the VM lives. The monitor's mapping of them stays writable. The
// KVM that has them is the project's: tools/host-kernel-patches.
#pragma once

#include "guard/protection.hpp"
#include "kvm/vm.hpp"
#include "memory/guest_memory.hpp"

#include <memory>
#include <stop_token>
#include <utility>

namespace casemate {

class AttributesProtection final : public Protection {
public:
    // Whether KVM has such attributes for this VM.
    static bool is_offered(const Vm& vm);
    // Before the VM's first vCPU is created. Where the CPU's own walker would write to locked page tables and
    // KVM can keep it from that, it does from here on. Both outlive this. Fails where KVM has no such
    // attributes.
    // When `ending` is requested protect() fails between two steps, and does not undo what it did.
    static Result<std::unique_ptr<AttributesProtection>> create(const Vm& vm, const GuestMemory& memory,
                                                                std::stop_token ending = {});

    Result<void> protect(std::span<const GuestRange> ranges) override;
    Result<std::span<std::byte>> replace(const GuestRange& range, const Fill& fill) override;
    std::string name() const override { return "attributes"; }

private:
    AttributesProtection(const Vm& vm, const GuestMemory& memory, std::stop_token ending)
        : m_vm(vm)
        , m_memory(memory)
        , m_ending(std::move(ending)) {}

    const Vm& m_vm;
    const GuestMemory& m_memory;
    std::stop_token m_ending;
};

} // namespace casemate
