// SPDX-License-Identifier: Apache-2.0
// SlotsProtection: locked pages lie in read-only memory slots, which bind the guest and KVM. KVM emulates a
// store to them and hands it over (KVM_EXIT_MMIO), with RIP behind it; where its emulator does not know the
// instruction it stops there, or does not go on and says nothing. The monitor's mapping of the pages stays
// writable.
#pragma once

#include "guard/protection.hpp"
#include "kvm/vm.hpp"
#include "memory/guest_memory.hpp"

#include <cstdint>
#include <functional>
#include <vector>

namespace casemate {

class SlotsProtection final : public Protection {
public:
    struct Parts {
        const Vm& vm; // RAM's region N is slot N
        const GuestMemory& memory;
        uint32_t first_free_slot = 0; // this number and all above it are free
        // Calls what it is given while no vCPU runs: between the end of an old slot and the start of a new
        // one there is no RAM there.
        std::function<void(const std::function<void()>&)> with_vcpus_stopped;
        // Some RAM has no slot any more and gets none: the VM cannot go on.
        std::function<void(const Error&)> ram_lost;
    };
    explicit SlotsProtection(Parts parts);

    Result<void> protect(std::span<const GuestRange> ranges) override;
    Result<std::span<std::byte>> replace(const GuestRange& range, const Fill& fill) override;
    size_t extra_memory_slots() const override {
        return m_slots.size() - m_parts.memory.regions().size();
    }
    std::string name() const override { return "slots"; }

private:
    struct Slot {
        uint32_t number;
        GuestRange range;
        bool read_only;
    };
    using Slots = std::vector<Slot>;

    Slots with_read_only(std::span<const GuestRange> ranges) const;
    Result<void> number(Slots& wanted) const;
    Result<void> change_to(const Slots& wanted);
    Result<void> create(const Slot& slot) const;
    Result<void> remove(const Slot& slot) const;

    Parts m_parts;
    Slots m_slots; // ascending
};

} // namespace casemate
