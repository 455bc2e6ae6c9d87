// SPDX-License-Identifier: Apache-2.0
// PciFunction: what a PCI device gives to the PCI host.
#pragma once

#include "base/units.hpp"
#include "devices/device.hpp"
#include "devices/pci_config.hpp"

#include <cstdint>
#include <optional>
#include <span>
#include <string_view>

namespace casemate {

// The PCI host calls everything here under its own lock, so config space needs none of the function's.
class PciFunction {
public:
    explicit PciFunction(const PciIdentity& identity)
        : m_config(identity) {}
    PciFunction(const PciFunction&) = delete;
    PciFunction& operator=(const PciFunction&) = delete;
    virtual ~PciFunction() = default;

    virtual std::string_view name() const = 0;
    PciConfig& config() { return m_config; }

    // Accesses to config space, each inside one aligned dword.
    virtual void read_config(uint32_t offset, std::span<std::byte> data) { m_config.read(offset, data); }
    virtual void write_config(uint32_t offset, std::span<const std::byte> data) {
        m_config.write(offset, data);
    }
    // While false, which it is at first, read_config() gives what config() holds and changes nothing, and
    // config() changes by write_config() alone. Once true it stays so.
    virtual bool config_reads_have_effects() const { return false; }

    // What answers accesses to BAR `index`, for each BAR that config() has.
    virtual Device* bar(unsigned index) = 0;
    // BAR `index` is reached at `start` from now on; nowhere when there is none. An access that was already
    // routed may still come.
    virtual void bar_moved(unsigned index, std::optional<GuestPhysical> start) = 0;

protected:
    PciConfig m_config; // NOLINT(*-non-private-member-variables-in-classes): derived functions fill it
};

} // namespace casemate
