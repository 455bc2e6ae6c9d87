// SPDX-License-Identifier: Apache-2.0
#include "guard/make_protection.hpp"

#include "guard/attributes_protection.hpp"
#include "guard/mapping_protection.hpp"
#include "guard/slots_protection.hpp"

#include <algorithm>

namespace casemate {

const char* name_of(ProtectionKind kind) {
    switch (kind) {
    case ProtectionKind::attributes:
        return "attributes";
    case ProtectionKind::mapping:
        return "mapping";
    case ProtectionKind::slots:
        break;
    }
    return "slots";
}

std::optional<ProtectionKind> protection_kind(std::string_view name) {
    const auto* const found =
        std::ranges::find(protection_kinds, name, [](ProtectionKind kind) { return name_of(kind); });
    return found == protection_kinds.end() ? std::nullopt : std::optional(*found);
}

Result<std::unique_ptr<Protection>> make_protection(ProtectionKind kind, const ProtectionParts& parts) {
    switch (kind) {
    case ProtectionKind::attributes:
        return TRY(AttributesProtection::create(parts.vm, parts.memory));
    case ProtectionKind::mapping:
        return std::make_unique<MappingProtection>(parts.memory, parts.sealing);
    case ProtectionKind::slots:
        break;
    }
    return std::make_unique<SlotsProtection>(
        SlotsProtection::Parts{.vm = parts.vm,
                               .memory = parts.memory,
                               .first_free_slot = parts.first_free_slot,
                               .with_vcpus_stopped = parts.with_vcpus_stopped,
                               .ram_lost = parts.ram_lost});
}

} // namespace casemate
