// SPDX-License-Identifier: Apache-2.0
#include "guard/attributes_protection.hpp"

#include "base/units.hpp"

#include <algorithm>
#include <vector>

namespace casemate {
namespace {

constexpr uint64_t locked = kvm_attribute_no_write | kvm_attribute_immutable;

// KVM notes an attribute for each page, uninterruptedly.
constexpr uint64_t step_bytes = 256_MiB;

std::vector<GuestRange> in_steps(std::span<const GuestRange> ranges) {
    std::vector<GuestRange> steps;
    for (const GuestRange& range : ranges)
        for (uint64_t at = range.start().value; at < range.end(); at += step_bytes)
            steps.push_back(GuestRange::of({at}, std::min(step_bytes, range.end() - at)));
    return steps;
}

} // namespace

bool AttributesProtection::is_offered(const Vm& vm) {
    return (vm.memory_attributes() & locked) == locked;
}

Result<std::unique_ptr<AttributesProtection>>
AttributesProtection::create(const Vm& vm, const GuestMemory& memory, std::stop_token ending) {
    if (!is_offered(vm))
        return fail(Error("this KVM has no memory attributes that deny writes for good")
                        .hint("boot the kernel that tools/host-kernel of Casemate's source builds, or use "
                              "--protect mapping"));
    if (vm.check_extension(KVM_CAP_X86_DISABLE_EPT_AD) != 0)
        TRY(vm.enable_capability(KVM_CAP_X86_DISABLE_EPT_AD, 0));
    return std::unique_ptr<AttributesProtection>(new AttributesProtection(vm, memory, std::move(ending)));
}

Result<void> AttributesProtection::protect(std::span<const GuestRange> wanted) {
    const std::vector<GuestRange> steps = in_steps(wanted);
    const std::span<const GuestRange> ranges = steps;
    if (ranges.empty())
        return {};
    const auto set = [this](const GuestRange& range, uint64_t attributes) -> Result<void> {
        if (m_ending.stop_requested())
            return fail(Error("lock by memory attributes: the machine is ending"));
        return m_vm.set_memory_attributes(range.start(), range.bytes(), attributes);
    };
    // Each succeeds whole or not at all; until the last one did, the others can be taken back.
    const auto others = ranges.first(ranges.size() - 1);
    for (size_t i = 0; i < ranges.size(); ++i) {
        auto done = set(ranges[i], i == others.size() ? locked : kvm_attribute_no_write);
        if (done)
            continue;
        for (const GuestRange& range : ranges.first(i))
            TRY(set(range, 0));
        return done;
    }
    // KVM needs memory for pages that had no attribute, not for these.
    for (const GuestRange& range : others)
        TRY(set(range, locked));
    return {};
}

Result<std::span<std::byte>> AttributesProtection::replace(const GuestRange& range, const Fill& fill) {
    return replace_in_place(m_memory, range, fill);
}

} // namespace casemate
