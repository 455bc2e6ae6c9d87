// SPDX-License-Identifier: Apache-2.0
#include "guard/hypercall.hpp"

namespace casemate {
namespace {

struct Attributes {
    uint64_t mark, call, policy, argument, reserved;
};

// A field of `bits` bits whose lowest is bit `shift`.
constexpr uint64_t field(uint64_t value, unsigned shift, unsigned bits) {
    return (value >> shift) & ((uint64_t{1} << bits) - 1);
}

constexpr Attributes take_apart(uint64_t value) {
    return {.mark = field(value, CASEMATE_MARK_SHIFT, 16),
            .call = field(value, CASEMATE_CALL_SHIFT, 8),
            .policy = field(value, CASEMATE_POLICY_SHIFT, 8),
            .argument = field(value, CASEMATE_ARGUMENT_SHIFT, 27),
            .reserved = field(value, 0, CASEMATE_ARGUMENT_SHIFT)};
}

std::expected<Hypercall, uint32_t> parse_lock(const HypercallRegisters& registers,
                                              const Attributes& attributes) {
    if (attributes.policy > CASEMATE_POLICY_DIE_ON_WRITE || attributes.argument > CASEMATE_KIND_DATA ||
        registers.pages == 0 || !is_aligned(registers.address, page_bytes))
        return std::unexpected(CASEMATE_EINVAL);
    if (registers.pages > ~uint64_t{0} / page_bytes)
        return std::unexpected(CASEMATE_EFAULT);
    const auto range =
        GuestRange::from_guest(GuestValue(registers.address), GuestValue(registers.pages * page_bytes));
    if (!range)
        return std::unexpected(CASEMATE_EFAULT);
    return LockCall{Lock{.range = *range,
                         .policy = static_cast<LockPolicy>(attributes.policy),
                         .kind = static_cast<LockKind>(attributes.argument)}};
}

std::expected<Hypercall, uint32_t> parse_root_reference(const HypercallRegisters& registers,
                                                        const Attributes& attributes) {
    if (attributes.policy > CASEMATE_POLICY_DIE_ON_WRITE || registers.pages == 0 || registers.pages > 2 ||
        !is_aligned(registers.address, page_bytes))
        return std::unexpected(CASEMATE_EINVAL);
    return RootReferenceCall{RootRequest{.root = {registers.address},
                                         .pair = registers.pages == 2,
                                         .first_slot = attributes.argument,
                                         .policy = static_cast<LockPolicy>(attributes.policy)}};
}

std::expected<Hypercall, uint32_t> parse_root_check(const HypercallRegisters& registers) {
    if (registers.pages != 1 || !is_aligned(registers.address, page_bytes))
        return std::unexpected(CASEMATE_EINVAL);
    if (registers.address == 0)
        return RootCheckCall{};
    return RootCheckCall{.next = GuestPhysical{registers.address}};
}

} // namespace

std::expected<Hypercall, uint32_t> parse_hypercall(const HypercallRegisters& registers) {
    const Attributes attributes = take_apart(registers.attributes);
    if (attributes.mark != CASEMATE_MARK)
        return std::unexpected(CASEMATE_EOPNOTSUPP);
    const bool plain = attributes.policy == 0 && attributes.argument == 0;
    switch (attributes.call) {
    case CASEMATE_CALL_LOCK:
        return attributes.reserved == 0 ? parse_lock(registers, attributes)
                                        : std::unexpected(uint32_t{CASEMATE_EINVAL});
    case CASEMATE_CALL_ROOT_REFERENCE:
        return attributes.reserved == 0 ? parse_root_reference(registers, attributes)
                                        : std::unexpected(uint32_t{CASEMATE_EINVAL});
    case CASEMATE_CALL_ROOT_CHECK:
        return plain && attributes.reserved == 0 ? parse_root_check(registers)
                                                 : std::unexpected(uint32_t{CASEMATE_EINVAL});
    case CASEMATE_CALL_FEATURES:
    case CASEMATE_CALL_SEAL:
        if (!plain || attributes.reserved != 0)
            return std::unexpected(CASEMATE_EINVAL);
        if (attributes.call == CASEMATE_CALL_SEAL)
            return SealCall{};
        return FeaturesCall{};
    default:
        return std::unexpected(CASEMATE_ENOSYS);
    }
}

} // namespace casemate
