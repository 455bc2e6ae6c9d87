// SPDX-License-Identifier: Apache-2.0
#include "guard/make_protection.hpp"

#include "guard/attributes_protection.hpp"
#include "guard/layered_protection.hpp"
#include "guard/mapping_protection.hpp"
#include "guard/slots_protection.hpp"

#include <algorithm>
#include <iterator>
#include <string>
#include <utility>
#include <vector>

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

bool is_offered(ProtectionKind kind, const Vm& vm) {
    return kind != ProtectionKind::attributes || AttributesProtection::is_offered(vm);
}

Result<std::unique_ptr<Protection>> make_protection(ProtectionKind kind, const ProtectionParts& parts) {
    switch (kind) {
    case ProtectionKind::attributes:
        return TRY(AttributesProtection::create(parts.vm, parts.memory, parts.ending));
    case ProtectionKind::mapping:
        return std::make_unique<MappingProtection>(parts.memory, parts.sealing);
    case ProtectionKind::slots:
        break;
    }
    return TRY(SlotsProtection::create({.vm = parts.vm,
                                        .memory = parts.memory,
                                        .first_free_slot = parts.first_free_slot,
                                        .with_vcpus_stopped = parts.with_vcpus_stopped,
                                        .broken = parts.broken,
                                        .ending = parts.ending}));
}

Result<std::unique_ptr<Protection>> make_protection(std::span<const ProtectionKind> kinds,
                                                    const ProtectionParts& parts) {
    if (kinds.size() == 1)
        return make_protection(kinds.front(), parts);
    const auto has = [kinds](ProtectionKind kind) { return std::ranges::find(kinds, kind) != kinds.end(); };
    if (has(ProtectionKind::attributes) && has(ProtectionKind::slots))
        return fail(Error("attributes and slots cannot be layers of one protection: KVM leaves a memory slot "
                          "as it is once pages in it are denied for good")
                        .hint("use --protect attributes,mapping or mapping,slots"));
    // The host mapping comes last: it alone binds the monitor, and what it replaces is not there before.
    std::vector<ProtectionKind> order;
    std::ranges::copy_if(kinds, std::back_inserter(order),
                         [](ProtectionKind kind) { return kind != ProtectionKind::mapping; });
    if (has(ProtectionKind::mapping))
        order.push_back(ProtectionKind::mapping);
    std::vector<std::unique_ptr<Protection>> layers;
    layers.reserve(order.size());
    for (const ProtectionKind kind : order)
        layers.push_back(TRY(make_protection(kind, parts)));
    std::string name;
    for (const ProtectionKind kind : kinds)
        name.append(name.empty() ? "" : ",").append(name_of(kind));
    return std::make_unique<LayeredProtection>(std::move(name), std::move(layers), parts.broken);
}

} // namespace casemate
