// SPDX-License-Identifier: Apache-2.0
// A VM of the KVM that the machine which runs the tests has, whatever kind it is.
#pragma once

#include "kvm/system.hpp"
#include "kvm/vm.hpp"

#include <doctest/doctest.h>
#include <optional>
#include <utility>

namespace casemate {

// Empty where there is no KVM, which is said; a KVM without VMs fails the test.
inline std::optional<Vm> vm_here() {
    const auto system = System::open();
    if (!system) {
        MESSAGE("no KVM here: ", system.error().message());
        return std::nullopt;
    }
    auto vm = system->create_vm();
    REQUIRE(vm);
    return std::move(*vm);
}

} // namespace casemate
