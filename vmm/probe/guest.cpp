// SPDX-License-Identifier: Apache-2.0
#include "probe/guest.hpp"

#include "firmware/probe_guests.hpp"
#include "memory/layout.hpp"
#include "probe/watchdog.hpp"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <fmt/core.h>

namespace casemate {
namespace {

constexpr uint32_t ram_slot = 0;

// Flat 64-bit segments; SDM volume 3A, "Segment Descriptors": type 11 = code, execute/read, accessed; 3 =
// data, read/write, accessed. VMX and SVM load the hidden parts, so that there need be no GDT in memory.
kvm_segment code_segment() {
    kvm_segment segment{};
    segment.limit = 0xffffffff;
    segment.selector = 8;
    segment.type = 11;
    segment.present = 1;
    segment.s = 1;
    segment.l = 1;
    segment.g = 1;
    return segment;
}

kvm_segment data_segment() {
    kvm_segment segment = code_segment();
    segment.selector = 16;
    segment.type = 3;
    segment.l = 0;
    segment.db = 1;
    return segment;
}

// SDM volume 3A, "Control Registers" and "IA32_EFER".
constexpr uint64_t cr0_long_mode = 0x80010033; // PG, WP, NE, ET, MP, PE
constexpr uint64_t cr4_long_mode = 0x20;       // PAE
constexpr uint64_t efer_long_mode = 0x500;     // LMA, LME

Result<void> set_long_mode(const Vcpu& vcpu) {
    kvm_sregs registers = TRY(vcpu.system_registers());
    registers.cr0 = cr0_long_mode;
    registers.cr3 = probe_layout::tables.value;
    registers.cr4 = cr4_long_mode;
    registers.efer = efer_long_mode;
    registers.cs = code_segment();
    registers.ds = registers.es = registers.fs = registers.gs = registers.ss = data_segment();
    return vcpu.set_system_registers(registers);
}

} // namespace

Result<std::shared_ptr<ProbeGuest>> ProbeGuest::create(const System& system,
                                                       std::span<const ProtectionKind> kinds) {
    GuestMemory memory = TRY(GuestMemory::create(probe_layout::memory_bytes));
    Vm vm = TRY(system.create_vm());
    std::shared_ptr<ProbeGuest> guest(new ProbeGuest(std::move(memory), std::move(vm)));
    TRY(guest->set_up(system, kinds));
    return guest;
}

Result<void> ProbeGuest::set_up(const System& system, std::span<const ProtectionKind> kinds) {
    build_probe_tables(memory());
    std::ranges::copy(probe_code(), memory().data() + probe_layout::code.value);

    TRY(m_vm.set_reserved_pages(layout::task_state_pages.start, layout::identity_map_page.start));
    TRY(m_vm.set_memory_slot(ram_slot, GuestPhysical{0}, probe_layout::memory_bytes, memory().data()));
    m_protection = TRY(
        make_protection(kinds, {.vm = m_vm,
                                .memory = m_memory,
                                .sealing = GuestMemory::Sealing::never,
                                .first_free_slot = ram_slot + 1,
                                // The caller runs the only vCPU.
                                .with_vcpus_stopped = [](const std::function<void()>& change) { change(); },
                                // The store or the walk shows it.
                                .broken = [](const Error&) {}}));
    m_vcpu = std::make_unique<Vcpu>(TRY(m_vm.create_vcpu(0)));
    // KVM judges EFER and CR4 by what the vCPU's CPUID offers.
    const std::vector<kvm_cpuid_entry2> cpuid = TRY(system.supported_cpuid());
    TRY(m_vcpu->set_cpuid(cpuid));
    TRY(set_long_mode(*m_vcpu));
    return m_vcpu->set_signal_mask(watchdog_wait_mask());
}

uint64_t ProbeGuest::address_of(const std::byte* label) {
    return probe_layout::code.value + static_cast<uint64_t>(label - probe_code().data());
}

Result<void> ProbeGuest::enter(const std::byte* entry, kvm_regs registers) {
    registers.rip = address_of(entry);
    registers.rsp = probe_layout::stack_end.value;
    registers.rflags = 2; // bit 1 is always set; interrupts are off
    return m_vcpu->set_registers(registers);
}

Result<ProbeStop> ProbeGuest::run_here() {
    ProbeStop stop;
    stop.error = m_vcpu->run();
    stop.timed_out = stop.error == EINTR;
    stop.exit = m_vcpu->run_page();
    if (stop.error == 0 && stop.exit.exit_reason == KVM_EXIT_IO &&
        stop.exit.io.direction == KVM_EXIT_IO_OUT && stop.exit.io.size == 1 &&
        stop.exit.io.port == casemate_probe_stop_port) {
        // KVM API, "5. The kvm_run structure": the data lies in the shared area at data_offset.
        stop.al = reinterpret_cast<const uint8_t*>(&m_vcpu->run_page())[stop.exit.io.data_offset];
    }
    if (stop.error == 0 && (stop.exit.exit_reason == KVM_EXIT_MMIO || stop.exit.exit_reason == KVM_EXIT_IO)) {
        // KVM API, same section: registers are right only after KVM_RUN has been entered again.
        m_vcpu->request_exit(true);
        (void)m_vcpu->run();
        m_vcpu->request_exit(false);
    }
    stop.registers = TRY(m_vcpu->registers());
    return stop;
}

std::string ProbeStop::describe() const {
    if (timed_out)
        return "KVM_RUN did not return; the watchdog stopped it";
    if (error != 0)
        return fmt::format("KVM_RUN failed: {}", describe_errno(error));
    if (al)
        return fmt::format("stop {}", *al);
    switch (exit.exit_reason) {
    case KVM_EXIT_SHUTDOWN:
        return "KVM_EXIT_SHUTDOWN";
    case KVM_EXIT_MMIO:
        return fmt::format("KVM_EXIT_MMIO at {:#x}", uint64_t{exit.mmio.phys_addr});
    case KVM_EXIT_INTERNAL_ERROR:
        return fmt::format("KVM_EXIT_INTERNAL_ERROR, suberror {}", uint32_t{exit.internal.suberror});
    case KVM_EXIT_FAIL_ENTRY:
        return fmt::format("KVM_EXIT_FAIL_ENTRY, hardware reason {:#x}",
                           uint64_t{exit.fail_entry.hardware_entry_failure_reason});
    default:
        return fmt::format("KVM exit {}", uint32_t{exit.exit_reason});
    }
}

Result<ProbeStop> run_probe(const std::shared_ptr<ProbeGuest>& guest, std::chrono::milliseconds limit) {
    const auto stop = std::make_shared<Result<ProbeStop>>(fail(Error("probe never ran")));
    const BoundedEnd end =
        TRY(run_bounded([guest, stop] { *stop = guest->run_here(); }, limit, interrupt_grace));
    if (end == BoundedEnd::abandoned)
        return ProbeStop{.timed_out = true};
    return std::move(*stop);
}

} // namespace casemate
