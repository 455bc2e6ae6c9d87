// SPDX-License-Identifier: Apache-2.0
// ConfigImage: the configuration space of bus 0 as memory that a guest may read, laid out as ECAM is (PCI
// Express 5.0, 7.2.2). All but the present functions is all-ones.
#pragma once

#include "base/error.hpp"
#include "base/mapping.hpp"
#include "base/units.hpp"

#include <cstddef>
#include <cstdint>
#include <span>

namespace casemate {

// Not thread-safe. What update() writes is seen through bytes() at once, each aligned dword whole.
class ConfigImage {
public:
    static constexpr unsigned slots = 32;
    static constexpr uint64_t slot_bytes = 32_KiB;
    static constexpr uint64_t function_bytes = 4_KiB;
    static constexpr uint64_t size_bytes = slots * slot_bytes;

    // With function 0 of the first `present` slots, zeroed. Costs a page each and 32 KiB for all the others.
    static Result<ConfigImage> create(unsigned present);

    // size_bytes, page-aligned, for a read-only memory slot: the mapping does not allow writes.
    std::span<const std::byte> bytes() const { return m_image.bytes(); }

    // The first bytes of function 0 of a present slot; whole dwords, at most function_bytes.
    void update(unsigned slot, std::span<const std::byte> bytes);

private:
    ConfigImage(Mapping pages, Mapping image)
        : m_pages(std::move(pages))
        , m_image(std::move(image)) {}

    Mapping m_pages; // of the present functions
    Mapping m_image; // the same pages, each at its place
};

} // namespace casemate
