// SPDX-License-Identifier: Apache-2.0
#include "machine/vcpu_loop.hpp"

#include "base/units.hpp"
#include "machine/guard_end.hpp"
#include "machine/management_mode.hpp"
#include "machine/memory_types.hpp"

#include <cerrno>
#include <fmt/core.h>
#include <span>
#include <tuple>

namespace casemate {
namespace {

std::optional<MachineEnd> to_machine_end(std::optional<GuardEnd> end) {
    if (!end)
        return std::nullopt;
    return machine_end(std::move(*end));
}

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

std::optional<MachineEnd> handle_memory_access(kvm_run& run, const VcpuContext& context,
                                               const GuestCpu& cpu) {
    const std::span data(reinterpret_cast<std::byte*>(run.mmio.data), run.mmio.len);
    const GuestPhysical address{run.mmio.phys_addr};
    const auto range = GuestRange::from_guest(GuestValue(address.value), GuestValue(uint64_t{run.mmio.len}));
    if (range && context.ram.is_ram(*range)) {
        if (run.mmio.is_write != 0)
            return to_machine_end(context.guard.emulated_store(cpu, address, data));
        std::ignore = context.ram.read(*range, data);
    } else if (run.mmio.is_write != 0) {
        context.memory.write(address.value, data);
    } else {
        context.memory.read(address.value, data);
    }
    return std::nullopt;
}

std::optional<MachineEnd> handle_hypercall(kvm_run& run, Guard& guard, const GuestCpu& cpu) {
    if (run.hypercall.nr != CASEMATE_HYPERCALL) {
        run.hypercall.ret = -uint64_t{CASEMATE_ENOSYS}; // guard/casemate_abi.h has KVM's numbers
        return std::nullopt;
    }
    const auto& arguments = run.hypercall.args;
    Guard::Answer answer =
        guard.hypercall(cpu, {.address = arguments[0], .pages = arguments[1], .attributes = arguments[2]});
    run.hypercall.ret = answer.result;
    return to_machine_end(std::move(answer.end));
}

// KVM API, KVM_EXIT_X86_WRMSR: with `error` the next KVM_RUN raises #GP(0), else it goes on behind the
// instruction.
std::optional<MachineEnd> handle_msr_write(kvm_run& run, Guard& guard, const GuestCpu& cpu) {
    auto write = guard.msr_write(cpu, run.msr.index, run.msr.data);
    run.msr.error = write.refused ? 1 : 0;
    return to_machine_end(std::move(write.end));
}

// After EFAULT. KVM tells of what it denies; of memory that the host's mapping refuses it does not.
std::optional<DeniedWrite> denied_write(const kvm_run& run) {
    if (run.exit_reason != KVM_EXIT_MEMORY_FAULT)
        return std::nullopt;
    const KvmMemoryFault fault = memory_fault(run);
    if ((fault.flags & kvm_memory_fault_write) == 0)
        return std::nullopt;
    return DeniedWrite{.address = {fault.gpa},
                       .is_page_walk = (fault.flags & kvm_memory_fault_page_walk) != 0};
}

// KVM's emulator runs first in some places, and knows fewer instructions than the guest may aim at a lock.
std::optional<MachineEnd> handle_internal_error(const kvm_run& run, const VcpuContext& context,
                                                const Vcpu& vcpu, const GuestCpu& cpu) {
    switch (run.internal.suberror) {
    case KVM_INTERNAL_ERROR_EMULATION:
        if (context.guard.has_locks())
            return to_machine_end(context.guard.store_fault(cpu, Guard::Unexplained::fail));
        return MachineEnd{EndReason::guest_fault,
                          fmt::format("KVM cannot emulate the guest's instruction on {}", where(vcpu))};
    case KVM_INTERNAL_ERROR_DELIVERY_EV:
        return MachineEnd{
            EndReason::guest_fault,
            fmt::format("an exception or interrupt cannot be delivered on {}: its IDT or stack is no RAM",
                        where(vcpu))};
    default:
        return MachineEnd{EndReason::host_failure, fmt::format("KVM cannot go on with {}: internal error {}",
                                                               where(vcpu), run.internal.suberror)};
    }
}

} // namespace

std::optional<MachineEnd> run_vcpu(const Vcpu& vcpu, const VcpuContext& context) {
    kvm_run& run = vcpu.run_page();
    const KvmGuestCpu cpu(vcpu);
    std::optional<MachineEnd> end;
    uint64_t stops = context.clock.stops();
    while (!end) {
        context.pause.enter(vcpu);
        // Whatever stops the process has KVM_RUN end with EINTR first; and the guest may look at the time as
        // soon as it runs again.
        if (const uint64_t all = context.clock.stops(); all != stops) {
            vcpu.mark_stopped();
            stops = all;
        }
        const int failure = vcpu.run();
        context.pause.leave(vcpu);
        if (failure == EINTR)
            VcpuKicks::rearm(vcpu);
        if (context.stopping)
            return std::nullopt;
        if (ManagementMode::has_entered(vcpu))
            return MachineEnd{
                EndReason::guest_fault,
                fmt::format("vCPU {} has got a system management interrupt, which the guest has "
                            "sent and this machine has no firmware for",
                            vcpu.index())};
        if (failure == EINTR || failure == EAGAIN) {
            const uint32_t looks = context.kicks.take_looks(vcpu);
            if ((looks & VcpuKicks::Looks::at_registers) != 0)
                end = to_machine_end(context.guard.look(cpu));
            if (!end && (looks & VcpuKicks::Looks::at_progress) != 0)
                end = to_machine_end(context.guard.check_progress(cpu));
            continue;
        }
        // A store that KVM or the host mapping refuses; or memory that the host could not supply.
        if (failure == EFAULT) {
            end =
                to_machine_end(context.guard.store_fault(cpu, Guard::Unexplained::retry, denied_write(run)));
            continue;
        }
        if (failure != 0)
            return MachineEnd{EndReason::host_failure,
                              fmt::format("KVM_RUN: {} on {}", describe_errno(failure), where(vcpu))};
        switch (run.exit_reason) {
        case KVM_EXIT_IO:
            handle_port_access(run, context.ports);
            break;
        case KVM_EXIT_MMIO:
            end = handle_memory_access(run, context, cpu);
            break;
        case KVM_EXIT_HYPERCALL:
            end = handle_hypercall(run, context.guard, cpu);
            break;
        case KVM_EXIT_X86_WRMSR: // only of what the filter names
            end = handle_msr_write(run, context.guard, cpu);
            break;
        case KVM_EXIT_X86_RDMSR: // only of intercepted_msr_reads, which is one
            run.msr.data = mtrr_capabilities;
            run.msr.error = 0;
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
            end = handle_internal_error(run, context, vcpu, cpu);
            break;
        default:
            return MachineEnd{EndReason::host_failure,
                              fmt::format("KVM exit {} on {}, which this monitor does not know",
                                          run.exit_reason, where(vcpu))};
        }
    }
    return end;
}

} // namespace casemate
