// SPDX-License-Identifier: Apache-2.0
// Fakes of what the machine gives to devices: they count and remember.
#pragma once

#include "devices/interrupt.hpp"

#include <map>
#include <mutex>
#include <set>
#include <utility>
#include <vector>

namespace casemate {

class CountingInterrupts final : public MessageInterrupts {
public:
    explicit CountingInterrupts(uint32_t count)
        : m_raised(count) {}
    uint32_t count() const override { return static_cast<uint32_t>(m_raised.size()); }
    void route(uint32_t vector, uint64_t address, uint32_t data) override {
        const std::lock_guard lock(m_mutex);
        m_routes[vector] = {address, data};
        ++m_route_changes;
    }
    void raise(uint32_t vector) override {
        const std::lock_guard lock(m_mutex);
        ++m_raised.at(vector);
    }

    unsigned raised(uint32_t vector) const {
        const std::lock_guard lock(m_mutex);
        return m_raised.at(vector);
    }
    std::pair<uint64_t, uint32_t> route_of(uint32_t vector) const {
        const std::lock_guard lock(m_mutex);
        return m_routes.at(vector);
    }
    unsigned route_changes() const {
        const std::lock_guard lock(m_mutex);
        return m_route_changes;
    }

private:
    mutable std::mutex m_mutex;
    std::vector<unsigned> m_raised;
    std::map<uint32_t, std::pair<uint64_t, uint32_t>> m_routes;
    unsigned m_route_changes = 0;
};

class RecordingDoorbells final : public DoorbellRegistry {
public:
    Result<void> attach(uint64_t address, int event) override {
        const std::lock_guard lock(m_mutex);
        if (m_refusing || !m_attached.emplace(address, event).second)
            return fail(Error("attach doorbell"));
        return {};
    }
    void detach(uint64_t address, int event) override {
        const std::lock_guard lock(m_mutex);
        m_unknown_detached += m_attached.erase({address, event}) == 0;
    }

    void refuse(bool refusing) { m_refusing = refusing; }
    // (address, eventfd) of all that is attached now.
    std::set<std::pair<uint64_t, int>> attached() const {
        const std::lock_guard lock(m_mutex);
        return m_attached;
    }
    unsigned unknown_detached() const { return m_unknown_detached; }

private:
    mutable std::mutex m_mutex;
    std::set<std::pair<uint64_t, int>> m_attached;
    bool m_refusing = false;
    unsigned m_unknown_detached = 0;
};

} // namespace casemate
