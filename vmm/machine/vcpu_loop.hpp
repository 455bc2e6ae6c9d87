// SPDX-License-Identifier: Apache-2.0
// The vCPU loop: one switch on the exit reason.
#pragma once

#include "base/running_clock.hpp"
#include "devices/bus.hpp"
#include "guard/guard.hpp"
#include "kvm/vcpu.hpp"
#include "machine/exit_status.hpp"
#include "machine/vcpu_kicks.hpp"
#include "machine/vcpu_pause.hpp"

#include <atomic>
#include <optional>

namespace casemate {

// What a vCPU thread needs of its machine. Outlives the thread.
struct VcpuContext {
    Bus& ports;
    Bus& memory;
    const GuestMemory& ram;
    Guard& guard;
    VcpuKicks& kicks;
    VcpuPause& pause;
    RunningClock& clock;
    const std::atomic<bool>& stopping; // set before the threads are kicked out of KVM_RUN
};

// Runs the guest on the calling thread until it ends the machine, whose end is returned, or until `stopping`
// is set, when nothing is.
std::optional<MachineEnd> run_vcpu(const Vcpu& vcpu, const VcpuContext& context);

} // namespace casemate
