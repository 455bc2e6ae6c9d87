// SPDX-License-Identifier: Apache-2.0
// RootArena: a pool of page-table roots that the monitor alone writes: their kernel halves once, their user
// halves entry by entry.
#pragma once

#include "base/error.hpp"
#include "guard/protection.hpp"
#include "guard/roots.hpp"

#include <cstdint>
#include <expected>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <stop_token>
#include <vector>

namespace casemate {

// Why an entry is not written.
struct ArenaRefusal {
    enum class Reason {
        no_such_root,
        kernel_slot,
        other_table,  // the slot leads elsewhere already
        host_failure, // `error` tells; the root is as the guest asked, but CPUs may not see it so
    };
    Reason reason{};
    std::optional<Error> error;
};
// The positive CASEMATE_E* for the guest.
uint32_t error_of(ArenaRefusal::Reason reason);

// Under shadow paging KVM keeps tables of its own for those of the guest and learns of the guest's stores by
// write-protecting them; of what is written here it learns nothing (linux v6.12 arch/x86/kvm/mmu/mmu.c,
// kvm_mmu_track_write). It caches no entry that is not present, so one may be added at any time; but after
// one was taken out, its shadow leads on to a page that may hold anything by now, until all shadow pages are
// dropped. That costs much, so roots that were cleared wait for it: the guest comes back to them late.
//
// One thread at a time; vCPUs may run on the roots.
class RootArena {
public:
    // Makes KVM forget what it derived from the guest's tables; when it returns, no vCPU uses it any more.
    // Null: KVM derives nothing from them.
    using DropShadowPages = std::function<Result<void>()>;

    // Replaces the pages (of RAM, locked so that no host-side write begins or is under way; with a pair an
    // even number) by roots. The caller then drops shadow pages once: the guest may have walked them before.
    // Fails when `ending` is requested meanwhile: a GiB of roots takes its time.
    static Result<std::unique_ptr<RootArena>> create(const GuestRange& pages, const RootContents& contents,
                                                     Protection& protection,
                                                     DropShadowPages drop_shadow_pages,
                                                     const std::stop_token& ending = {});

    const GuestRange& pages() const { return m_pages; }
    uint64_t roots() const { return m_roots; }
    uint64_t shadow_drops() const { return m_shadow_drops; }

    using Done = std::expected<void, ArenaRefusal>;
    // Links a page of RAM, which the caller has judged, as a table.
    Done link(uint64_t root, uint64_t slot, GuestPhysical table);
    Done take_out(uint64_t root, uint64_t slot);
    // The root's whole user half.
    Done clear(uint64_t root);
    Done drop_shadow_pages();

private:
    RootArena(const GuestRange& pages, const RootContents& contents, std::span<std::byte> view,
              DropShadowPages drop_shadow_pages);

    uint64_t pages_per_root() const { return m_pair ? 2 : 1; }
    // Of the root's first page.
    uint64_t* entry(uint64_t root, uint64_t slot) const;
    void write(uint64_t root, uint64_t slot, uint64_t value) const;
    std::optional<ArenaRefusal> refuse(uint64_t root, uint64_t slot) const;

    GuestRange m_pages;
    bool m_pair;
    uint64_t m_first_page_bits; // what an entry there has and its partner has not
    uint64_t m_roots;
    std::span<std::byte> m_view; // the only writable one there is
    DropShadowPages m_drop_shadow_pages;
    std::vector<bool> m_stale; // a root: was cleared, and shadow pages were not dropped since
    uint64_t m_shadow_drops = 0;
};

} // namespace casemate
