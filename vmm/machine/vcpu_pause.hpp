// SPDX-License-Identifier: Apache-2.0
// VcpuPause: has something done while no vCPU is in KVM_RUN.
#pragma once

#include "kvm/vcpu.hpp"
#include "machine/vcpu_kicks.hpp"
#include "memory/layout.hpp"

#include <array>
#include <atomic>
#include <cstdint>
#include <functional>
#include <span>

namespace casemate {

class VcpuPause {
public:
    // On a vCPU's thread, around KVM_RUN. Waits while vCPUs are stopped.
    void enter(const Vcpu& vcpu);
    void leave(const Vcpu& vcpu);

    // Calls `change` once all vCPUs have left KVM_RUN, and lets none enter it until it returns. From one
    // thread at a time: no vCPU's, or one that is between leave() and enter().
    void with_stopped(std::span<const Vcpu> vcpus, VcpuKicks& kicks, const std::function<void()>& change);

private:
    // Words, for a futex each.
    std::atomic<uint32_t> m_stopped = 0;
    std::array<std::atomic<uint32_t>, layout::max_cpus> m_inside{};
};

} // namespace casemate
