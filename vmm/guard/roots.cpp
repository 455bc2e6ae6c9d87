// SPDX-License-Identifier: Apache-2.0
#include "guard/roots.hpp"

#include <algorithm>
#include <cassert>
#include <utility>

namespace casemate {
namespace {

constexpr uint64_t cr0_pg = 1ULL << 31;
constexpr uint64_t cr4_pae = 1ULL << 5;
constexpr uint64_t cr4_la57 = 1ULL << 12;
constexpr uint64_t efer_lma = 1ULL << 10;
constexpr uint64_t efer_nxe = 1ULL << 11;

// Where a pair's second page is.
constexpr uint64_t partner_bit = page_bytes;

// A kernel that maps all its RAM directly by small pages, and some of it again, needs 20 for each 2 MiB, for
// of a table with a page that is wanted only the first is looked at; the rest is for areas whose size does
// not depend on RAM. Linux 6.12 as shipped needs 2,413 with 2.9 GiB. A hostile guest can waste tenths of a
// second.
constexpr uint64_t most_work(uint64_t ram_bytes) {
    return 262144 + 64 * (ram_bytes / 1_MiB);
}

bool maps_image(LockKind kind) {
    return kind == LockKind::text || kind == LockKind::rodata;
}

uint64_t ram_end(const GuestMemory& memory) {
    uint64_t end = 0;
    for (const GuestMemory::Region& region : memory.regions())
        end = std::max(end, region.start.value + region.memory.size());
    return end;
}

} // namespace

PagingMode PagingMode::of(const kvm_sregs& registers) {
    return {.paging = (registers.cr0 & cr0_pg) != 0,
            .pae = (registers.cr4 & cr4_pae) != 0,
            .long_mode = (registers.efer & efer_lma) != 0,
            .five_levels = (registers.cr4 & cr4_la57) != 0,
            .no_execute = (registers.efer & efer_nxe) != 0};
}

GuestLinear first_address(size_t slot, const PagingMode& mode) {
    const unsigned shift = mode.five_levels ? 48 : 39;
    const uint64_t sign = slot >= first_upper_slot ? ~0ULL << (shift + 9) : 0;
    return {sign | uint64_t{slot} << shift};
}

uint32_t error_of(RootRefusal::Reason reason) {
    switch (reason) {
    case RootRefusal::Reason::outside_ram:
        return CASEMATE_EFAULT;
    case RootRefusal::Reason::bad_slot:
    case RootRefusal::Reason::misaligned_pair:
    case RootRefusal::Reason::not_long_mode:
        return CASEMATE_EINVAL;
    case RootRefusal::Reason::other_reference:
    case RootRefusal::Reason::lowers_policy:
    case RootRefusal::Reason::ending:
        return CASEMATE_EPERM;
    case RootRefusal::Reason::unprotected_table:
        return CASEMATE_EOPNOTSUPP;
    case RootRefusal::Reason::too_many_tables:
        break;
    }
    return CASEMATE_E2BIG;
}

const char* words(RootRefusal::Reason reason) {
    switch (reason) {
    case RootRefusal::Reason::outside_ram:
        return "it is not in RAM";
    case RootRefusal::Reason::bad_slot:
        return "its first kernel slot is not in the upper half";
    case RootRefusal::Reason::misaligned_pair:
        return "a pair of roots starts at an even page";
    case RootRefusal::Reason::not_long_mode:
        return "the CPU is not in long mode";
    case RootRefusal::Reason::other_reference:
        return "there is another one";
    case RootRefusal::Reason::lowers_policy:
        return "there is one with policy die_on_write";
    case RootRefusal::Reason::unprotected_table:
        return "a table that maps text or the direct map is not locked";
    case RootRefusal::Reason::ending:
        return "the machine is ending";
    case RootRefusal::Reason::too_many_tables:
        break;
    }
    return "it leads to more tables and mappings than this much RAM needs";
}

const char* name_of(RootMismatch::Kind kind) {
    switch (kind) {
    case RootMismatch::Kind::slot:
        return "slot";
    case RootMismatch::Kind::user_root_slot:
        return "user_root_slot";
    case RootMismatch::Kind::executable_user:
        return "executable_user";
    case RootMismatch::Kind::outside_ram:
        return "outside_ram";
    case RootMismatch::Kind::outside_arena:
        return "outside_arena";
    case RootMismatch::Kind::paging_mode:
        break;
    }
    return "paging_mode";
}

// False: not in RAM.
bool Roots::read_upper_half(GuestPhysical root, size_t first_slot, UpperHalf& entries) const {
    const auto wanted = std::span(entries).subspan(first_slot - half);
    std::ranges::fill(std::span(entries).first(first_slot - half), 0);
    return m_memory.read_words({root.value + first_slot * sizeof(uint64_t)}, wanted).has_value();
}

bool Roots::read_reference(const RootRequest& request, Reference& reference) const {
    return read_upper_half(request.root, request.first_slot, reference.kernel) &&
           (!request.pair ||
            read_upper_half({request.root.value | partner_bit}, request.first_slot, reference.user));
}

std::expected<void, RootRefusal> Roots::reference(const RootRequest& request, const PagingMode& mode,
                                                  std::span<const Lock> locks,
                                                  const IsProtected& is_protected,
                                                  const std::stop_token& ending) {
    using Reason = RootRefusal::Reason;
    const auto refuse = [](Reason reason) { return std::unexpected(RootRefusal{.reason = reason}); };
    if (!mode.has_long_tables())
        return refuse(Reason::not_long_mode);
    if (request.first_slot < half || request.first_slot >= table_entries)
        return refuse(Reason::bad_slot);
    if (request.pair && (request.root.value & partner_bit) != 0)
        return refuse(Reason::misaligned_pair);
    auto reference = std::make_unique<Reference>();
    reference->first_slot = request.first_slot;
    reference->pair = request.pair;
    reference->mode = mode;
    if (!is_aligned(request.root.value, page_bytes) || request.root.value > address_field ||
        !read_reference(request, *reference))
        return refuse(Reason::outside_ram);
    if (m_reference) {
        auto done = again(*reference, request.policy);
        if (done)
            m_named = request.root;
        return done;
    }
    const auto extent = walk(*reference, locks, is_protected, ending);
    if (!extent)
        return std::unexpected(extent.error());
    m_extent = *extent;
    m_named = request.root;
    m_policy = request.policy;
    m_reference = std::move(reference);
    m_current = m_reference.get();
    return {};
}

std::expected<void, RootRefusal> Roots::again(const Reference& reference, LockPolicy policy) {
    using Reason = RootRefusal::Reason;
    const Reference& now = *m_reference;
    if (reference.first_slot != now.first_slot || reference.pair != now.pair || reference.mode != now.mode ||
        first_difference(std::span(now.kernel), std::span(reference.kernel)) ||
        first_difference(std::span(now.user), std::span(reference.user)))
        return std::unexpected(RootRefusal{.reason = Reason::other_reference});
    if (policy < m_policy)
        return std::unexpected(RootRefusal{.reason = Reason::lowers_policy});
    m_policy = policy;
    return {};
}

std::expected<Roots::Extent, RootRefusal> Roots::walk(const Reference& reference, std::span<const Lock> locks,
                                                      const IsProtected& is_protected,
                                                      const std::stop_token& ending) const {
    std::vector<GuestRange> image;
    for (const Lock& lock : locks)
        if (maps_image(lock.kind))
            image.push_back(lock.range);
    const auto is_image = [&](const KernelLeaf& leaf) {
        const auto range = GuestRange::of(leaf.physical, leaf.bytes);
        const auto first = std::ranges::upper_bound(image, leaf.physical.value, {}, &GuestRange::end);
        return first != image.end() && first->overlaps(range);
    };
    const uint64_t end = ram_end(m_memory);
    std::optional<uint64_t> distance; // of the direct map
    const auto is_direct = [&](const KernelLeaf& leaf) {
        const uint64_t own = leaf.linear.value - leaf.physical.value;
        if (!distance)
            distance = own;
        return own == *distance && leaf.physical.value < end;
    };

    Extent extent;
    std::optional<KernelTable> unprotected;
    KernelTableWalk walk(
        m_memory, reference.mode.five_levels, {.work = most_work(m_memory.size()), .ending = ending},
        [&](const KernelLeaf& leaf) { return is_direct(leaf) || is_image(leaf); },
        [&](const KernelTable& table) {
            if (!table.wanted)
                return true;
            ++extent.required;
            if (is_protected(table.page))
                return true;
            unprotected = table;
            return false;
        });
    const auto entries = [&](const UpperHalf& of) {
        return std::span<const uint64_t>(of).subspan(reference.first_slot - half);
    };
    bool complete = walk.walk(entries(reference.kernel), reference.first_slot);
    if (complete && reference.pair)
        complete = walk.walk(entries(reference.user), reference.first_slot);
    if (unprotected)
        return std::unexpected(
            RootRefusal{.reason = RootRefusal::Reason::unprotected_table, .table = unprotected});
    if (!complete)
        return std::unexpected(RootRefusal{.reason = ending.stop_requested()
                                                         ? RootRefusal::Reason::ending
                                                         : RootRefusal::Reason::too_many_tables});
    extent.tables = walk.tables();
    extent.work = walk.work();
    return extent;
}

std::optional<RootMismatch> Roots::check(uint64_t cr3, const PagingMode& mode) const {
    const Reference* const reference = m_current.load(std::memory_order_acquire);
    if (reference == nullptr)
        return std::nullopt;
    const GuestPhysical root = root_of_cr3(cr3);
    if (mode != reference->mode)
        return RootMismatch{.kind = RootMismatch::Kind::paging_mode, .root = root, .mode = mode};
    return find_mismatch(*reference, root);
}

std::optional<RootMismatch> Roots::check_page(GuestPhysical root) const {
    const Reference* const reference = m_current.load(std::memory_order_acquire);
    if (reference == nullptr)
        return std::nullopt;
    return find_mismatch(*reference, root_of_cr3(root.value));
}

RootPages Roots::pages_of(uint64_t cr3) const {
    const Reference* const reference = m_current.load(std::memory_order_acquire);
    const GuestPhysical root = root_of_cr3(cr3);
    if (reference == nullptr || !reference->pair)
        return {.pages = {root}, .count = 1};
    return {.pages = {GuestPhysical{root.value & ~partner_bit}, GuestPhysical{root.value | partner_bit}},
            .count = 2};
}

// Where a root is forged, the slot that is tells more than where the root is not.
std::optional<RootMismatch> Roots::find_mismatch(const Reference& reference, GuestPhysical root) const {
    const GuestRange page = GuestRange::of(root, page_bytes);
    const Arena* const arena = m_arena.load(std::memory_order_acquire);
    if (arena != nullptr && arena->pages.contains(page))
        return std::nullopt;
    auto mismatch = compare(reference, root);
    if (!mismatch && arena != nullptr && !arena->reference.contains(page))
        mismatch =
            RootMismatch{.kind = RootMismatch::Kind::outside_arena, .root = root, .mode = reference.mode};
    return mismatch;
}

GuestRange Roots::reference_pages() const {
    return GuestRange::of(m_named, (m_reference->pair ? 2 : 1) * page_bytes);
}

RootContents Roots::contents() const {
    RootContents contents{.pair = m_reference->pair, .no_execute = m_reference->mode.no_execute};
    // What a walk would set is set, for it cannot write to a root that is locked.
    const auto accessed = [](uint64_t entry) {
        return (entry & entry_present) != 0 ? entry | entry_accessed : entry;
    };
    std::ranges::transform(m_reference->kernel, contents.kernel.begin() + half, accessed);
    std::ranges::transform(m_reference->user, contents.user.begin() + half, accessed);
    return contents;
}

void Roots::use_arena(const GuestRange& arena) {
    assert(m_reference && !m_owned_arena);
    m_owned_arena = std::make_unique<const Arena>(Arena{.pages = arena, .reference = reference_pages()});
    m_arena.store(m_owned_arena.get(), std::memory_order_release);
}

std::optional<RootMismatch> Roots::compare(const Reference& reference, GuestPhysical root) const {
    using Kind = RootMismatch::Kind;
    const GuestPhysical kernel_page{reference.pair ? root.value & ~partner_bit : root.value};
    const auto mismatch = [&](Kind kind, GuestPhysical page, size_t slot, uint64_t expected, uint64_t found) {
        return RootMismatch{.kind = kind,
                            .root = page,
                            .slot = slot,
                            .expected = expected,
                            .found = found,
                            .mode = reference.mode};
    };
    const auto difference = [&](Kind kind, GuestPhysical page,
                                const UpperHalf& expected) -> std::optional<RootMismatch> {
        UpperHalf found; // filled whole, or not looked at
        if (!read_upper_half(page, reference.first_slot, found))
            return mismatch(Kind::outside_ram, page, 0, 0, 0);
        if (const auto slot = first_difference(std::span<const uint64_t, half>(expected),
                                               std::span<const uint64_t, half>(found)))
            return mismatch(kind, page, half + *slot, expected.at(*slot), found.at(*slot));
        return std::nullopt;
    };
    if (auto found = difference(Kind::slot, kernel_page, reference.kernel))
        return found;
    if (!reference.pair)
        return std::nullopt;

    const GuestPhysical user_page{root.value | partner_bit};
    // linux v6.12 arch/x86/include/asm/pgtable.h, clone_pgd_range(): its kernel half is a copy as well.
    if (auto found = difference(Kind::user_root_slot, user_page, reference.user))
        return found;
    // arch/x86/mm/pti.c, __pti_set_user_pgtbl(): user space is not executable for the kernel.
    if (!reference.mode.no_execute)
        return std::nullopt;
    UpperHalf lower;
    if (!m_memory.read_words(kernel_page, lower))
        return mismatch(Kind::outside_ram, kernel_page, 0, 0, 0);
    for (size_t slot = 0; slot < half; ++slot)
        if ((lower.at(slot) & (entry_present | entry_no_execute)) == entry_present)
            return mismatch(Kind::executable_user, kernel_page, slot, lower.at(slot) | entry_no_execute,
                            lower.at(slot));
    return std::nullopt;
}

} // namespace casemate
