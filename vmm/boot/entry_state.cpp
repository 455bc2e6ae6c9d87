// SPDX-License-Identifier: Apache-2.0
#include "boot/entry_state.hpp"

#include "boot/image_file.hpp"
#include "memory/layout.hpp"

#include <array>
#include <vector>

namespace casemate {

namespace {

// SDM volume 3A, 3.4.5 "Segment Descriptors"; the places are __BOOT_CS and __BOOT_DS of the boot protocol.
constexpr uint16_t code_selector = 0x10;
constexpr uint16_t data_selector = 0x18;
constexpr std::array<uint64_t, 4> gdt{
    0, 0,
    0x00af9b000000ffff, // code: execute/read, accessed, 64-bit, 4 GiB
    0x00cf93000000ffff, // data: read/write, accessed, 4 GiB
};
static_assert(sizeof(gdt) <= layout::boot_gdt.bytes && code_selector / 8 == 2 && data_selector / 8 == 3);

// SDM volume 3A, 4.5 "4-Level Paging". Accessed and dirty are set so that no walk has to write them.
constexpr uint64_t table_flags = 0x023;      // present, writable, accessed
constexpr uint64_t large_page_flags = 0x0e3; // and dirty, page size
constexpr size_t entries_per_table = 512;
constexpr uint64_t identity_map_bytes = 4_GiB;
constexpr size_t directories = identity_map_bytes / 1_GiB;
static_assert(layout::boot_tables.bytes == (2 + directories) * page_bytes);
static_assert(is_aligned(layout::boot_tables.start.value, page_bytes));

constexpr uint64_t cr0_pe = 1 << 0;
constexpr uint64_t cr0_et = 1 << 4;
constexpr uint64_t cr0_pg = 1U << 31;
constexpr uint64_t cr4_pae = 1 << 5;
constexpr uint64_t efer_lme = 1 << 8;
constexpr uint64_t efer_lma = 1 << 10;
constexpr uint64_t rflags_always_one = 1 << 1;

Result<void> write(const GuestMemory& memory, GuestPhysical address, std::span<const std::byte> bytes) {
    if (const auto written = memory.write(address, bytes); !written)
        return fail(ram_refused(GuestRange::of(address, bytes.size()), written.error()));
    return {};
}

kvm_segment flat_segment(uint16_t selector) {
    kvm_segment segment{};
    segment.limit = 0xffffffff;
    segment.selector = selector;
    segment.present = 1;
    segment.s = 1;
    segment.g = 1;
    return segment;
}

} // namespace

Result<void> write_entry_tables(const GuestMemory& memory) {
    TRY(write(memory, layout::boot_gdt.start, std::as_bytes(std::span(gdt))));

    const uint64_t pml4 = layout::boot_tables.start.value;
    const uint64_t pdpt = pml4 + page_bytes;
    const uint64_t first_directory = pdpt + page_bytes;
    std::vector<uint64_t> tables((2 + directories) * entries_per_table);
    tables[0] = pdpt | table_flags;
    for (size_t i = 0; i < directories; ++i)
        tables[entries_per_table + i] = (first_directory + i * page_bytes) | table_flags;
    for (size_t i = 0; i < directories * entries_per_table; ++i)
        tables[2 * entries_per_table + i] = i * 2_MiB | large_page_flags;
    return write(memory, layout::boot_tables.start, std::as_bytes(std::span(tables)));
}

kvm_regs entry_registers(GuestPhysical entry) {
    kvm_regs registers{};
    registers.rip = entry.value;
    registers.rsi = layout::zero_page.start.value;
    registers.rflags = rflags_always_one;
    return registers;
}

void set_entry_state(kvm_sregs& registers) {
    kvm_segment code = flat_segment(code_selector);
    code.type = 0xb; // execute/read, accessed
    code.l = 1;
    kvm_segment data = flat_segment(data_selector);
    data.type = 0x3; // read/write, accessed
    data.db = 1;
    registers.cs = code;
    registers.ds = registers.es = registers.fs = registers.gs = registers.ss = data;

    // VM entry in long mode insists on a busy 64-bit TSS: SDM volume 3C, 26.3.1.2 "Checks on Guest Segment
    // Registers".
    registers.tr = {};
    registers.tr.limit = 0x67;
    registers.tr.type = 0xb;
    registers.tr.present = 1;
    registers.ldt = {};
    registers.ldt.unusable = 1;

    registers.gdt = {.base = layout::boot_gdt.start.value, .limit = sizeof(gdt) - 1, .padding = {}};
    registers.idt = {};
    registers.cr0 = cr0_pe | cr0_et | cr0_pg;
    registers.cr2 = 0;
    registers.cr3 = layout::boot_tables.start.value;
    registers.cr4 = cr4_pae;
    registers.cr8 = 0;
    registers.efer = efer_lme | efer_lma;
}

} // namespace casemate
