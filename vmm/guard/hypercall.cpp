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

std::expected<GuestRange, uint32_t> parse_pages(const HypercallRegisters& registers) {
    if (registers.pages == 0 || !is_aligned(registers.address, page_bytes))
        return std::unexpected(CASEMATE_EINVAL);
    if (registers.pages > ~uint64_t{0} / page_bytes)
        return std::unexpected(CASEMATE_EFAULT);
    const auto range =
        GuestRange::from_guest(GuestValue(registers.address), GuestValue(registers.pages * page_bytes));
    if (!range)
        return std::unexpected(CASEMATE_EFAULT);
    return *range;
}

std::expected<Hypercall, uint32_t> parse_lock(const HypercallRegisters& registers,
                                              const Attributes& attributes) {
    if (attributes.policy > CASEMATE_POLICY_DIE_ON_WRITE || attributes.argument > CASEMATE_KIND_DATA)
        return std::unexpected(CASEMATE_EINVAL);
    const auto range = parse_pages(registers);
    if (!range)
        return std::unexpected(range.error());
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

std::expected<Hypercall, uint32_t> parse_root_arena(const HypercallRegisters& registers,
                                                    const Attributes& attributes) {
    if (attributes.policy > CASEMATE_POLICY_DIE_ON_WRITE || attributes.argument != 0)
        return std::unexpected(CASEMATE_EINVAL);
    const auto pages = parse_pages(registers);
    if (!pages)
        return std::unexpected(pages.error());
    return RootArenaCall{.pages = *pages, .policy = static_cast<LockPolicy>(attributes.policy)};
}

// CASEMATE_ROOT_ENTRY(): the slot in the low 9 bits.
struct RootEntry {
    uint64_t root, slot;
};
constexpr RootEntry root_entry(uint64_t argument) {
    constexpr unsigned slot_bits = 9;
    static_assert(CASEMATE_ROOT_ENTRY(uint64_t{1}, uint64_t{0}) == uint64_t{1} << slot_bits);
    return {.root = argument >> slot_bits, .slot = field(argument, 0, slot_bits)};
}

std::expected<Hypercall, uint32_t> parse_root_write(const HypercallRegisters& registers,
                                                    const Attributes& attributes) {
    if (attributes.policy != 0 || registers.pages != 1)
        return std::unexpected(CASEMATE_EINVAL);
    const auto page = parse_pages(registers);
    if (!page)
        return std::unexpected(page.error());
    const RootEntry entry = root_entry(attributes.argument);
    return RootWriteCall{.root = entry.root,
                         .slot = entry.slot,
                         .table = registers.address == 0 ? std::nullopt : std::optional(*page)};
}

std::expected<Hypercall, uint32_t> parse_root_clear(const HypercallRegisters& registers,
                                                    const Attributes& attributes) {
    const RootEntry entry = root_entry(attributes.argument);
    if (attributes.policy != 0 || registers.address != 0 || registers.pages != 1 || entry.slot != 0)
        return std::unexpected(CASEMATE_EINVAL);
    return RootClearCall{.root = entry.root};
}

std::expected<Hypercall, uint32_t> parse_root_clock(const HypercallRegisters& registers,
                                                    const Attributes& attributes) {
    if (attributes.policy > CASEMATE_POLICY_DIE_ON_WRITE || attributes.argument == 0 || registers.pages != 1)
        return std::unexpected(CASEMATE_EINVAL);
    const auto page = parse_pages(registers);
    if (!page)
        return std::unexpected(page.error());
    return RootClockCall{.page = *page,
                         .policy = static_cast<LockPolicy>(attributes.policy),
                         .interval = attributes.argument << CASEMATE_ROOT_CLOCK_UNIT_SHIFT};
}

} // namespace

std::expected<Hypercall, uint32_t> parse_hypercall(const HypercallRegisters& registers) {
    const Attributes attributes = take_apart(registers.attributes);
    if (attributes.mark != CASEMATE_MARK)
        return std::unexpected(CASEMATE_EOPNOTSUPP);
    const bool plain = attributes.policy == 0 && attributes.argument == 0;
    const bool known = attributes.call <= CASEMATE_CALL_SEAL || attributes.call == CASEMATE_CALL_ROOT_CLOCK;
    if (attributes.reserved != 0 && known)
        return std::unexpected(CASEMATE_EINVAL);
    switch (attributes.call) {
    case CASEMATE_CALL_LOCK:
        return parse_lock(registers, attributes);
    case CASEMATE_CALL_ROOT_REFERENCE:
        return parse_root_reference(registers, attributes);
    case CASEMATE_CALL_ROOT_CHECK:
        return plain ? parse_root_check(registers) : std::unexpected(uint32_t{CASEMATE_EINVAL});
    case CASEMATE_CALL_ROOT_ARENA:
        return parse_root_arena(registers, attributes);
    case CASEMATE_CALL_ROOT_WRITE:
        return parse_root_write(registers, attributes);
    case CASEMATE_CALL_ROOT_CLEAR:
        return parse_root_clear(registers, attributes);
    case CASEMATE_CALL_ROOT_CLOCK:
        return parse_root_clock(registers, attributes);
    case CASEMATE_CALL_FEATURES:
    case CASEMATE_CALL_SEAL:
        if (!plain)
            return std::unexpected(CASEMATE_EINVAL);
        if (attributes.call == CASEMATE_CALL_SEAL)
            return SealCall{};
        return FeaturesCall{};
    default:
        return std::unexpected(CASEMATE_ENOSYS);
    }
}

} // namespace casemate
