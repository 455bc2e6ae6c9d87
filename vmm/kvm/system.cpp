// SPDX-License-Identifier: Apache-2.0
#include "kvm/system.hpp"

#include "kvm/vm.hpp"

#include <cerrno>
#include <cstring>
#include <fcntl.h>
#include <fmt/core.h>
#include <memory>
#include <string>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

namespace casemate {

// Both modules are there when they are built into the kernel; that of the other vendor then says Y as well.
bool may_shadow_page_tables(const std::string& modules) {
    bool known = false;
    for (const char* const parameter : {"/kvm_amd/parameters/npt", "/kvm_intel/parameters/ept"}) {
        const auto file = open_file((modules + parameter).c_str(), O_RDONLY);
        char value = 0;
        if (!file || read(file->get(), &value, 1) != 1)
            continue;
        if (value != 'Y')
            return true;
        known = true;
    }
    return !known;
}

namespace {

std::string how_to_open(int failure) {
    struct stat status{};
    switch (failure) {
    case EACCES:
        if (stat("/dev/kvm", &status) == 0 && (status.st_mode & 0060) == 0060)
            return fmt::format(
                "have root add you to its group (usermod -aG kvm USER; the device has group {}), "
                "then log in again",
                status.st_gid);
        return "have root permit it to you: chgrp kvm /dev/kvm && chmod 660 /dev/kvm, and your user into the "
               "group";
    case EPERM:
        return "this container or service may not use the device: permit it, as docker run --device /dev/kvm "
               "does";
    case ENOENT:
    case ENODEV:
    case ENXIO:
        return "load kvm_intel or kvm_amd and enable virtualization in the firmware; in a container, hand "
               "the "
               "device in; or use tools/kvm-host of Casemate's source, which emulates a host that has KVM";
    default:
        return "is KVM loaded? tools/kvm-host of Casemate's source runs commands on an emulated host that "
               "has "
               "it";
    }
}

} // namespace

Result<System> System::open() {
    auto fd = open_file("/dev/kvm", O_RDWR);
    if (!fd) {
        const std::string hint = how_to_open(fd.error().number());
        return fail(std::move(fd).error().hint(hint));
    }
    const int version = ioctl(fd->get(), KVM_GET_API_VERSION, 0);
    if (version < 0)
        return fail(Error("/dev/kvm is not KVM's device").hint(how_to_open(ENODEV)));
    if (version != KVM_API_VERSION)
        return fail(Error(fmt::format("/dev/kvm has API version {}, 12 is needed", version)));
    const int run_bytes = ioctl(fd->get(), KVM_GET_VCPU_MMAP_SIZE, 0);
    if (run_bytes < static_cast<int>(sizeof(kvm_run)))
        return fail(Error::system("KVM_GET_VCPU_MMAP_SIZE", errno));
    return System(std::move(*fd), static_cast<uint32_t>(run_bytes));
}

int System::check_extension(int capability) const {
    const int value = ioctl(m_fd.get(), KVM_CHECK_EXTENSION, capability);
    return value < 0 ? 0 : value;
}

Result<std::vector<kvm_cpuid_entry2>> System::supported_cpuid() const {
    for (uint32_t capacity = 128; !m_supported_cpuid; capacity *= 2) {
        const size_t bytes = sizeof(kvm_cpuid2) + capacity * sizeof(kvm_cpuid_entry2);
        const auto buffer = std::make_unique<std::byte[]>(bytes);
        auto* const list = reinterpret_cast<kvm_cpuid2*>(buffer.get());
        list->nent = capacity;
        if (ioctl(m_fd.get(), KVM_GET_SUPPORTED_CPUID, list) == 0)
            m_supported_cpuid.emplace(list->entries, list->entries + list->nent);
        else if (errno != E2BIG || capacity > 4096)
            return fail(Error::system("KVM_GET_SUPPORTED_CPUID", errno));
    }
    return *m_supported_cpuid;
}

std::optional<uint64_t> System::feature_msr(uint32_t index) const {
    const auto buffer = std::make_unique<std::byte[]>(sizeof(kvm_msrs) + sizeof(kvm_msr_entry));
    auto* const list = reinterpret_cast<kvm_msrs*>(buffer.get());
    list->nmsrs = 1;
    list->entries[0].index = index;
    if (ioctl(m_fd.get(), KVM_GET_MSRS, list) != 1)
        return std::nullopt;
    return list->entries[0].data;
}

Result<Vm> System::create_vm() const {
    int descriptor = -1;
    do
        descriptor = ioctl(m_fd.get(), KVM_CREATE_VM, 0);
    while (descriptor < 0 && errno == EINTR);
    if (descriptor < 0) {
        const int number = errno;
        Error error = Error::system("KVM_CREATE_VM", number);
        // linux v6.12 virt/kvm/kvm_main.c: kvm_enable_virtualization.
        if (number == EBUSY)
            return fail(std::move(error).hint(
                "another hypervisor, such as VirtualBox, uses the processor's virtualization: stop it"));
        return fail(std::move(error));
    }
    return Vm(Fd(descriptor), m_run_bytes);
}

} // namespace casemate
