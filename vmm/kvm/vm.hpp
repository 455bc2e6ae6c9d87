// SPDX-License-Identifier: Apache-2.0
// Vm: one KVM virtual machine: memory slots, the in-kernel interrupt controllers, interrupt routes,
// doorbells.
#pragma once

#include "base/error.hpp"
#include "base/fd.hpp"
#include "base/units.hpp"
#include "kvm/uapi.hpp"

#include <cstdint>
#include <span>

namespace casemate {

class Vcpu;

// A range of guest-physical addresses or ports whose writes signal an eventfd inside KVM, without an exit.
struct Doorbell {
    uint64_t address = 0; // guest-physical, or a port when `port` is set
    uint32_t length = 0;  // 1, 2, 4, 8; 0 = any width (KVM_CAP_IOEVENTFD_ANY_LENGTH)
    bool port = false;
};

class Vm {
public:
    int check_extension(int capability) const;
    // KVM_ENABLE_CAP with one argument.
    Result<void> enable_capability(uint32_t capability, uint64_t argument) const;

    // KVM_SET_USER_MEMORY_REGION. `host` must stay mapped while the slot exists; size 0 deletes the slot.
    Result<void> set_memory_slot(uint32_t slot, GuestPhysical start, uint64_t size_bytes, const void* host,
                                 uint32_t flags = 0) const;

    // What set_memory_attributes() takes: attributes of pages that end the guest's and KVM's own accesses to
    // them. Zero on released kernels: tools/host-kernel-patches/README.md has the one that is meant.
    uint64_t memory_attributes() const;
    // KVM_SET_MEMORY_ATTRIBUTES of whole pages, in place of those that they had: all pages or, on failure,
    // none. When it returns no vCPU has a stale mapping, and no write of KVM's own that it denies is under
    // way. vCPUs may run. Fails with EPERM where an immutable page would lose one.
    Result<void> set_memory_attributes(GuestPhysical start, uint64_t bytes, uint64_t attributes) const;

    // Has KVM drop the shadows of the guest's page tables, all of them, and waits until no vCPU uses one:
    // what the deletion of any memory slot does (linux v6.12 arch/x86/kvm/mmu/mmu.c,
    // kvm_arch_flush_shadow_memslot, while the quirk KVM_X86_QUIRK_SLOT_ZAP_ALL is not disabled). `slot` and
    // `page` are used for nothing else.
    Result<void> drop_shadow_pages(uint32_t slot, GuestPhysical page) const;

    // KVM_X86_SET_MSR_FILTER: from the next entry of each vCPU on, its writes to these end KVM_RUN with
    // KVM_EXIT_X86_WRMSR, its reads of those with KVM_EXIT_X86_RDMSR. No index may be in both. Needs
    // KVM_CAP_X86_USER_SPACE_MSR with KVM_MSR_EXIT_REASON_FILTER enabled. KVM's own and the monitor's
    // accesses are not filtered; of the x2APIC's MSRs nothing is.
    Result<void> intercept_msrs(std::span<const uint32_t> writes, std::span<const uint32_t> reads) const;

    // PIC, I/O APIC and local APICs in the kernel; before any vCPU is created.
    Result<void> create_interrupt_controllers() const;
    // The I/O APIC's registers, KVM_GET_IRQCHIP and KVM_SET_IRQCHIP; before any vCPU runs.
    Result<kvm_ioapic_state> io_apic() const;
    Result<void> set_io_apic(const kvm_ioapic_state& state) const;
    // Three pages that Intel hosts without unrestricted guests need, and the page after them.
    Result<void> set_reserved_pages(GuestPhysical tss, GuestPhysical identity_map) const;

    // KVM_SET_GSI_ROUTING replaces the whole table.
    Result<void> set_interrupt_routes(std::span<const kvm_irq_routing_entry> routes) const;
    // Signalling the eventfd `event` (not owned) raises `gsi` inside KVM.
    Result<void> attach_interrupt(uint32_t gsi, int event) const;
    Result<void> detach_interrupt(uint32_t gsi, int event) const;
    // KVM_IRQ_LINE: the level of an interrupt pin.
    Result<void> set_interrupt_line(uint32_t gsi, bool level) const;

    Result<void> attach_doorbell(const Doorbell& doorbell, int event) const;
    Result<void> detach_doorbell(const Doorbell& doorbell, int event) const;

    // `index` is also the vCPU's APIC id.
    Result<Vcpu> create_vcpu(uint32_t index) const;

    // For probes only: an ioctl that no method covers. Returns the ioctl's result, -1 with errno set.
    int raw_ioctl(unsigned long request, void* argument) const;

private:
    friend class System;
    Vm(Fd fd, uint32_t run_bytes)
        : m_fd(std::move(fd))
        , m_run_bytes(run_bytes) {}

    Result<void> doorbell_ioctl(const Doorbell& doorbell, int event, uint32_t flags) const;
    Result<void> interrupt_ioctl(uint32_t gsi, int event, uint32_t flags) const;

    Fd m_fd;
    uint32_t m_run_bytes;
};

} // namespace casemate
