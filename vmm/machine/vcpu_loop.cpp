// SPDX-License-Identifier: Apache-2.0
#include "machine/vcpu_loop.hpp"

#include "base/units.hpp"

#include <cerrno>
#include <fmt/core.h>
#include <span>

namespace casemate {
namespace {

std::string where(const Vcpu& vcpu) {
    const auto registers = vcpu.registers();
    if (!registers)
        return fmt::format("vCPU {}", vcpu.index());
    return fmt::format("vCPU {} at {}", vcpu.index(), to_string(GuestLinear{registers->rip}));
}

// KVM API, KVM_EXIT_IO: `count` items of `size` bytes each at data_offset of the run page.
void handle_port_access(kvm_run& run, Bus& ports) {
    auto* data = reinterpret_cast<std::byte*>(&run) + run.io.data_offset;
    for (uint32_t i = 0; i < run.io.count; ++i, data += run.io.size) {
        const std::span item(data, run.io.size);
        if (run.io.direction == KVM_EXIT_IO_IN)
            ports.read(run.io.port, item);
        else
            ports.write(run.io.port, item);
    }
}

void handle_memory_access(kvm_run& run, Bus& memory) {
    const std::span data(reinterpret_cast<std::byte*>(run.mmio.data), run.mmio.len);
    if (run.mmio.is_write != 0)
        memory.write(run.mmio.phys_addr, data);
    else
        memory.read(run.mmio.phys_addr, data);
}

MachineEnd describe_internal_error(const Vcpu& vcpu, const kvm_run& run) {
    return {EndReason::host_failure,
            fmt::format("KVM cannot go on with {}: {}", where(vcpu),
                        run.internal.suberror == KVM_INTERNAL_ERROR_EMULATION
                            ? "it cannot emulate the guest's instruction"
                            : fmt::format("internal error {}", run.internal.suberror))};
}

MachineEnd describe_failed_run(const Vcpu& vcpu, int number) {
    // A store or walk that the host mapping refuses, or memory the host could not supply.
    if (number == EFAULT)
        return {EndReason::unattributable,
                fmt::format("KVM_RUN: {} on {}", describe_errno(number), where(vcpu))};
    return {EndReason::host_failure, fmt::format("KVM_RUN: {} on {}", describe_errno(number), where(vcpu))};
}

} // namespace

std::optional<MachineEnd> run_vcpu(const Vcpu& vcpu, const VcpuContext& context) {
    kvm_run& run = vcpu.run_page();
    for (;;) {
        const int failure = vcpu.run();
        if (context.stopping)
            return std::nullopt;
        if (failure == EINTR || failure == EAGAIN)
            continue;
        if (failure != 0)
            return describe_failed_run(vcpu, failure);
        switch (run.exit_reason) {
        case KVM_EXIT_IO:
            handle_port_access(run, context.ports);
            break;
        case KVM_EXIT_MMIO:
            handle_memory_access(run, context.memory);
            break;
        case KVM_EXIT_INTR:
            break;
        case KVM_EXIT_SHUTDOWN: // kvm-amd has reset the registers by now, so they say nothing
            return MachineEnd{EndReason::triple_fault, fmt::format("triple fault on vCPU {}", vcpu.index())};
        case KVM_EXIT_FAIL_ENTRY:
            return MachineEnd{EndReason::host_failure,
                              fmt::format("the processor refuses the state of {}, reason {:#x}", where(vcpu),
                                          run.fail_entry.hardware_entry_failure_reason)};
        case KVM_EXIT_INTERNAL_ERROR:
            return describe_internal_error(vcpu, run);
        default:
            return MachineEnd{EndReason::host_failure,
                              fmt::format("KVM exit {} on {}, which this monitor does not know",
                                          run.exit_reason, where(vcpu))};
        }
    }
}

} // namespace casemate
