// SPDX-License-Identifier: Apache-2.0
#include "guard/paravirtual.hpp"

#include <algorithm>
#include <utility>

namespace casemate {

const ParavirtualMsr* find_paravirtual_msr(uint32_t index) {
    const auto* const found = std::ranges::find_if(paravirtual_msrs, [index](const ParavirtualMsr& msr) {
        return msr.index == index || (msr.old_index != 0 && msr.old_index == index);
    });
    return found == paravirtual_msrs.end() ? nullptr : found;
}

std::optional<GuestRange> written_by_kvm(const ParavirtualMsr& msr, uint64_t value) {
    if (value == 0 || (msr.has_enable_bit && (value & 1) == 0))
        return std::nullopt;
    const auto range = GuestRange::from_guest(GuestValue(value & ~msr.flags), GuestValue(msr.bytes));
    return range ? std::optional(*range) : std::nullopt;
}

bool ToldParavirtual::is_new(size_t at, uint64_t value, LockPolicy policy) {
    const Told now{.value = value, .policy = policy};
    return std::exchange(m_told.at(at), now) != now;
}

} // namespace casemate
