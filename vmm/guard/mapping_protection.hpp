// SPDX-License-Identifier: Apache-2.0
// MappingProtection: locked pages are read-only in the host mapping of guest RAM, which binds the guest, KVM
// and the monitor alike.
#pragma once

#include "guard/protection.hpp"
#include "memory/guest_memory.hpp"

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
    Result<Mapping> replace(const GuestRange& range,
                            const std::function<void(std::span<std::byte>)>& fill) override;
    const char* name() const override { return "mapping"; }

private:
    GuestMemory& m_memory;
    GuestMemory::Sealing m_sealing;
};

} // namespace casemate
