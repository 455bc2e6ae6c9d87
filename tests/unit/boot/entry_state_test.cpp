// SPDX-License-Identifier: Apache-2.0
#include "boot/entry_state.hpp"

#include "memory/layout.hpp"

#include <doctest/doctest.h>

namespace casemate {
namespace {

// Walks the tables as the processor does; ~0 when nothing is mapped.
uint64_t translate(const GuestMemory& memory, uint64_t root, uint64_t linear) {
    uint64_t table = root;
    for (const unsigned shift : {39U, 30U, 21U}) {
        const auto entry = memory.fetch<uint64_t>(GuestPhysical{table + (linear >> shift) % 512 * 8});
        REQUIRE(entry);
        if ((*entry & 1) == 0)
            return ~0ULL;
        if (shift == 21) {
            CHECK((*entry & 0x80) != 0);
            return (*entry & 0xfffffffe00000) + linear % 2_MiB;
        }
        CHECK((*entry & 0x80) == 0);
        table = *entry & 0xffffffffff000;
    }
    return ~0ULL;
}

TEST_CASE("the boot page tables map 4 GiB onto themselves and nothing more") {
    const auto memory = GuestMemory::create(16_MiB);
    REQUIRE(memory);
    REQUIRE(write_entry_tables(*memory));
    kvm_sregs registers{};
    set_entry_state(registers);
    for (const uint64_t address :
         {uint64_t{0}, layout::zero_page.start.value, 2_MiB - 1, 2_MiB, 1_GiB, 4_GiB - 1})
        CHECK(translate(*memory, registers.cr3, address) == address);
    CHECK(translate(*memory, registers.cr3, 4_GiB) == ~0ULL);
    CHECK(translate(*memory, registers.cr3, 512_GiB) == ~0ULL);
}

TEST_CASE("the segment registers hold what the GDT says") {
    const auto memory = GuestMemory::create(16_MiB);
    REQUIRE(memory);
    REQUIRE(write_entry_tables(*memory));
    kvm_sregs registers{};
    set_entry_state(registers);
    CHECK(registers.gdt.base == layout::boot_gdt.start.value);
    CHECK(registers.gdt.limit == 0x1f);
    CHECK(registers.cs.selector == 0x10);
    CHECK(registers.ss.selector == 0x18);
    for (const kvm_segment& segment : {registers.cs, registers.ds, registers.es, registers.ss}) {
        const auto descriptor = memory->fetch<uint64_t>(GuestPhysical{registers.gdt.base + segment.selector});
        REQUIRE(descriptor);
        CHECK(((*descriptor >> 40) & 0xf) == segment.type);
        CHECK(((*descriptor >> 44) & 1) == segment.s);
        CHECK(((*descriptor >> 45) & 3) == segment.dpl);
        CHECK(((*descriptor >> 47) & 1) == segment.present);
        CHECK(((*descriptor >> 53) & 1) == segment.l);
        CHECK(((*descriptor >> 54) & 1) == segment.db);
        CHECK(((*descriptor >> 55) & 1) == segment.g);
        CHECK(segment.base == 0);
        CHECK(segment.limit == 0xffffffff);
    }
}

TEST_CASE("a kernel is entered in long mode with interrupts off and RSI at the zero page") {
    const kvm_regs general = entry_registers(GuestPhysical{0x1000200});
    CHECK(general.rip == 0x1000200);
    CHECK(general.rsi == layout::zero_page.start.value);
    CHECK(general.rflags == 2);
    kvm_sregs registers{};
    registers.apic_base = 0xfee00900;
    set_entry_state(registers);
    CHECK(registers.apic_base == 0xfee00900);
    CHECK(registers.cr0 == 0x80000011);
    CHECK(registers.cr4 == 0x20);
    CHECK(registers.efer == 0x500);
    CHECK(registers.tr.type == 0xb);
}

} // namespace
} // namespace casemate
