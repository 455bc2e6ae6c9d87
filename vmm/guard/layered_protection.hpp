// SPDX-License-Identifier: Apache-2.0
// LayeredProtection: several protections of the same pages, so that one holds where another has a gap.
#pragma once

#include "guard/protection.hpp"

#include <functional>
#include <memory>
#include <string>
#include <vector>

namespace casemate {

class LayeredProtection final : public Protection {
public:
    // Two or more, in the order in which they protect; none knows of the others. The last binds the monitor
    // too, if one does: it gives the view of replaced pages. `broken`: one layer refused what an earlier one
    // has protected for good; the pages are not protected as was asked, and the VM cannot go on.
    LayeredProtection(std::string name, std::vector<std::unique_ptr<Protection>> layers,
                      std::function<void(const Error&)> broken);

    // A failure of the first changes nothing.
    Result<void> protect(std::span<const GuestRange> ranges) override;
    Result<std::span<std::byte>> replace(const GuestRange& range, const Fill& fill) override;
    std::string name() const override { return m_name; }
    bool may_hang_vcpus() const override;
    size_t extra_memory_slots() const override;

private:
    Result<void> protect_first(size_t layers, std::span<const GuestRange> ranges);

    std::string m_name;
    std::vector<std::unique_ptr<Protection>> m_layers;
    std::function<void(const Error&)> m_broken;
};

} // namespace casemate
