// SPDX-License-Identifier: Apache-2.0
// Roots: which page-table roots a guest may run on. All have the kernel half of one reference.
#pragma once

#include "base/units.hpp"
#include "guard/kernel_tables.hpp"
#include "guard/lock.hpp"
#include "kvm/uapi.hpp"
#include "memory/guest_memory.hpp"

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <expected>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <stop_token>

namespace casemate {

// What decides how the CPU reads a root.
struct PagingMode {
    bool paging = false;      // CR0.PG
    bool pae = false;         // CR4.PAE
    bool long_mode = false;   // EFER.LMA
    bool five_levels = false; // CR4.LA57
    bool no_execute = false;  // EFER.NXE: without it bit 63 of an entry is reserved
    bool operator==(const PagingMode&) const = default;

    static PagingMode of(const kvm_sregs& registers);
    // Whether roots have 512 entries of 8 bytes.
    bool has_long_tables() const { return paging && pae && long_mode; }
};

// Root page and page-walk base in one: without PCID (11:0), LAM_U57 and LAM_U48 (61, 62) and bit 63, which
// says on a load that the TLB stays (SDM Vol. 3A, "Control Registers" and "PCIDs and TLBs").
constexpr GuestPhysical root_of_cr3(uint64_t cr3) {
    return {cr3 & address_field};
}

// The first address that goes through a root's slot.
GuestLinear first_address(size_t slot, const PagingMode& mode);

// What ROOT_REFERENCE asks for.
struct RootRequest {
    GuestPhysical root; // page-aligned
    // Page-table isolation: the page behind is what user space runs on (linux v6.12
    // arch/x86/include/asm/pgtable.h, kernel_to_user_pgdp()). Root is a multiple of two pages.
    bool pair = false;
    uint64_t first_slot = 0;
    LockPolicy policy = LockPolicy::read_only; // what a mismatch does
};

struct RootRefusal {
    enum class Reason {
        outside_ram,       // the root page, or its partner
        bad_slot,          // not in 256..511
        misaligned_pair,   // the root is its own partner's place
        not_long_mode,     // the caller's paging mode has no such roots
        other_reference,   // there is one, with another kernel half, first slot or mode
        lowers_policy,     // there is one with die_on_write
        unprotected_table, // a table that text or the direct map needs could be changed
        too_many_tables,   // more to walk than the RAM there is needs
        ending,            // the machine is
    };
    Reason reason{};
    std::optional<KernelTable> table; // the unprotected one
};
// The positive CASEMATE_E* for the guest, and words for people.
uint32_t error_of(RootRefusal::Reason reason);
const char* words(RootRefusal::Reason reason);

// Why a root is not one of the kernel's.
struct RootMismatch {
    enum class Kind {
        slot,            // an entry of the kernel half
        user_root_slot,  // an entry of the kernel half of the page that user space runs on
        executable_user, // the kernel's page of a pair maps user space without NX, which PTI always sets
        outside_ram,     // there is no table at all
        paging_mode,     // the CPU would read it otherwise than the reference
        outside_arena,   // its kernel half is right for now, but it is not one that nobody can change
    };
    Kind kind{};
    GuestPhysical root;    // the page that was compared
    size_t slot = 0;       // the first of the three kinds have it and its entry
    uint64_t expected = 0; // for executable_user: what was found, with NX
    uint64_t found = 0;
    PagingMode mode; // found
};
// "slot", "user_root_slot", "executable_user", "outside_ram", "paging_mode", "outside_arena": in events.
const char* name_of(RootMismatch::Kind kind);

// A root with the reference's kernel half and an empty user half, and with a pair what user space runs on.
struct RootContents {
    bool pair = false;
    bool no_execute = false; // entries may have NX
    TableEntries kernel{};
    TableEntries user{};
};

// The root pages that a CPU runs on by turns: one, or a pair's kernel page and user space's.
struct RootPages {
    std::array<GuestPhysical, 2> pages;
    size_t count = 1;
    std::span<const GuestPhysical> all() const { return std::span(pages).first(count); }
};

// check() and check_page() from any thread, without waiting; the rest from one thread at a time.
class Roots {
public:
    // `memory` outlives this.
    explicit Roots(const GuestMemory& memory)
        : m_memory(memory) {}
    Roots(const Roots&) = delete;
    Roots& operator=(const Roots&) = delete;
    ~Roots() = default;

    // Whether a page that holds a table can no longer be changed unnoticed.
    using IsProtected = std::function<bool(GuestPhysical)>;
    // Keeps a copy of the kernel half, when each table through which it maps text, read-only data (the
    // locks of these kinds) or the direct map is protected. The direct map is what lies at one distance from
    // its guest-physical address: that of the first page mapped from the first slot on. The root page itself
    // need not be protected. Asking for the same again succeeds and may raise the policy.
    std::expected<void, RootRefusal> reference(const RootRequest& request, const PagingMode& mode,
                                               std::span<const Lock> locks, const IsProtected& is_protected,
                                               const std::stop_token& ending = {});
    bool has_reference() const { return m_current.load() != nullptr; } // any thread
    // The pages that the guest named last. There is a reference.
    GuestRange reference_pages() const;
    RootContents contents() const;
    // The pages of a root arena: from here on its roots are right, and the reference as it is named now, but
    // no other. Nobody can change either any more. There is a reference; once only.
    void use_arena(const GuestRange& arena);
    LockPolicy policy() const { return m_policy; } // any thread
    // Of the tables that reference() walked.
    struct Extent {
        uint64_t tables = 0;   // reachable, each counted once a level
        uint64_t required = 0; // of these, protected because text or the direct map needs them
        uint64_t work = 0;     // as KernelTableWalk::Bounds counts
    };
    const Extent& extent() const { return m_extent; } // on the thread that calls reference()

    // The root that a CPU runs on. Of the arena's nothing is compared but the paging mode. With a pair,
    // either page of it is right, and both are compared. Empty: it is the kernel's, or there is no reference.
    std::optional<RootMismatch> check(uint64_t cr3, const PagingMode& mode) const;
    // The same of a root that is not loaded yet.
    std::optional<RootMismatch> check_page(GuestPhysical root) const;
    // Of the root that a CPU runs on, whatever is in it. Any thread.
    RootPages pages_of(uint64_t cr3) const;

private:
    static constexpr size_t half = table_entries / 2;
    using UpperHalf = std::array<uint64_t, half>; // slots 256 to 511; zero before the first kernel slot
    struct Reference {
        size_t first_slot = 0;
        bool pair = false;
        PagingMode mode;
        UpperHalf kernel{};
        UpperHalf user{}; // of the partner page
    };

    struct Arena {
        GuestRange pages;
        GuestRange reference;
    };

    bool read_upper_half(GuestPhysical root, size_t first_slot, UpperHalf& entries) const;
    bool read_reference(const RootRequest& request, Reference& reference) const;
    std::expected<Extent, RootRefusal> walk(const Reference& reference, std::span<const Lock> locks,
                                            const IsProtected& is_protected,
                                            const std::stop_token& ending) const;
    std::expected<void, RootRefusal> again(const Reference& reference, LockPolicy policy);
    std::optional<RootMismatch> find_mismatch(const Reference& reference, GuestPhysical root) const;
    std::optional<RootMismatch> compare(const Reference& reference, GuestPhysical root) const;

    const GuestMemory& m_memory;
    std::unique_ptr<const Reference> m_reference;
    std::atomic<const Reference*> m_current = nullptr;
    std::atomic<LockPolicy> m_policy = LockPolicy::read_only;
    Extent m_extent;
    GuestPhysical m_named; // the reference
    std::unique_ptr<const Arena> m_owned_arena;
    std::atomic<const Arena*> m_arena = nullptr;
};

} // namespace casemate
