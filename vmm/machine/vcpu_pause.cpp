// SPDX-License-Identifier: Apache-2.0
#include "machine/vcpu_pause.hpp"

namespace casemate {

// Each side writes its own word before it reads the other's, so one of them sees the other.
void VcpuPause::enter(const Vcpu& vcpu) {
    std::atomic<uint32_t>& inside = m_inside.at(vcpu.index());
    for (inside = 1; m_stopped != 0; inside = 1) {
        leave(vcpu);
        m_stopped.wait(1);
    }
}

void VcpuPause::leave(const Vcpu& vcpu) {
    std::atomic<uint32_t>& inside = m_inside.at(vcpu.index());
    inside = 0;
    if (m_stopped != 0)
        inside.notify_all();
}

void VcpuPause::with_stopped(std::span<const Vcpu> vcpus, VcpuKicks& kicks,
                             const std::function<void()>& change) {
    m_stopped = 1;
    for (const Vcpu& vcpu : vcpus)
        if (m_inside.at(vcpu.index()) != 0)
            kicks.kick(vcpu);
    for (const Vcpu& vcpu : vcpus)
        m_inside.at(vcpu.index()).wait(1);
    change();
    m_stopped = 0;
    m_stopped.notify_all();
}

} // namespace casemate
