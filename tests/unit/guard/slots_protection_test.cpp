// SPDX-License-Identifier: Apache-2.0
// On the KVM of the machine that runs the tests, whatever kind it is; skipped where there is none.
#include "guard/slots_protection.hpp"

#include "kvm/vcpu.hpp"
#include "vm_here.hpp"

#include <algorithm>
#include <array>
#include <doctest/doctest.h>
#include <optional>
#include <random>

namespace casemate {
namespace {

constexpr uint32_t first_free = 3;
constexpr uint32_t foreign_slot = 4999;
constexpr uint64_t code_page = 0x1000;

GuestRange pages_at(uint64_t first, uint64_t count) {
    return GuestRange::of({first * page_bytes}, count * page_bytes);
}

// A VM whose RAM is in slot 0.
struct Machine {
    GuestMemory memory;
    Vm vm;
    unsigned stops = 0;
    bool stopped = false;
    std::optional<std::string> broken;
    std::function<void()> while_stopped = [] {};
    std::unique_ptr<SlotsProtection> slots;
    std::optional<Vcpu> vcpu;

    static std::unique_ptr<Machine> create(uint64_t bytes) {
        auto vm = vm_here();
        if (!vm)
            return nullptr;
        return std::make_unique<Machine>(*GuestMemory::create(bytes), std::move(*vm));
    }
    Machine(GuestMemory ram, Vm machine)
        : memory(std::move(ram))
        , vm(std::move(machine)) {
        REQUIRE(memory.regions().size() == 1);
        REQUIRE(vm.set_memory_slot(0, {0}, memory.size(), memory.regions().front().memory.data()));
        slots =
            *SlotsProtection::create({.vm = vm,
                                      .memory = memory,
                                      .first_free_slot = first_free,
                                      .with_vcpus_stopped =
                                          [this](const std::function<void()>& change) {
                                              ++stops;
                                              while_stopped();
                                              change();
                                          },
                                      .broken = [this](const Error& error) { broken = error.message(); }});
    }
    Machine(const Machine&) = delete;
    Machine& operator=(const Machine&) = delete;
    ~Machine() = default;

    Result<void> lock(uint64_t first, uint64_t count) {
        const GuestRange range = pages_at(first, count);
        return slots->protect({&range, 1});
    }
    // KVM takes no second slot where one is.
    bool has_slot(uint64_t page) {
        static std::array<std::byte, 2 * page_bytes> room{};
        auto* const aligned =
            room.data() + (page_bytes - reinterpret_cast<uint64_t>(room.data()) % page_bytes);
        const bool free =
            vm.set_memory_slot(foreign_slot, {page * page_bytes}, page_bytes, aligned).has_value();
        if (free)
            REQUIRE(vm.set_memory_slot(foreign_slot, {page * page_bytes}, 0, nullptr));
        return !free;
    }
    // Whether a guest's store lands there: real-address mode, MOV [BX], AL; HLT.
    bool guest_can_write(uint64_t page) {
        constexpr std::array<uint8_t, 3> code{0x88, 0x07, 0xf4};
        if (!vcpu) {
            REQUIRE(memory.write({code_page}, std::as_bytes(std::span(code))));
            vcpu = *vm.create_vcpu(0);
        }
        kvm_sregs system = *vcpu->system_registers();
        system.cs.base = 0;
        system.cs.selector = 0;
        system.ds.base = page * page_bytes;
        system.ds.selector = static_cast<uint16_t>(system.ds.base >> 4U);
        REQUIRE(vcpu->set_system_registers(system));
        const auto before = memory.fetch<uint8_t>({page * page_bytes + 8}).value();
        REQUIRE(vcpu->set_registers(
            {.rax = static_cast<uint8_t>(before + 1), .rbx = 8, .rip = code_page, .rflags = 2}));
        REQUIRE(vcpu->run() == 0);
        const uint32_t exit = vcpu->run_page().exit_reason;
        const bool landed = memory.fetch<uint8_t>({page * page_bytes + 8}).value() != before;
        if (exit == KVM_EXIT_MMIO) {
            CHECK(vcpu->run_page().mmio.phys_addr == page * page_bytes + 8);
            REQUIRE(vcpu->run() == 0); // to the end of the instruction, and HLT
        }
        CHECK(vcpu->run_page().exit_reason == KVM_EXIT_HLT);
        CHECK(landed == (exit == KVM_EXIT_HLT));
        return landed;
    }
};

TEST_CASE("a guest cannot write to protected pages, can read them, and can write to their neighbours") {
    const auto machine = Machine::create(1_MiB);
    if (!machine)
        return;
    CHECK(machine->slots->name() == "slots");
    CHECK(machine->slots->may_hang_vcpus());
    CHECK(machine->guest_can_write(6));
    const std::array ranges{pages_at(5, 1), pages_at(8, 2)};
    REQUIRE(machine->slots->protect(ranges));
    CHECK(machine->stops == 1);
    for (uint64_t page = 3; page < 12; ++page) {
        CAPTURE(page);
        CHECK(machine->guest_can_write(page) == (page != 5 && page != 8 && page != 9));
    }
    CHECK(machine->slots->slots().size() == 5);
}

TEST_CASE("replaced pages have the new contents, and the view alone changes them") {
    const auto machine = Machine::create(1_MiB);
    if (!machine)
        return;
    REQUIRE(machine->memory.store({5 * page_bytes + 16}, uint64_t{5}));
    const auto view =
        machine->slots->replace(pages_at(5, 2), [](std::span<std::byte> bytes) { bytes[8] = std::byte{7}; });
    REQUIRE(view);
    CHECK(view->size() == 2 * page_bytes);
    CHECK(machine->memory.fetch<uint8_t>({5 * page_bytes + 8}) == 7);
    CHECK(machine->memory.fetch<uint64_t>({5 * page_bytes + 16}) == 0U);
    CHECK_FALSE(machine->guest_can_write(5));
    (*view)[8] = std::byte{9};
    CHECK(machine->memory.fetch<uint8_t>({5 * page_bytes + 8}) == 9);
}

TEST_CASE("protected neighbours are one slot, whichever comes first") {
    const auto machine = Machine::create(1_MiB);
    if (!machine)
        return;
    for (const uint64_t page : {10U, 12U, 14U, 11U, 13U, 9U, 15U})
        REQUIRE(machine->lock(page, 1));
    REQUIRE(machine->slots->slots().size() == 3);
    CHECK(machine->slots->slots()[1].range.start() == GuestPhysical{9 * page_bytes});
    CHECK(machine->slots->slots()[1].range.bytes() == 7 * page_bytes);
    // All that is left, in one call: both ends of RAM too.
    const std::array rest{pages_at(0, 9), pages_at(16, 240)};
    REQUIRE(machine->slots->protect(rest));
    REQUIRE(machine->slots->slots().size() == 1);
    CHECK(machine->slots->slots()[0].read_only);
}

TEST_CASE("what is not writable RAM is refused, and nothing changes") {
    const auto machine = Machine::create(1_MiB);
    if (!machine)
        return;
    REQUIRE(machine->lock(5, 2));
    const size_t before = machine->slots->slots().size();
    for (const auto& [first, count] :
         std::array<std::array<uint64_t, 2>, 5>{{{256, 1}, {255, 2}, {5, 1}, {4, 2}, {0xfffffffff, 1}}}) {
        const std::array ranges{pages_at(20, 1), pages_at(first, count)};
        CHECK_FALSE(machine->slots->protect(ranges));
        CHECK_FALSE(machine->lock(first, count));
    }
    CHECK(machine->slots->slots().size() == before);
    CHECK(machine->guest_can_write(20));
    CHECK(machine->guest_can_write(4));
    CHECK(machine->guest_can_write(255));
}

// A slot of another size behind its back: KVM refuses the number that it stands for.
TEST_CASE("when KVM refuses a slot all is as before, and works once it does not") {
    const auto machine = Machine::create(1_MiB);
    if (!machine)
        return;
    REQUIRE(machine->lock(100, 1));
    std::vector<GuestRange> ranges;
    for (uint64_t page = 2; page < 98; page += 2)
        ranges.push_back(pages_at(page, 1));
    const auto before = machine->slots->slots();
    for (const uint32_t number : {first_free + 4, first_free + 40, first_free + 90}) {
        CAPTURE(number);
        REQUIRE(machine->vm.set_memory_slot(number, {1_GiB}, 2 * page_bytes,
                                            machine->memory.regions().front().memory.data()));
        const auto done = machine->slots->protect(ranges);
        CHECK_FALSE(done);
        CHECK_FALSE(machine->broken);
        REQUIRE(machine->slots->slots().size() == before.size());
        for (size_t i = 0; i < before.size(); ++i) {
            CHECK(machine->slots->slots()[i].number == before[i].number);
            CHECK(machine->slots->slots()[i].range.start() == before[i].range.start());
        }
        for (const uint64_t page : {2U, 3U, 34U, 96U})
            CHECK(machine->guest_can_write(page));
        CHECK_FALSE(machine->guest_can_write(100));
        REQUIRE(machine->vm.set_memory_slot(number, {1_GiB}, 0, nullptr));
    }
    machine->stops = 0;
    CHECK(machine->slots->protect(ranges));
    CHECK(machine->stops == 3);
    CHECK_FALSE(machine->guest_can_write(96));
    CHECK(machine->guest_can_write(97));
}

TEST_CASE("when RAM cannot get its slot back it is told") {
    const auto machine = Machine::create(1_MiB);
    if (!machine)
        return;
    // Something else lies in the middle of RAM, whose slot is gone.
    REQUIRE(machine->vm.set_memory_slot(0, {0}, 0, nullptr));
    std::byte* const host = machine->memory.regions().front().memory.data();
    REQUIRE(machine->vm.set_memory_slot(foreign_slot, {64 * page_bytes}, page_bytes, host));
    REQUIRE(machine->vm.set_memory_slot(0, {1_GiB}, page_bytes, host));
    CHECK_FALSE(machine->lock(5, 1));
    CHECK(machine->broken);
}

TEST_CASE("slots are bounded, and what would need more is refused whole") {
    const auto machine = Machine::create(64_MiB);
    if (!machine)
        return;
    const uint64_t pages = machine->memory.size() / page_bytes;
    uint64_t page = 1;
    std::string message;
    for (; page < pages && message.empty(); page += 2)
        if (const auto done = machine->lock(page, 1); !done)
            message = done.error().message();
    CHECK(message.find("4097 slots are needed, the limit is 4096") != std::string::npos);
    CHECK(message.find("--protect mapping") != std::string::npos);
    const uint64_t refused = page - 2;
    CHECK(machine->slots->slots().size() == 2 * (refused / 2) + 1);
    CHECK(machine->guest_can_write(refused));
    // Where slots become fewer it goes on, a few at a time, and numbers are used again.
    std::vector<GuestRange> gaps;
    for (uint64_t gap = 0; gap < refused; gap += 2)
        gaps.push_back(pages_at(gap, 1));
    machine->stops = 0;
    CHECK(machine->slots->protect(gaps));
    CHECK(machine->slots->slots().size() == 2);
    CHECK(machine->stops == (gaps.size() + 15) / 16);
    for (unsigned i = 0; i < 1000; ++i, page += 2)
        REQUIRE(machine->lock(page, 1));
    for (const auto& slot : machine->slots->slots())
        CHECK(slot.number < first_free + SlotsProtection::most_slots + 33);
}

TEST_CASE("after locks in any order every page is in one slot, read-only where it is locked") {
    std::mt19937 random(1);
    for (unsigned round = 0; round < 12; ++round) {
        const auto machine = Machine::create(1_MiB);
        if (!machine)
            return;
        std::array<bool, 256> locked{};
        while (std::ranges::count(locked, true) < 200) {
            // Some runs of pages that are not locked yet, ascending, as LockTable gives them.
            std::vector<GuestRange> ranges;
            auto after = locked;
            for (uint64_t page = random() % 64; page < locked.size();) {
                const uint64_t longest = 1 + random() % 6;
                uint64_t count = 0;
                while (page + count < locked.size() && count < longest && !locked[page + count])
                    after[page + count++] = true;
                if (count != 0)
                    ranges.push_back(pages_at(page, count));
                page += count + 1 + random() % 40;
            }
            REQUIRE(machine->slots->protect(ranges));
            locked = after;
            const auto slots = machine->slots->slots();
            uint64_t at = 0;
            for (size_t i = 0; i < slots.size(); ++i) {
                REQUIRE(slots[i].range.start().value == at);
                for (; at < slots[i].range.end(); at += page_bytes)
                    REQUIRE(slots[i].read_only == locked[at / page_bytes]);
                if (i != 0)
                    REQUIRE(slots[i].read_only != slots[i - 1].read_only);
            }
            REQUIRE(at == machine->memory.size());
        }
        // And KVM is of one mind.
        for (uint64_t page = 2; page < locked.size(); page += 1 + random() % 8) {
            REQUIRE(machine->has_slot(page));
            REQUIRE(machine->guest_can_write(page) != locked[page]);
        }
    }
}

} // namespace
} // namespace casemate
