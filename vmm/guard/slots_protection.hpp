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
#include <map>
#include <memory>
#include <set>
#include <stop_token>
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
        // KVM took a change half-way and did not take it back: some RAM has no slot any more, or is read-only
        // that should not be. The VM cannot go on. What was read-only before is not writable.
        std::function<void(const Error&)> broken;
        // The VM ends: protect() fails between two stops, and does not undo what it did.
        std::stop_token ending;
    };
    // Of RAM, however many more KVM has: each costs the host memory and time whenever KVM looks for one.
    static constexpr size_t most_slots = 4096;

    // Fails where KVM has no read-only slots. What `parts` names outlives this.
    static Result<std::unique_ptr<SlotsProtection>> create(Parts parts);

    // Stops the vCPUs once for every few ranges.
    Result<void> protect(std::span<const GuestRange> ranges) override;
    Result<std::span<std::byte>> replace(const GuestRange& range, const Fill& fill) override;
    size_t extra_memory_slots() const override { return m_slots.size() - m_parts.memory.regions().size(); }
    std::string name() const override { return "slots"; }
    bool may_hang_vcpus() const override { return true; }

    struct Slot {
        uint32_t number = 0;
        GuestRange range = GuestRange::of({0}, 0);
        bool read_only = false;
    };
    // Of RAM, ascending: together all of it, no read-only one next to another.
    std::vector<Slot> slots() const;

private:
    // Both cover the same RAM.
    struct Change {
        std::vector<Slot> removed;
        std::vector<Slot> created;
    };

    SlotsProtection(Parts parts, size_t limit);
    Result<Change> plan(std::span<const GuestRange> ranges) const;
    void number(Change& change) const;
    Result<void> make(const Change& change);
    Result<void> try_to_make(const Change& change, Change& done) const;
    Result<void> create(const Slot& slot) const;
    Result<void> remove(const Slot& slot) const;

    Parts m_parts;
    size_t m_limit;                    // slots at the same time
    std::map<uint64_t, Slot> m_slots;  // by where they start
    std::set<uint32_t> m_free_numbers; // of slots that went
    uint32_t m_next_number;            // this and all above it are free
};

} // namespace casemate
