// SPDX-License-Identifier: Apache-2.0
// MappingProtection: locked pages are read-only in the host mapping of guest RAM, which binds the guest, KVM
// and the monitor alike.
#pragma once

#include "base/mapping.hpp"
#include "guard/protection.hpp"
#include "memory/guest_memory.hpp"

#include <vector>

namespace casemate {

class MappingProtection final : public Protection {
public:
    // `memory` outlives this. Whoever runs many machines in one process may choose not to seal: what is
    // sealed stays allocated until the process ends.
    explicit MappingProtection(GuestMemory& memory,
                               GuestMemory::Sealing sealing = GuestMemory::Sealing::where_possible)
        : m_memory(memory)
        , m_sealing(sealing) {}

    Result<void> protect(std::span<const GuestRange> ranges) override;
    Result<std::span<std::byte>> replace(const GuestRange& range, const Fill& fill) override;
    std::string name() const override { return "mapping"; }

private:
    GuestMemory& m_memory;
    GuestMemory::Sealing m_sealing;
    std::vector<Mapping> m_views; // of replaced pages, the only writable ones
};

} // namespace casemate
