// SPDX-License-Identifier: Apache-2.0
#include "devices/bus.hpp"

#include <algorithm>
#include <fmt/core.h>
#include <mutex>

namespace casemate {

Result<void> Bus::add(uint64_t start, uint64_t bytes, Device& device, std::string name) {
    const uint64_t last = start + (bytes - 1);
    if (bytes == 0 || last < start)
        return fail(Error(fmt::format("map {} at {:#x}, {:#x} bytes: empty or wraps", name, start, bytes)));
    const std::unique_lock lock(m_mutex);
    auto next = m_ranges.upper_bound(last);
    if (next != m_ranges.begin()) {
        const auto& [other_start, other] = *std::prev(next);
        if (other.last >= start)
            return fail(Error(fmt::format("map {} at [{:#x}, {:#x}]: overlaps {} at [{:#x}, {:#x}]", name,
                                          start, last, other.name, other_start, other.last)));
    }
    m_ranges.emplace(start, Range{last, &device, std::move(name)});
    return {};
}

bool Bus::remove(uint64_t start) {
    const std::unique_lock lock(m_mutex);
    return m_ranges.erase(start) != 0;
}

Bus::Target Bus::find(uint64_t address, size_t bytes) {
    const std::shared_lock lock(m_mutex);
    auto next = m_ranges.upper_bound(address);
    if (next != m_ranges.begin()) {
        const auto& [start, range] = *std::prev(next);
        if (address <= range.last && bytes - 1 <= range.last - address)
            return {range.device, address - start};
    }
    m_unclaimed.fetch_add(1, std::memory_order_relaxed);
    return {nullptr, 0};
}

void Bus::read(uint64_t address, std::span<std::byte> data) {
    if (data.empty())
        return;
    const Target target = find(address, data.size());
    if (target.device != nullptr)
        target.device->read(target.offset, data);
    else
        std::ranges::fill(data, std::byte{0xff});
}

void Bus::write(uint64_t address, std::span<const std::byte> data) {
    if (data.empty())
        return;
    const Target target = find(address, data.size());
    if (target.device != nullptr)
        target.device->write(target.offset, data);
}

} // namespace casemate
