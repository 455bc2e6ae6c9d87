// SPDX-License-Identifier: Apache-2.0
// Pinned translations: where the linear addresses lead at which a CPU's pinned registers have it enter the
// kernel. A locked page is of no use there once a page-table entry leads past it.
#pragma once

#include "base/units.hpp"
#include "guard/audit.hpp"
#include "memory/guest_memory.hpp"

#include <array>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <vector>

namespace casemate {

// A pinned address that leads elsewhere than at SEAL, or with other rights.
struct TranslationDifference {
    uint32_t vcpu = 0;
    const char* pinned_by = "";   // the register: "IDTR", "LSTAR", "CSTAR", "SYSENTER_EIP"
    std::optional<uint32_t> gate; // the vector, when it is where one of IDTR's gates leads
    GuestLinear linear;           // of the page
    GuestPhysical root;           // whose tables were walked
    unsigned level = 0;           // of the table that the entry is in: 1 maps 4 KiB, the root's is 4 or 5
    std::optional<GuestPhysical> entry; // the first entry on the way that is another, if any could be read
    uint64_t expected = 0;              // the entry
    uint64_t found = 0;
    std::optional<CpuState> state; // when it was found
};

// One vCPU's, taken once and compared ever after; on its thread.
class PinnedTranslations {
public:
    // Whether nobody can change the page any more.
    using IsLocked = std::function<bool(GuestPhysical)>;
    // One root, or a pair: kernel's page, then user space's.
    using RootPages = std::span<const GuestPhysical>;
    static constexpr size_t max_roots = 2;

    // Takes where these lead, in every root, at present:
    //  - the pages of the IDT, as far as vectors reach (SDM Vol. 3A, "Interrupt Descriptor Table");
    //  - in long mode what those of its gates lead to that are in locked pages: others may change;
    //  - LSTAR and CSTAR with EFER.SCE, SYSENTER_EIP where SYSENTER_CS is valid.
    // What leads nowhere has to go on doing so, but in the lower half, which is each process's own.
    // At most 5 reads for each page and root, and the table: a hostile one names 259 pages.
    void pin(const GuestMemory& memory, const AuditedState& state, RootPages roots,
             const IsLocked& is_locked);
    // The first difference in roots that are as many as pin() had. The mode and the pinned registers are as
    // they were. No more reads than pin().
    std::optional<TranslationDifference> compare(const GuestMemory& memory, const kvm_sregs& system,
                                                 RootPages roots) const;
    size_t pages() const { return m_pages.size(); }

private:
    static constexpr size_t max_levels = 5;
    // One way to a page.
    struct Way {
        std::optional<GuestPhysical> page;
        bool writable = false;
        bool user = false;
        bool no_execute = false;
        std::array<uint64_t, max_levels> entries{};
        size_t count = 0;
    };
    struct Page {
        GuestLinear linear;
        const char* pinned_by = "";
        std::optional<uint32_t> gate;
        std::array<Way, max_roots> ways{};
    };
    struct Walk;
    static bool leads_elsewhere(const Way& pinned, const Way& now);

    void add(const Walk& walk, GuestLinear address, const char* pinned_by, std::optional<uint32_t> gate);
    void add_table(const Walk& walk, const IsLocked& is_locked);

    std::vector<Page> m_pages;
};

} // namespace casemate
