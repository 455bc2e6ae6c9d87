// SPDX-License-Identifier: Apache-2.0
#include "guard/hypercall.hpp"

#include <doctest/doctest.h>
#include <variant>

using namespace casemate;

namespace {

constexpr uint64_t lock_text = CASEMATE_MARK << 48 | CASEMATE_CALL_LOCK << 40;

uint32_t refusal(const HypercallRegisters& registers) {
    const auto call = parse_hypercall(registers);
    return call ? 0 : call.error();
}

} // namespace

TEST_CASE("the attributes of the ABI header are what the monitor takes apart") {
    const auto call =
        parse_hypercall({.address = 0x5000,
                         .pages = 3,
                         .attributes = casemate_attributes(CASEMATE_CALL_LOCK, CASEMATE_POLICY_DIE_ON_WRITE,
                                                           CASEMATE_KIND_DATA)});
    REQUIRE(call);
    const Lock lock = std::get<LockCall>(*call).lock;
    CHECK(lock.range.start() == GuestPhysical{0x5000});
    CHECK(lock.range.bytes() == 3 * page_bytes);
    CHECK(lock.policy == LockPolicy::die_on_write);
    CHECK(lock.kind == LockKind::data);
}

TEST_CASE("calls without a range ignore it, but not their unused fields") {
    const uint64_t features = casemate_attributes(CASEMATE_CALL_FEATURES, 0, 0);
    const uint64_t seal = casemate_attributes(CASEMATE_CALL_SEAL, 0, 0);
    CHECK(std::holds_alternative<FeaturesCall>(*parse_hypercall({0, 1, features})));
    CHECK(std::holds_alternative<SealCall>(*parse_hypercall({~uint64_t{0}, ~uint64_t{0}, seal})));
    for (const uint64_t call : {features, seal})
        for (const unsigned bit : {0U, 4U, 5U, 31U, 32U, 39U})
            CHECK(refusal({0, 1, call | uint64_t{1} << bit}) == CASEMATE_EINVAL);
}

TEST_CASE("a call without the mark is KVM's own and not supported") {
    CHECK(refusal({0x1000, 1, 0}) == CASEMATE_EOPNOTSUPP);
    CHECK(refusal({0x1000, 1, 1 << 4}) == CASEMATE_EOPNOTSUPP); // KVM_MAP_GPA_RANGE_ENCRYPTED
    CHECK(refusal({0x1000, 1, lock_text ^ uint64_t{1} << 63}) == CASEMATE_EOPNOTSUPP);
    CHECK(refusal({0x1000, 1, lock_text ^ uint64_t{1} << 48}) == CASEMATE_EOPNOTSUPP);
}

TEST_CASE("unknown calls, policies and kinds are refused each in its way") {
    for (uint64_t call = 0; call < 256; ++call) {
        const bool known = call <= CASEMATE_CALL_SEAL || call == CASEMATE_CALL_ROOT_CLOCK;
        const uint64_t argument = call == CASEMATE_CALL_ROOT_CLOCK ? 1 : 0;
        const uint64_t address = call == CASEMATE_CALL_ROOT_CLEAR ? 0 : 0x1000;
        CHECK(refusal({address, 1, casemate_attributes(call, 0, argument)}) == (known ? 0 : CASEMATE_ENOSYS));
    }
    CHECK(refusal({0x1000, 1, casemate_attributes(CASEMATE_CALL_LOCK, 2, 0)}) == CASEMATE_EINVAL);
    CHECK(refusal({0x1000, 1, casemate_attributes(CASEMATE_CALL_LOCK, 255, 0)}) == CASEMATE_EINVAL);
    CHECK(refusal({0x1000, 1, casemate_attributes(CASEMATE_CALL_LOCK, 0, 4)}) == CASEMATE_EINVAL);
    CHECK(refusal({0x1000, 1, casemate_attributes(CASEMATE_CALL_LOCK, 0, CASEMATE_ARGUMENT_MAX)}) ==
          CASEMATE_EINVAL);
    CHECK(refusal({0x1000, 1, lock_text | 1}) == CASEMATE_EINVAL);
}

TEST_CASE("a root reference: a page or a pair, its policy and its first slot") {
    const auto attributes = [](uint64_t policy, uint64_t slot) {
        return casemate_attributes(CASEMATE_CALL_ROOT_REFERENCE, policy, slot);
    };
    const auto call = parse_hypercall({0x6000, 2, attributes(CASEMATE_POLICY_DIE_ON_WRITE, 300)});
    REQUIRE(call);
    const RootRequest& request = std::get<RootReferenceCall>(*call).request;
    CHECK(request.root == GuestPhysical{0x6000});
    CHECK(request.pair);
    CHECK(request.first_slot == 300);
    CHECK(request.policy == LockPolicy::die_on_write);
    const auto single = parse_hypercall({0x7000, 1, attributes(0, CASEMATE_ARGUMENT_MAX)});
    REQUIRE(single);
    CHECK_FALSE(std::get<RootReferenceCall>(*single).request.pair);
    CHECK(std::get<RootReferenceCall>(*single).request.first_slot == CASEMATE_ARGUMENT_MAX);
    CHECK(refusal({0x6000, 0, attributes(0, 300)}) == CASEMATE_EINVAL);
    CHECK(refusal({0x6000, 3, attributes(0, 300)}) == CASEMATE_EINVAL);
    CHECK(refusal({0x6001, 1, attributes(0, 300)}) == CASEMATE_EINVAL);
    CHECK(refusal({0x6000, 1, attributes(2, 300)}) == CASEMATE_EINVAL);
    CHECK(refusal({0x6000, 1, attributes(0, 300) | 1}) == CASEMATE_EINVAL);
}

TEST_CASE("a root check: of the root that is loaded, or of the next one too") {
    const uint64_t attributes = casemate_attributes(CASEMATE_CALL_ROOT_CHECK, 0, 0);
    CHECK_FALSE(std::get<RootCheckCall>(*parse_hypercall({0, 1, attributes})).next);
    CHECK(std::get<RootCheckCall>(*parse_hypercall({0x8000, 1, attributes})).next == GuestPhysical{0x8000});
    CHECK(refusal({0x8001, 1, attributes}) == CASEMATE_EINVAL);
    CHECK(refusal({0x8000, 2, attributes}) == CASEMATE_EINVAL);
    for (const unsigned bit : {0U, 5U, 31U, 32U, 39U})
        CHECK(refusal({0x8000, 1, attributes | uint64_t{1} << bit}) == CASEMATE_EINVAL);
}

TEST_CASE("an arena: its pages and their policy") {
    const uint64_t attributes = casemate_attributes(CASEMATE_CALL_ROOT_ARENA, 1, 0);
    const auto call = parse_hypercall({0x8000, 5, attributes});
    REQUIRE(call);
    const auto& arena = std::get<RootArenaCall>(*call);
    CHECK(arena.pages.start() == GuestPhysical{0x8000});
    CHECK(arena.pages.bytes() == 5 * page_bytes);
    CHECK(arena.policy == LockPolicy::die_on_write);
    CHECK(refusal({0x8000, 0, attributes}) == CASEMATE_EINVAL);
    CHECK(refusal({0x8001, 1, attributes}) == CASEMATE_EINVAL);
    CHECK(refusal({0x8000, uint64_t{1} << 52, attributes}) == CASEMATE_EFAULT);
    CHECK(refusal({~uint64_t{0xfff}, 2, attributes}) == CASEMATE_EFAULT);
    CHECK(refusal({0x8000, 1, casemate_attributes(CASEMATE_CALL_ROOT_ARENA, 2, 0)}) == CASEMATE_EINVAL);
    for (const unsigned bit : {0U, 4U, 5U, 31U, 33U, 39U})
        CHECK(refusal({0x8000, 1, attributes | uint64_t{1} << bit}) == CASEMATE_EINVAL);
}

TEST_CASE("a clock: its page, its policy and its interval in cycles") {
    const auto attributes = [](uint64_t policy, uint64_t interval) {
        return casemate_attributes(CASEMATE_CALL_ROOT_CLOCK, policy, interval);
    };
    const auto call = parse_hypercall({0x8000, 1, attributes(1, CASEMATE_ARGUMENT_MAX)});
    REQUIRE(call);
    const auto& clock = std::get<RootClockCall>(*call);
    CHECK(clock.page.start() == GuestPhysical{0x8000});
    CHECK(clock.page.bytes() == page_bytes);
    CHECK(clock.policy == LockPolicy::die_on_write);
    CHECK(clock.interval == CASEMATE_ARGUMENT_MAX * 1024);
    CHECK(refusal({0x8000, 1, attributes(0, 0)}) == CASEMATE_EINVAL);
    CHECK(refusal({0x8000, 1, attributes(2, 1)}) == CASEMATE_EINVAL);
    CHECK(refusal({0x8000, 2, attributes(0, 1)}) == CASEMATE_EINVAL);
    CHECK(refusal({0x8000, 0, attributes(0, 1)}) == CASEMATE_EINVAL);
    CHECK(refusal({0x8001, 1, attributes(0, 1)}) == CASEMATE_EINVAL);
    CHECK(refusal({~uint64_t{0xfff}, 1, attributes(0, 1)}) == CASEMATE_EFAULT);
    for (const unsigned bit : {0U, 4U})
        CHECK(refusal({0x8000, 1, attributes(0, 1) | uint64_t{1} << bit}) == CASEMATE_EINVAL);
}

TEST_CASE("an entry of a root: which root, which slot, which table or none") {
    const auto write = [](uint64_t root, uint64_t slot) {
        return casemate_attributes(CASEMATE_CALL_ROOT_WRITE, 0, CASEMATE_ROOT_ENTRY(root, slot));
    };
    const auto call = parse_hypercall({0x8000, 1, write((1U << 18U) - 1, 511)});
    REQUIRE(call);
    const auto& linked = std::get<RootWriteCall>(*call);
    CHECK(linked.root == (1U << 18U) - 1);
    CHECK(linked.slot == 511);
    REQUIRE(linked.table);
    CHECK(linked.table->start() == GuestPhysical{0x8000});
    CHECK(linked.table->bytes() == page_bytes);
    CHECK_FALSE(std::get<RootWriteCall>(*parse_hypercall({0, 1, write(3, 255)})).table);
    CHECK(refusal({~uint64_t{0xfff}, 1, write(0, 0)}) == CASEMATE_EFAULT);
    CHECK(refusal({0x8001, 1, write(0, 0)}) == CASEMATE_EINVAL);
    for (const uint64_t pages : {uint64_t{0}, uint64_t{2}, ~uint64_t{0}})
        CHECK(refusal({0x8000, pages, write(0, 0)}) == CASEMATE_EINVAL);
    const uint64_t clear = casemate_attributes(CASEMATE_CALL_ROOT_CLEAR, 0, CASEMATE_ROOT_ENTRY(7U, 0U));
    CHECK(std::get<RootClearCall>(*parse_hypercall({0, 1, clear})).root == 7);
    CHECK(refusal({0x1000, 1, clear}) == CASEMATE_EINVAL);
    CHECK(refusal({0, 2, clear}) == CASEMATE_EINVAL);
    for (const unsigned bit : {0U, 4U, 5U, 13U, 32U, 39U}) {
        CHECK(refusal({0, 1, clear | uint64_t{1} << bit}) == CASEMATE_EINVAL);
        if (bit < 5 || bit >= 32)
            CHECK(refusal({0x8000, 1, write(0, 0) | uint64_t{1} << bit}) == CASEMATE_EINVAL);
    }
}

TEST_CASE("a lock's range is checked even if KVM had not") {
    CHECK(refusal({0x1001, 1, lock_text}) == CASEMATE_EINVAL);
    CHECK(refusal({0x1000, 0, lock_text}) == CASEMATE_EINVAL);
    CHECK(refusal({0x1000, ~uint64_t{0}, lock_text}) == CASEMATE_EFAULT);
    CHECK(refusal({0x1000, uint64_t{1} << 52, lock_text}) == CASEMATE_EFAULT);
    CHECK(refusal({~uint64_t{0xfff}, 2, lock_text}) == CASEMATE_EFAULT);
    CHECK(refusal({0, 1, lock_text}) == 0);
}
