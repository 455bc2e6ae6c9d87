// SPDX-License-Identifier: Apache-2.0
// Attack 36: the page-table entries behind what a CPU's registers point at. IDT and entry code lie in locked
// pages and the registers are pinned, but the tables that lead there are not locked.
#include "attack_locks.hpp"
#include "page_tables.hpp"

#include <initializer_list>

// NOLINTBEGIN(misc-const-correctness): it does not see what assembly writes.
namespace payload {
namespace {

constexpr uint64_t frame_mask = 0x000ffffffffff000;
constexpr uint64_t table_bytes = 0x200000; // that one lowest-level table maps

// Each has a lowest-level table of its own.
constexpr uint64_t idt_linear = alias_area;
constexpr uint64_t gate_linear = alias_area + table_bytes;
constexpr uint64_t locked_gate_linear = alias_area + 2 * table_bytes;
constexpr uint64_t syscall_linear = alias_area + 3 * table_bytes;

constexpr uint16_t code_selector = 0x10;
constexpr uint64_t syscall_offset = 64; // in the page of entry code
constexpr uint64_t right = 1, wrong = 2;

// mov $answer, %eax; then iretq, and at syscall_offset jmp *%rcx
uint64_t entry_code(uint8_t answer) {
    const uint64_t page = take_pages(1);
    for (const uint64_t at : {page, page + syscall_offset}) {
        store<uint8_t>(at, 0xb8);
        store<uint32_t>(at + 1, answer);
    }
    store<uint16_t>(page + 5, 0xcf48);
    store<uint16_t>(page + syscall_offset + 5, 0xe1ff);
    return page;
}

void set_gate(uint64_t idt, unsigned vector, uint64_t target) {
    const uint64_t gate = idt + 16UL * vector;
    store<uint64_t>(gate, (target & 0xffff) | uint64_t{code_selector} << 16 | uint64_t{0x8e00} << 32 |
                              (target & 0xffff0000) << 32);
    store<uint64_t>(gate + 8, target >> 32);
}

uint64_t copy_page(uint64_t page) {
    const uint64_t copy = take_pages(1);
    memcpy(reinterpret_cast<void*>(copy), reinterpret_cast<const void*>(page), page_bytes);
    return copy;
}

// Level 1 is that of a 4 KiB page.
uint64_t index_of(uint64_t linear, unsigned level) {
    return linear >> (3 + 9 * level) & 511;
}
uint64_t entry_address(uint64_t linear, unsigned level) {
    uint64_t table = read_cr3() & frame_mask;
    for (unsigned at = 4; at > level; --at)
        table = load<uint64_t>(table + 8 * index_of(linear, at)) & frame_mask;
    return table + 8 * index_of(linear, level);
}

// The entry of that level for a way to `page`, by copies of the tables below it.
uint64_t forged_entry(uint64_t linear, unsigned level, uint64_t page) {
    const auto entry = load<uint64_t>(entry_address(linear, level));
    if (level == 1)
        return (entry & ~frame_mask) | page;
    const uint64_t table = copy_page(entry & frame_mask);
    store<uint64_t>(table + 8 * index_of(linear, level - 1), forged_entry(linear, level - 1, page));
    return (entry & ~frame_mask) | table;
}

uint64_t interrupt_60() {
    uint64_t answer = 0;
    asm volatile("int $0x60" : "+a"(answer)::"memory");
    return answer;
}
uint64_t interrupt_61() {
    uint64_t answer = 0;
    asm volatile("int $0x61" : "+a"(answer)::"memory");
    return answer;
}
uint64_t system_call() {
    uint64_t answer = 0;
    asm volatile("syscall" : "+a"(answer)::"rcx", "r11", "memory");
    return answer;
}

void attempt_entry(const char* form, uint64_t linear, unsigned level, uint64_t page, uint64_t (*enter)()) {
    if (!wanted(36, form))
        return;
    if (enter() != right)
        return report(false, "entry");
    const uint64_t at = entry_address(linear, level);
    const auto before = load<uint64_t>(at);
    const uint64_t forged = forged_entry(linear, level, page);
    store_site = 0;
    const Caught caught = catch_exceptions([=] { store_at(at, forged); });
    write_cr3(read_cr3());
    bool used = !caught.happened && enter() == wrong;
    // The CPU may add accessed and dirty bits to what is there.
    const auto is_there = [=] { return (load<uint64_t>(at) & forged) == forged; };
    constexpr uint64_t patience = uint64_t{1} << 37; // of time-stamp counts, a minute
    const uint64_t begin = time_stamp();
    while (used && policy() != Policy::none && is_there() && time_stamp() - begin < patience) {
        spin(1000);
        (void)enter();
        pause();
    }
    if (used && !is_there())
        return print_other(36, form, "found");
    if (!caught.happened)
        store<uint64_t>(at, before);
    write_cr3(read_cr3());
    print_judged(36, form, used, caught, store_site);
}

} // namespace

void attack_translation() {
    constexpr uint32_t msr_efer = 0xc0000080, msr_star = 0xc0000081, msr_lstar = 0xc0000082,
                       msr_sfmask = 0xc0000084;
    struct [[gnu::packed]] TablePointer {
        uint16_t limit;
        uint64_t base;
    };
    use_own_tables();
    TablePointer table{};
    asm volatile("sidt %0" : "=m"(table));
    const uint64_t code = entry_code(right);
    const uint64_t forged_code = entry_code(wrong);
    const uint64_t idt = take_pages(1);
    memcpy(reinterpret_cast<void*>(idt), reinterpret_cast<const void*>(table.base), table.limit + 1U);
    set_gate(idt, 0x60, gate_linear);
    set_gate(idt, 0x61, locked_gate_linear);
    const uint64_t forged_idt = copy_page(idt);
    set_gate(forged_idt, 0x60, forged_code);

    map_page(idt_linear, idt, read_only_page);
    for (const uint64_t linear : {gate_linear, locked_gate_linear, syscall_linear})
        map_page(linear, code, read_only_page);
    table.base = idt_linear;
    asm volatile("lidt %0" ::"m"(table));
    write_msr(msr_efer, read_msr(msr_efer) | 1); // SCE
    write_msr(msr_star, uint64_t{code_selector} << 32);
    write_msr(msr_lstar, syscall_linear + syscall_offset);
    write_msr(msr_sfmask, 0x200);

    lock_pages(idt, 1);
    lock_pages(code, 1);
    if (policy() != Policy::none) {
        const uint64_t asked =
            policy() == Policy::read_only ? CASEMATE_POLICY_READ_ONLY : CASEMATE_POLICY_DIE_ON_WRITE;
        if (lock(table_of(locked_gate_linear), 1, asked, CASEMATE_KIND_PAGE_TABLE) != 0 || seal() != 0)
            return report(false, "seal");
    }

    attempt_entry("idt_page", idt_linear, 1, forged_idt, interrupt_60);
    attempt_entry("idt_table", idt_linear, 2, forged_idt, interrupt_60);
    attempt_entry("idt_directory", idt_linear, 3, forged_idt, interrupt_60);
    attempt_entry("gate_target", gate_linear, 1, forged_code, interrupt_60);
    attempt_entry("syscall_entry", syscall_linear, 1, forged_code, system_call);
    attempt_entry("locked_table", locked_gate_linear, 1, forged_code, interrupt_61);
}

} // namespace payload
// NOLINTEND(misc-const-correctness)
