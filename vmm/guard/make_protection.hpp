// SPDX-License-Identifier: Apache-2.0
// The kinds of protection, and how one is made for a VM.
#pragma once

#include "guard/protection.hpp"
#include "kvm/vm.hpp"
#include "memory/guest_memory.hpp"

#include <array>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <stop_token>
#include <string_view>

namespace casemate {

enum class ProtectionKind {
    attributes, // KVM's memory attributes: AttributesProtection
    mapping,    // the host mapping's protection: MappingProtection
    slots,      // read-only memory slots: SlotsProtection
};
// The best first.
inline constexpr std::array protection_kinds{ProtectionKind::attributes, ProtectionKind::mapping,
                                             ProtectionKind::slots};
// "attributes", "mapping", "slots": as --protect takes them.
const char* name_of(ProtectionKind kind);
std::optional<ProtectionKind> protection_kind(std::string_view name);

// What protections are made from; all outlive them.
struct ProtectionParts {
    const Vm& vm; // has its RAM, region N in slot N, and no vCPU yet
    GuestMemory& memory;
    GuestMemory::Sealing sealing = GuestMemory::Sealing::where_possible;
    // For slots: SlotsProtection::Parts.
    uint32_t first_free_slot = 0;
    std::function<void(const std::function<void()>&)> with_vcpus_stopped;
    // For slots and for layers: it cannot be undone, and the VM cannot go on.
    std::function<void(const Error&)> broken;
    // The machine ends: what takes many steps fails between two of them, and is not undone.
    std::stop_token ending;
};
// False where making it would fail for what `vm`'s KVM lacks: it need not be tried then.
bool is_offered(ProtectionKind kind, const Vm& vm);
// Fails where the host does not have it; that it has does not say that it works: probe/host_probe.hpp does.
Result<std::unique_ptr<Protection>> make_protection(ProtectionKind kind, const ProtectionParts& parts);
// One or more kinds, all different: several are layers.
Result<std::unique_ptr<Protection>> make_protection(std::span<const ProtectionKind> kinds,
                                                    const ProtectionParts& parts);

} // namespace casemate
