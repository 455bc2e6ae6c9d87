// SPDX-License-Identifier: Apache-2.0
#include "kvm/vcpu.hpp"

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <fmt/core.h>
#include <memory>
#include <sys/ioctl.h>
#include <vector>

namespace casemate {
namespace {

// KVM's variable-sized lists: a header with a count, then the entries.
template <typename Header, typename Entry>
std::unique_ptr<std::byte[]> make_list(std::span<const Entry> entries) {
    auto buffer = std::make_unique<std::byte[]>(sizeof(Header) + entries.size_bytes());
    auto* const header = reinterpret_cast<Header*>(buffer.get());
    std::ranges::copy(entries, header->entries);
    return buffer;
}

} // namespace

Result<void> Vcpu::call(unsigned long request, const char* name, void* argument) const {
    if (ioctl(m_fd.get(), request, argument) < 0)
        return fail(Error::system(fmt::format("{} on vCPU {}", name, m_index), errno));
    return {};
}

Result<void> Vcpu::set_cpuid(std::span<const kvm_cpuid_entry2> entries) const {
    const auto buffer = make_list<kvm_cpuid2>(entries);
    reinterpret_cast<kvm_cpuid2*>(buffer.get())->nent = static_cast<uint32_t>(entries.size());
    return call(KVM_SET_CPUID2, "KVM_SET_CPUID2", buffer.get());
}

Result<kvm_regs> Vcpu::registers() const {
    kvm_regs value{};
    TRY(call(KVM_GET_REGS, "KVM_GET_REGS", &value));
    return value;
}

Result<void> Vcpu::set_registers(const kvm_regs& registers) const {
    return call(KVM_SET_REGS, "KVM_SET_REGS", const_cast<kvm_regs*>(&registers));
}

Result<kvm_sregs> Vcpu::system_registers() const {
    kvm_sregs value{};
    TRY(call(KVM_GET_SREGS, "KVM_GET_SREGS", &value));
    return value;
}

Result<kvm_sregs> Vcpu::exit_system_registers() const {
    kvm_run& run = run_page();
    if ((run.kvm_valid_regs & KVM_SYNC_X86_SREGS) != 0)
        return run.s.regs.sregs;
    const kvm_sregs value = TRY(system_registers());
    if (m_can_synchronise) {
        run.s.regs.sregs = value; // until the next KVM_RUN
        run.kvm_valid_regs |= KVM_SYNC_X86_SREGS;
    }
    return value;
}

Result<void> Vcpu::set_system_registers(const kvm_sregs& registers) const {
    return call(KVM_SET_SREGS, "KVM_SET_SREGS", const_cast<kvm_sregs*>(&registers));
}

Result<void> Vcpu::set_msrs(std::span<const kvm_msr_entry> msrs) const {
    const auto buffer = make_list<kvm_msrs>(msrs);
    reinterpret_cast<kvm_msrs*>(buffer.get())->nmsrs = static_cast<uint32_t>(msrs.size());
    const int done = ioctl(m_fd.get(), KVM_SET_MSRS, buffer.get());
    if (done < 0)
        return fail(Error::system(fmt::format("KVM_SET_MSRS on vCPU {}", m_index), errno));
    // KVM stops at the first MSR it does not take and returns how many it took.
    if (static_cast<size_t>(done) != msrs.size())
        return fail(Error(fmt::format("KVM_SET_MSRS on vCPU {}: MSR {:#x} refused", m_index,
                                      msrs[static_cast<size_t>(done)].index)));
    return {};
}

Result<uint64_t> Vcpu::msr(uint32_t index) const {
    uint64_t value = 0;
    TRY(get_msrs({&index, 1}, {&value, 1}));
    return value;
}

// How many were read: KVM stops at the first MSR that it does not have.
Result<size_t> Vcpu::get_first_msrs(std::span<const uint32_t> indices,
                                    std::span<std::optional<uint64_t>> values) const {
    std::vector<kvm_msr_entry> entries;
    for (const uint32_t index : indices)
        entries.push_back({.index = index, .reserved = 0, .data = 0});
    const auto buffer = make_list<kvm_msrs>(std::span<const kvm_msr_entry>(entries));
    auto* const list = reinterpret_cast<kvm_msrs*>(buffer.get());
    list->nmsrs = static_cast<uint32_t>(entries.size());
    const int done = ioctl(m_fd.get(), KVM_GET_MSRS, list);
    if (done < 0)
        return fail(Error::system(fmt::format("KVM_GET_MSRS {:#x} on vCPU {}", indices[0], m_index), errno));
    for (size_t i = 0; i < static_cast<size_t>(done); ++i)
        values[i] = list->entries[i].data;
    return static_cast<size_t>(done);
}

Result<void> Vcpu::get_msrs(std::span<const uint32_t> indices, std::span<uint64_t> values) const {
    std::vector<std::optional<uint64_t>> found(indices.size());
    const size_t done = TRY(get_first_msrs(indices, found));
    if (done != indices.size())
        return fail(
            Error::system(fmt::format("KVM_GET_MSRS {:#x} on vCPU {}", indices[done], m_index), EINVAL));
    for (size_t i = 0; i < done; ++i)
        values[i] = found[i].value_or(0);
    return {};
}

Result<void> Vcpu::get_known_msrs(std::span<const uint32_t> indices,
                                  std::span<std::optional<uint64_t>> values) const {
    for (size_t at = 0; at < indices.size(); ++at) // past the one that KVM does not have
        at += TRY(get_first_msrs(indices.subspan(at), values.subspan(at)));
    return {};
}

Result<bool> Vcpu::waits_for_start() const {
    kvm_mp_state state{};
    TRY(call(KVM_GET_MP_STATE, "KVM_GET_MP_STATE", &state));
    return state.mp_state == KVM_MP_STATE_UNINITIALIZED || state.mp_state == KVM_MP_STATE_INIT_RECEIVED;
}

Result<kvm_fpu> Vcpu::fpu() const {
    kvm_fpu value{};
    TRY(call(KVM_GET_FPU, "KVM_GET_FPU", &value));
    return value;
}

Result<kvm_vcpu_events> Vcpu::events() const {
    kvm_vcpu_events value{};
    TRY(call(KVM_GET_VCPU_EVENTS, "KVM_GET_VCPU_EVENTS", &value));
    return value;
}

Result<void> Vcpu::set_events(const kvm_vcpu_events& events) const {
    return call(KVM_SET_VCPU_EVENTS, "KVM_SET_VCPU_EVENTS", const_cast<kvm_vcpu_events*>(&events));
}

Result<void> Vcpu::set_signal_mask(const sigset_t& mask) const {
    // The kernel's own set has 64 bits; the C library's is longer.
    constexpr size_t kernel_mask_bytes = 8;
    alignas(kvm_signal_mask) std::array<std::byte, sizeof(kvm_signal_mask) + kernel_mask_bytes> buffer{};
    auto* const request = reinterpret_cast<kvm_signal_mask*>(buffer.data());
    request->len = kernel_mask_bytes;
    std::memcpy(request->sigset, &mask, kernel_mask_bytes);
    return call(KVM_SET_SIGNAL_MASK, "KVM_SET_SIGNAL_MASK", request);
}

void Vcpu::mark_stopped() const {
    ioctl(m_fd.get(), KVM_KVMCLOCK_CTRL, 0); // EINVAL of such a guest
}

std::optional<uint32_t> Vcpu::tsc_khz() const {
    const int khz = ioctl(m_fd.get(), KVM_GET_TSC_KHZ, 0);
    return khz > 0 ? std::optional(static_cast<uint32_t>(khz)) : std::nullopt;
}

int Vcpu::run() const {
    return ioctl(m_fd.get(), KVM_RUN, 0) == 0 ? 0 : errno;
}

} // namespace casemate
