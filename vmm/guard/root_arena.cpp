// SPDX-License-Identifier: Apache-2.0
#include "guard/root_arena.hpp"

#include "guard/casemate_abi.h"

#include <cassert>
#include <cstring>
#include <utility>

namespace casemate {
namespace {

// All that a walk would set is set, for it cannot write to a root that is locked.
constexpr uint64_t link_bits = entry_present | entry_writable | entry_user | entry_accessed | entry_dirty;

uint64_t load(const uint64_t* entry) {
    return __atomic_load_n(entry, __ATOMIC_RELAXED);
}

std::unexpected<ArenaRefusal> refused(ArenaRefusal::Reason reason) {
    return std::unexpected(ArenaRefusal{.reason = reason, .error = std::nullopt});
}

} // namespace

uint32_t error_of(ArenaRefusal::Reason reason) {
    return reason == ArenaRefusal::Reason::no_such_root ? CASEMATE_EINVAL : CASEMATE_EPERM;
}

Result<std::unique_ptr<RootArena>> RootArena::create(const GuestRange& pages, const RootContents& contents,
                                                     Protection& protection,
                                                     DropShadowPages drop_shadow_pages,
                                                     const std::stop_token& ending) {
    const auto fill = [&](std::span<std::byte> bytes) {
        for (size_t at = 0; at < bytes.size() && !ending.stop_requested(); at += page_bytes) {
            const bool of_user = contents.pair && at / page_bytes % 2 == 1;
            const TableEntries& entries = of_user ? contents.user : contents.kernel;
            std::memcpy(bytes.data() + at, entries.data(), page_bytes);
        }
    };
    const std::span<std::byte> view = TRY(protection.replace(pages, fill));
    if (ending.stop_requested())
        return fail(Error("fill the arena for page-table roots: the machine is ending"));
    return std::unique_ptr<RootArena>(new RootArena(pages, contents, view, std::move(drop_shadow_pages)));
}

RootArena::RootArena(const GuestRange& pages, const RootContents& contents, std::span<std::byte> view,
                     DropShadowPages drop_shadow_pages)
    : m_pages(pages)
    , m_pair(contents.pair)
    , m_first_page_bits(contents.pair && contents.no_execute ? entry_no_execute : 0)
    , m_roots(pages.bytes() / page_bytes / pages_per_root())
    , m_view(view)
    , m_drop_shadow_pages(std::move(drop_shadow_pages)) {
    if (m_drop_shadow_pages)
        m_stale.resize(m_roots);
}

uint64_t* RootArena::entry(uint64_t root, uint64_t slot) const {
    assert(root < m_roots && slot < first_upper_slot);
    return reinterpret_cast<uint64_t*>(m_view.data() + root * pages_per_root() * page_bytes) + slot;
}

// As the CPUs' walkers read: each entry at once.
void RootArena::write(uint64_t root, uint64_t slot, uint64_t value) const {
    uint64_t* const first = entry(root, slot);
    __atomic_store_n(first, value == 0 ? 0 : value | m_first_page_bits, __ATOMIC_SEQ_CST);
    if (m_pair)
        __atomic_store_n(first + table_entries, value, __ATOMIC_SEQ_CST);
}

std::optional<ArenaRefusal> RootArena::refuse(uint64_t root, uint64_t slot) const {
    if (root >= m_roots)
        return ArenaRefusal{.reason = ArenaRefusal::Reason::no_such_root, .error = std::nullopt};
    if (slot >= first_upper_slot)
        return ArenaRefusal{.reason = ArenaRefusal::Reason::kernel_slot, .error = std::nullopt};
    return std::nullopt;
}

RootArena::Done RootArena::link(uint64_t root, uint64_t slot, GuestPhysical table) {
    if (auto refusal = refuse(root, slot))
        return std::unexpected(std::move(*refusal));
    const uint64_t wanted = table.value | link_bits;
    const uint64_t now = load(entry(root, slot));
    if (now == (wanted | m_first_page_bits))
        return {};
    if (now != 0)
        return refused(ArenaRefusal::Reason::other_table);
    if (m_drop_shadow_pages && m_stale[root])
        if (auto done = drop_shadow_pages(); !done)
            return done;
    write(root, slot, wanted);
    return {};
}

RootArena::Done RootArena::take_out(uint64_t root, uint64_t slot) {
    if (auto refusal = refuse(root, slot))
        return std::unexpected(std::move(*refusal));
    if (load(entry(root, slot)) == 0)
        return {};
    write(root, slot, 0);
    return drop_shadow_pages();
}

RootArena::Done RootArena::clear(uint64_t root) {
    if (auto refusal = refuse(root, 0))
        return std::unexpected(std::move(*refusal));
    bool changed = false;
    for (uint64_t slot = 0; slot < first_upper_slot; ++slot)
        if (load(entry(root, slot)) != 0) {
            write(root, slot, 0);
            changed = true;
        }
    if (changed && m_drop_shadow_pages)
        m_stale[root] = true;
    return {};
}

RootArena::Done RootArena::drop_shadow_pages() {
    if (!m_drop_shadow_pages)
        return {};
    ++m_shadow_drops;
    if (auto done = m_drop_shadow_pages(); !done)
        return std::unexpected(
            ArenaRefusal{.reason = ArenaRefusal::Reason::host_failure, .error = std::move(done).error()});
    m_stale.assign(m_roots, false);
    return {};
}

} // namespace casemate
