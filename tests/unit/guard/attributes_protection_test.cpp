// SPDX-License-Identifier: Apache-2.0
// On the KVM of the machine that runs the tests. tools/attack does the rest on one that has the attributes.
#include "guard/attributes_protection.hpp"

#include "vm_here.hpp"

#include <array>
#include <doctest/doctest.h>
#include <string>

namespace casemate {
namespace {

TEST_CASE("attributes deny and stay, or the error tells how to get them") {
    const auto vm = vm_here();
    if (!vm)
        return;
    const auto memory = GuestMemory::create(1_MiB);
    REQUIRE(memory);
    const auto protection = AttributesProtection::create(*vm, *memory);
    constexpr uint64_t needed = kvm_attribute_no_write | kvm_attribute_immutable;
    REQUIRE(protection.has_value() == ((vm->memory_attributes() & needed) == needed));
    if (!protection) {
        CHECK(protection.error().message().find("tools/host-kernel") != std::string::npos);
        return;
    }
    const std::array ranges{GuestRange::of({0x5000}, page_bytes), GuestRange::of({0x8000}, 2 * page_bytes)};
    REQUIRE((*protection)->protect(ranges));
    for (const GuestRange& range : ranges)
        CHECK_FALSE(vm->set_memory_attributes(range.start(), range.bytes(), 0));
    CHECK(vm->set_memory_attributes({0x6000}, page_bytes, 0));
    // The second is no page, so the first is not denied either.
    const std::array partly{GuestRange::of({0x2000}, page_bytes), GuestRange::of({1_MiB + 1}, page_bytes)};
    CHECK_FALSE((*protection)->protect(partly));
    CHECK(vm->set_memory_attributes({0x2000}, page_bytes, 0));
}

TEST_CASE("KVM's refusal of attributes names them and the range") {
    const auto vm = vm_here();
    if (!vm)
        return;
    const auto refused = vm->set_memory_attributes({0x5001}, page_bytes, kvm_attribute_no_write);
    REQUIRE_FALSE(refused);
    const std::string message = refused.error().message();
    CHECK(message.find("KVM_SET_MEMORY_ATTRIBUTES 0x2") != std::string::npos);
    CHECK(message.find("0x5001") != std::string::npos);
}

} // namespace
} // namespace casemate
