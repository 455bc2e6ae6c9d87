// SPDX-License-Identifier: Apache-2.0
#include "guard/layered_protection.hpp"

#include <algorithm>
#include <utility>

namespace casemate {

LayeredProtection::LayeredProtection(std::string name, std::vector<std::unique_ptr<Protection>> layers,
                                     std::function<void(const Error&)> broken)
    : m_name(std::move(name))
    , m_layers(std::move(layers))
    , m_broken(std::move(broken)) {}

Result<void> LayeredProtection::protect_first(size_t layers, std::span<const GuestRange> ranges) {
    for (const auto& layer : std::span(m_layers).first(layers))
        if (auto done = layer->protect(ranges); !done) {
            if (layer != m_layers.front())
                m_broken(done.error());
            return done;
        }
    return {};
}

Result<void> LayeredProtection::protect(std::span<const GuestRange> ranges) {
    return protect_first(m_layers.size(), ranges);
}

Result<std::span<std::byte>> LayeredProtection::replace(const GuestRange& range, const Fill& fill) {
    TRY(protect_first(m_layers.size() - 1, {&range, 1}));
    auto view = m_layers.back()->replace(range, fill);
    if (!view)
        m_broken(view.error());
    return view;
}

size_t LayeredProtection::extra_memory_slots() const {
    size_t slots = 0;
    for (const auto& layer : m_layers)
        slots += layer->extra_memory_slots();
    return slots;
}

bool LayeredProtection::may_hang_vcpus() const {
    return std::ranges::any_of(m_layers, [](const auto& layer) { return layer->may_hang_vcpus(); });
}

} // namespace casemate
