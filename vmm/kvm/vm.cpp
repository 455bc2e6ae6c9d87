// SPDX-License-Identifier: Apache-2.0
#include "kvm/vm.hpp"

#include "kvm/vcpu.hpp"

#include <algorithm>
#include <array>
#include <cerrno>
#include <fmt/core.h>
#include <memory>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <utility>
#include <vector>

namespace casemate {

int Vm::check_extension(int capability) const {
    const int value = ioctl(m_fd.get(), KVM_CHECK_EXTENSION, capability);
    return value < 0 ? 0 : value;
}

Result<void> Vm::enable_capability(uint32_t capability, uint64_t argument) const {
    kvm_enable_cap request{};
    request.cap = capability;
    request.args[0] = argument;
    if (ioctl(m_fd.get(), KVM_ENABLE_CAP, &request) != 0)
        return fail(Error::system(fmt::format("KVM_ENABLE_CAP {}", capability), errno));
    return {};
}

Result<void> Vm::intercept_msrs(std::span<const uint32_t> writes, std::span<const uint32_t> reads) const {
    kvm_msr_filter filter{};
    filter.flags = KVM_MSR_FILTER_DEFAULT_ALLOW;
    // KVM reads bitmaps by whole longs.
    std::vector<uint64_t> none_allowed(std::max(writes.size(), reads.size()) / 64 + 1);
    size_t ranges = 0;
    for (const auto& [indices, access] :
         {std::pair{writes, KVM_MSR_FILTER_WRITE}, std::pair{reads, KVM_MSR_FILTER_READ}}) {
        std::vector<uint32_t> sorted(indices.begin(), indices.end());
        std::ranges::sort(sorted);
        for (size_t i = 0; i < sorted.size(); ++ranges) {
            if (ranges == std::size(filter.ranges))
                return fail(Error(fmt::format("KVM_X86_SET_MSR_FILTER: KVM takes {} ranges", ranges)));
            const uint32_t base = sorted[i];
            uint32_t count = 0;
            while (i < sorted.size() && sorted[i] == base + count) {
                ++count;
                ++i;
            }
            filter.ranges[ranges] = {.flags = static_cast<uint32_t>(access),
                                     .nmsrs = count,
                                     .base = base,
                                     .bitmap = reinterpret_cast<__u8*>(none_allowed.data())};
        }
    }
    if (ioctl(m_fd.get(), KVM_X86_SET_MSR_FILTER, &filter) != 0)
        return fail(Error::system("KVM_X86_SET_MSR_FILTER", errno));
    return {};
}

Result<void> Vm::set_memory_slot(uint32_t slot, GuestPhysical start, uint64_t size_bytes, const void* host,
                                 uint32_t flags) const {
    kvm_userspace_memory_region region{};
    region.slot = slot;
    region.flags = flags;
    region.guest_phys_addr = start.value;
    region.memory_size = size_bytes;
    region.userspace_addr = reinterpret_cast<uint64_t>(host);
    if (ioctl(m_fd.get(), KVM_SET_USER_MEMORY_REGION, &region) != 0)
        return fail(Error::system(fmt::format("KVM_SET_USER_MEMORY_REGION slot {} at {}, {}", slot,
                                              to_string(start), format_bytes(size_bytes)),
                                  errno));
    return {};
}

uint64_t Vm::memory_attributes() const {
    return static_cast<uint64_t>(check_extension(KVM_CAP_MEMORY_ATTRIBUTES));
}

Result<void> Vm::set_memory_attributes(GuestPhysical start, uint64_t bytes, uint64_t attributes) const {
    KvmMemoryAttributes request{.address = start.value, .size = bytes, .attributes = attributes, .flags = 0};
    if (ioctl(m_fd.get(), kvm_set_memory_attributes, &request) != 0)
        return fail(Error::system(fmt::format("KVM_SET_MEMORY_ATTRIBUTES {:#x} at {}, {}", attributes,
                                              to_string(start), format_bytes(bytes)),
                                  errno));
    return {};
}

Result<void> Vm::drop_shadow_pages(uint32_t slot, GuestPhysical page) const {
    // While there is a slot the guest reads zeros there, and its stores go nowhere.
    alignas(page_bytes) static constexpr std::array<std::byte, page_bytes> zeros{};
    TRY(set_memory_slot(slot, page, zeros.size(), zeros.data(), KVM_MEM_READONLY));
    return set_memory_slot(slot, page, 0, nullptr);
}

Result<void> Vm::create_interrupt_controllers() const {
    if (ioctl(m_fd.get(), KVM_CREATE_IRQCHIP, 0) != 0)
        return fail(Error::system("KVM_CREATE_IRQCHIP", errno));
    return {};
}

Result<kvm_ioapic_state> Vm::io_apic() const {
    kvm_irqchip chip{};
    chip.chip_id = KVM_IRQCHIP_IOAPIC;
    if (ioctl(m_fd.get(), KVM_GET_IRQCHIP, &chip) != 0)
        return fail(Error::system("KVM_GET_IRQCHIP of the I/O APIC", errno));
    return chip.chip.ioapic;
}

Result<void> Vm::set_io_apic(const kvm_ioapic_state& state) const {
    kvm_irqchip chip{};
    chip.chip_id = KVM_IRQCHIP_IOAPIC;
    chip.chip.ioapic = state;
    if (ioctl(m_fd.get(), KVM_SET_IRQCHIP, &chip) != 0)
        return fail(Error::system("KVM_SET_IRQCHIP of the I/O APIC", errno));
    return {};
}

Result<void> Vm::set_reserved_pages(GuestPhysical tss, GuestPhysical identity_map) const {
    if (ioctl(m_fd.get(), KVM_SET_IDENTITY_MAP_ADDR, &identity_map.value) != 0)
        return fail(Error::system("KVM_SET_IDENTITY_MAP_ADDR", errno));
    if (ioctl(m_fd.get(), KVM_SET_TSS_ADDR, tss.value) != 0)
        return fail(Error::system("KVM_SET_TSS_ADDR", errno));
    return {};
}

Result<void> Vm::set_interrupt_routes(std::span<const kvm_irq_routing_entry> routes) const {
    const size_t bytes = sizeof(kvm_irq_routing) + routes.size_bytes();
    const auto buffer = std::make_unique<std::byte[]>(bytes);
    auto* const table = reinterpret_cast<kvm_irq_routing*>(buffer.get());
    table->nr = static_cast<uint32_t>(routes.size());
    std::ranges::copy(routes, table->entries);
    if (ioctl(m_fd.get(), KVM_SET_GSI_ROUTING, table) != 0)
        return fail(Error::system(fmt::format("KVM_SET_GSI_ROUTING, {} routes", routes.size()), errno));
    return {};
}

Result<void> Vm::interrupt_ioctl(uint32_t gsi, int event, uint32_t flags) const {
    kvm_irqfd request{};
    request.fd = static_cast<uint32_t>(event);
    request.gsi = gsi;
    request.flags = flags;
    if (ioctl(m_fd.get(), KVM_IRQFD, &request) != 0)
        return fail(Error::system(fmt::format("KVM_IRQFD gsi {}", gsi), errno));
    return {};
}

Result<void> Vm::attach_interrupt(uint32_t gsi, int event) const {
    return interrupt_ioctl(gsi, event, 0);
}

Result<void> Vm::detach_interrupt(uint32_t gsi, int event) const {
    return interrupt_ioctl(gsi, event, KVM_IRQFD_FLAG_DEASSIGN);
}

Result<void> Vm::set_interrupt_line(uint32_t gsi, bool level) const {
    kvm_irq_level request{};
    request.irq = gsi;
    request.level = level ? 1 : 0;
    if (ioctl(m_fd.get(), KVM_IRQ_LINE, &request) != 0)
        return fail(Error::system(fmt::format("KVM_IRQ_LINE gsi {}", gsi), errno));
    return {};
}

Result<void> Vm::doorbell_ioctl(const Doorbell& doorbell, int event, uint32_t flags) const {
    kvm_ioeventfd request{};
    request.addr = doorbell.address;
    request.len = doorbell.length;
    request.fd = event;
    request.flags = flags | (doorbell.port ? static_cast<uint32_t>(KVM_IOEVENTFD_FLAG_PIO) : 0U);
    if (ioctl(m_fd.get(), KVM_IOEVENTFD, &request) != 0)
        return fail(Error::system(fmt::format("KVM_IOEVENTFD {:#x}", doorbell.address), errno));
    return {};
}

Result<void> Vm::attach_doorbell(const Doorbell& doorbell, int event) const {
    return doorbell_ioctl(doorbell, event, 0);
}

Result<void> Vm::detach_doorbell(const Doorbell& doorbell, int event) const {
    return doorbell_ioctl(doorbell, event, KVM_IOEVENTFD_FLAG_DEASSIGN);
}

Result<Vcpu> Vm::create_vcpu(uint32_t index) const {
    Fd fd(ioctl(m_fd.get(), KVM_CREATE_VCPU, index));
    if (!fd)
        return fail(Error::system(fmt::format("KVM_CREATE_VCPU {}", index), errno));
    Mapping run = TRY(Mapping::shared(fd.get(), m_run_bytes, PROT_READ | PROT_WRITE));
    const bool can_synchronise =
        (static_cast<unsigned>(check_extension(KVM_CAP_SYNC_REGS)) & KVM_SYNC_X86_SREGS) != 0;
    return Vcpu(std::move(fd), std::move(run), index, can_synchronise);
}

int Vm::raw_ioctl(unsigned long request, void* argument) const {
    return ioctl(m_fd.get(), request, argument);
}

} // namespace casemate
