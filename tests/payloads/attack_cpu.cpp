// SPDX-License-Identifier: Apache-2.0
// Attacks by one CPU: its modes, its mappings, its own stores, page boundaries, resets.
#include "attack_locks.hpp"
#include "page_tables.hpp"

#include <initializer_list>

// NOLINTBEGIN(misc-const-correctness): it does not see what assembly writes.
namespace payload {

void attack_write_protect() {
    use_own_tables();
    const uint64_t page = locked_pages();
    map_page(alias_area, page, read_only_page);
    write_cr0(read_cr0() | cr0_wp);
    const Caught guarded = catch_exceptions([] { store_at(alias_area, ~uint64_t{0}); });
    report(guarded.vector == vector_page_fault, "the guest's own tables refuse the store under CR0.WP");
    write_cr0(read_cr0() & ~cr0_wp);
    if (wanted(2, "mov"))
        attempt(2, "mov", page, 1, [] { store_at(alias_area + 0x100, 0x1122334455667788); });
    if (wanted(2, "rep_stosb"))
        attempt(2, "rep_stosb", page, 1, [] {
            uint64_t at = alias_area + 0x200;
            uint64_t count = 64;
            asm volatile("movq $1f, %2\n1: rep stosb"
                         : "+D"(at), "+c"(count), "=m"(store_site)
                         : "a"(0)
                         : "memory");
        });
    if (wanted(2, "lock_btc"))
        attempt(2, "lock_btc", page, 1, [] {
            asm volatile("movq $1f, %0\n1: lock btcq $3, (%1)"
                         : "=m"(store_site)
                         : "r"(alias_area + 0x300)
                         : "memory");
        });
    write_cr0(read_cr0() | cr0_wp);
}

namespace {

void user_store(uint64_t address, uint64_t value) {
    store_at(address, value);
    asm volatile("int $0x80");
}

} // namespace

void attack_aliases() {
    use_own_tables();
    write_cr0(read_cr0() | cr0_wp);
    const uint64_t page = locked_pages();
    map_page(alias_area, page, writable_page);
    if (wanted(4, "writable_alias"))
        attempt(4, "writable_alias", page, 1, [] { store_at(alias_area + 8, 1); });
    map_large_page(alias_area + 0x40000000, page & ~0x1fffffULL, writable_page);
    if (wanted(4, "large_page_alias"))
        attempt(4, "large_page_alias", page, 1,
                [page] { store_at(alias_area + 0x40000000 + (page & 0x1fffff) + 16, 1); });
    map_page(0xffffffff80000000, page, writable_page);
    if (wanted(4, "kernel_half_alias"))
        attempt(4, "kernel_half_alias", page, 1, [] { store_at(0xffffffff80000ff8, 1); });
    // Two aliases of one page beside each other: the store crosses from its end to its start.
    map_page(alias_area + 0x1000, page, writable_page);
    if (wanted(4, "wrapping_alias"))
        attempt(4, "wrapping_alias", page, 1, [] { store_at(alias_area + 0xffc, 1); });
    // Made after the lock and after a first violation through the same table.
    map_page(alias_area + 0x2000, page, read_only_page);
    map_page(alias_area + 0x2000, page, writable_page);
    if (wanted(4, "remapped_alias"))
        attempt(4, "remapped_alias", page, 1, [] { store_at(alias_area + 0x2020, 1); });
    map_page(alias_area + 0x3000, page, writable_page | entry_user);
    if (wanted(7, "user_alias")) {
        const Caught caught = run_in_ring3(user_store, alias_area + 0x3028, 1);
        const bool left = caught.vector == vector_leave_ring3;
        print_judged(7, "user_alias", !is_filled(page, page_bytes, page_seed), left ? Caught{} : caught,
                     store_site);
    }
}

// --- 11 ---

namespace {

constexpr uint64_t stack_pages = 4;

// Calls function(top) with exceptions on a locked stack and reports what became of it, if the VM goes on.
template <typename Function>
void attempt_frame(const char* form, Function function) {
    if (!wanted(11, form))
        return;
    const uint64_t stack = locked_pages(stack_pages);
    const Caught caught = catch_exceptions([&] { function(stack + stack_pages * page_bytes); });
    use_own_exception_stack();
    const bool changed = !is_filled(stack, stack_pages * page_bytes, page_seed);
    print_judged(11, form, changed, caught, 0);
}

void interrupt_on_stack(uint64_t top) {
    enable_local_apic();
    store<uint32_t>(local_apic + 0x300, 0x44040); // to itself, vector 0x40
    asm volatile("movq %%rsp, %%r15\n"
                 "movq %0, %%rsp\n"
                 "sti\n"
                 "nop\n"
                 "nop\n"
                 "cli\n"
                 "movq %%r15, %%rsp\n"
                 :
                 : "r"(top)
                 : "r15", "memory");
    store<uint32_t>(local_apic + 0xb0, 0); // end of interrupt
}

void user_trap(uint64_t, uint64_t) {
    asm volatile("ud2");
}

struct [[gnu::packed]] DescriptorTable {
    uint16_t limit;
    uint64_t base;
};

// A GDT of its own in a page that is locked afterwards; descriptor 8 is data without its accessed bit, 9 and
// 10 an available TSS.
uint64_t locked_gdt() {
    const uint64_t page = take_pages(1);
    DescriptorTable now{};
    asm volatile("sgdt %0" : "=m"(now));
    fill(page, page_bytes, page_seed);
    memcpy(reinterpret_cast<void*>(page), reinterpret_cast<const void*>(now.base), now.limit + 1U);
    store<uint64_t>(page + 0x60, 0x00cf92000000ffff);
    const uint64_t task = take_pages(1);
    const auto now_task = load<uint64_t>(now.base + 0x30); // CPU 0's, with a base below 16 MiB
    memcpy(reinterpret_cast<void*>(task), reinterpret_cast<const void*>(now_task >> 16 & 0xffffff), 0x68);
    store<uint64_t>(page + 0x70, 0x0000890000000067 | (task & 0xffffff) << 16 | (task >> 24 & 0xff) << 56);
    store<uint64_t>(page + 0x78, 0);
    lock_pages(page, 1);
    const DescriptorTable table{0xff, page};
    asm volatile("lgdt %0" ::"m"(table));
    return page;
}

} // namespace

void attack_frames() {
    attempt_frame("int3", [](uint64_t top) {
        use_current_stack_for_exceptions();
        asm volatile("movq %0, %%rsp\nint3" ::"r"(top));
    });
    attempt_frame("ud2", [](uint64_t top) {
        use_current_stack_for_exceptions();
        asm volatile("movq %0, %%rsp\nud2" ::"r"(top));
    });
    attempt_frame("int_n", [](uint64_t top) {
        use_current_stack_for_exceptions();
        asm volatile("movq %0, %%rsp\nint $0x80" ::"r"(top));
    });
    attempt_frame("divide", [](uint64_t top) {
        use_current_stack_for_exceptions();
        asm volatile("movq %0, %%rsp\nxorl %%ecx, %%ecx\ndivl %%ecx" ::"r"(top) : "ecx");
    });
    attempt_frame("page_fault", [](uint64_t top) {
        use_current_stack_for_exceptions();
        asm volatile("movq %0, %%rsp\nmovq %1, %%rax\nmovb (%%rax), %%al" ::"r"(top), "r"(alias_area)
                     : "rax");
    });
    attempt_frame("general_protection", [](uint64_t top) {
        use_current_stack_for_exceptions();
        asm volatile("movq %0, %%rsp\nmovw $0x88, %%ax\nmovw %%ax, %%ds" ::"r"(top) : "rax");
    });
    attempt_frame("single_step", [](uint64_t top) {
        use_current_stack_for_exceptions();
        asm volatile("pushq $0x102\nmovq %0, %%r15\npopfq\nmovq %%r15, %%rsp\nnop" ::"r"(top) : "r15");
    });
    attempt_frame("interrupt", [](uint64_t top) {
        use_current_stack_for_exceptions();
        interrupt_on_stack(top);
    });
    attempt_frame("ist_int3", [](uint64_t top) {
        use_exception_stack(top);
        asm volatile("int3");
    });
    attempt_frame("ist_ud2", [](uint64_t top) {
        use_exception_stack(top);
        asm volatile("ud2");
    });
    attempt_frame("ist_interrupt", [](uint64_t top) {
        use_exception_stack(top);
        uint64_t here;
        asm volatile("movq %%rsp, %0" : "=r"(here));
        interrupt_on_stack(here - 256);
    });
    attempt_frame("ring3_ud2", [](uint64_t top) {
        use_own_tables();
        use_current_stack_for_exceptions();
        set_ring0_stack(top);
        (void)run_in_ring3(user_trap, 0, 0);
    });
    // A store into the page whose #GP cannot be pushed either.
    attempt_frame("store_and_frame", [](uint64_t top) {
        use_exception_stack(top - page_bytes);
        store_at(top - 64, 0x1122334455667788);
    });

    // Bits that the CPU sets on its own.
    if (wanted(11, "segment_accessed_bit")) {
        const uint64_t page = locked_gdt();
        const Caught caught = catch_exceptions([] {
            asm volatile("movq $1f, %0\nmovw $0x60, %%ax\n1: movw %%ax, %%es"
                         : "=m"(store_site)::"rax", "memory");
        });
        print_judged(11, "segment_accessed_bit", load<uint64_t>(page + 0x60) != 0x00cf92000000ffff, caught,
                     store_site);
    }
    if (wanted(11, "task_busy_bit")) {
        const uint64_t page = locked_gdt();
        const Caught caught = catch_exceptions([] {
            asm volatile("movq $1f, %0\nmovw $0x70, %%ax\n1: ltr %%ax" : "=m"(store_site)::"rax", "memory");
        });
        print_judged(11, "task_busy_bit", (load<uint8_t>(page + 0x75) & 2) != 0, caught, store_site);
    }
    for (const bool write : {false, true}) {
        const char* const form = write ? "page_dirty_bit" : "page_accessed_bit";
        if (!wanted(11, form))
            continue;
        use_own_tables();
        const uint64_t data = take_pages(1);
        const uint64_t flags = entry_present | entry_writable | (write ? entry_accessed : 0);
        map_page(alias_area, data, flags);
        const uint64_t table = table_of(alias_area);
        lock_pages(table, 1);
        const auto entry = load<uint64_t>(table); // only what changes from here on counts
        const Caught caught = catch_exceptions([write] {
            if (write)
                store<uint64_t>(alias_area, 1);
            else
                (void)load<uint64_t>(alias_area);
        });
        const bool changed = load<uint64_t>(table) != entry;
        // KVM's shadow paging raises this when it cannot set the bit.
        if (!changed && caught.happened && caught.vector == vector_page_fault)
            print_outcome(11, form, Outcome::fault, "#PF");
        else
            print_judged(11, form, changed, caught, 0);
        print("# entry ");
        print_hex(data | flags);
        print(" at the lock ");
        print_hex(entry);
        print(" now ");
        print_hex(load<uint64_t>(table));
        print("\n");
    }
}

// --- 12 ---

namespace {

constexpr unsigned run_bytes = 128;
alignas(64) uint8_t run_source[1024];

struct StraddleForm {
    const char* name;
    uint64_t bytes;
    uint64_t step; // between the splits that are tried
    bool exact;    // it stores run_source, or its complement of what is there: every byte changes
    void (*run)(uint64_t address);
};

// Each sets store_site.
constexpr StraddleForm straddle_forms[] = {
    {"mov16", 2, 1, true,
     [](uint64_t address) {
         asm volatile("movq $1f, %0\n1: movw %2, (%1)"
                      : "=m"(store_site)
                      : "r"(address), "r"(load<uint16_t>(reinterpret_cast<uint64_t>(run_source)))
                      : "memory");
     }},
    {"mov32", 4, 1, true,
     [](uint64_t address) {
         asm volatile("movq $1f, %0\n1: movl %2, (%1)"
                      : "=m"(store_site)
                      : "r"(address), "r"(load<uint32_t>(reinterpret_cast<uint64_t>(run_source)))
                      : "memory");
     }},
    {"mov64", 8, 1, true,
     [](uint64_t address) { store_at(address, load<uint64_t>(reinterpret_cast<uint64_t>(run_source))); }},
    {"lock_xchg64", 8, 1, true,
     [](uint64_t address) {
         uint64_t value = load<uint64_t>(reinterpret_cast<uint64_t>(run_source));
         asm volatile("movq $1f, %0\n1: xchgq %2, (%1)"
                      : "=m"(store_site)
                      : "r"(address), "r"(value)
                      : "memory");
     }},
    {"not64", 8, 1, true,
     [](uint64_t address) {
         asm volatile("movq $1f, %0\n1: notq (%1)" : "=m"(store_site) : "r"(address) : "memory");
     }},
    {"push64", 8, 1, true,
     [](uint64_t address) {
         asm volatile("movq $1f, %0\n"
                      "movq %%rsp, %%r15\n"
                      "leaq 8(%1), %%rsp\n"
                      "1: pushq %2\n"
                      "movq %%r15, %%rsp\n"
                      : "=m"(store_site)
                      : "r"(address), "r"(load<uint64_t>(reinterpret_cast<uint64_t>(run_source)))
                      : "r15", "memory");
     }},
    {"movups", 16, 1, true,
     [](uint64_t address) {
         asm volatile("movq $1f, %0\nmovups (%2), %%xmm1\n1: movups %%xmm1, (%1)"
                      : "=m"(store_site)
                      : "r"(address), "r"(run_source)
                      : "memory");
     }},
    {"fnsave", 108, 25, false,
     [](uint64_t address) {
         asm volatile("movq $1f, %0\nfninit\n1: fnsave (%1)" : "=m"(store_site) : "r"(address) : "memory");
     }},
    {"fxsave", 512, 128, false,
     [](uint64_t address) {
         asm volatile("movq $1f, %0\n1: fxsave (%1)" : "=m"(store_site) : "r"(address) : "memory");
     }},
    {"rep_movsb", run_bytes, 31, true,
     [](uint64_t address) {
         const uint8_t* source = run_source;
         uint64_t count = run_bytes;
         asm volatile("movq $1f, %0\n1: rep movsb"
                      : "=m"(store_site), "+D"(address), "+S"(source), "+c"(count)
                      :
                      : "memory");
     }},
    {"rep_movsq", run_bytes, 31, true,
     [](uint64_t address) {
         const uint8_t* source = run_source;
         uint64_t count = run_bytes / 8;
         asm volatile("movq $1f, %0\n1: rep movsq"
                      : "=m"(store_site), "+D"(address), "+S"(source), "+c"(count)
                      :
                      : "memory");
     }},
    {"rep_movsq_down", run_bytes, 31, true,
     [](uint64_t address) {
         address += run_bytes - 8;
         const uint8_t* source = run_source + run_bytes - 8;
         uint64_t count = run_bytes / 8;
         asm volatile("movq $1f, %0\nstd\n1: rep movsq\ncld"
                      : "=m"(store_site), "+D"(address), "+S"(source), "+c"(count)
                      :
                      : "memory");
     }},
    {"rep_stosd", run_bytes, 31, false,
     [](uint64_t address) {
         uint64_t count = run_bytes / 4;
         asm volatile("movq $1f, %0\n1: rep stosl"
                      : "=m"(store_site), "+D"(address), "+c"(count)
                      : "a"(0xa5c35a3c)
                      : "memory");
     }},
};

void append(char*& at, const char* text) {
    while (*text != 0)
        *at++ = *text++;
    *at = 0;
}

void append_number(char*& at, uint64_t value) {
    char digits[20];
    unsigned count = 0;
    do
        digits[count++] = static_cast<char>('0' + value % 10);
    while ((value /= 10) != 0);
    while (count != 0)
        *at++ = digits[--count];
    *at = 0;
}

uint64_t changed_bytes(uint64_t address, uint64_t bytes, const uint8_t* was) {
    uint64_t count = 0;
    for (uint64_t i = 0; i < bytes; ++i)
        count += load<uint8_t>(address + i) != was[i] ? 1U : 0U;
    return count;
}

alignas(8) uint8_t pages_before[2 * page_bytes];

// One store with `before` of its bytes in the first of two pages.
void straddle(const StraddleForm& form, uint64_t before, uint64_t pages, bool first, bool second,
              const char* which) {
    char name[64];
    char* at = name;
    append(at, form.name);
    append(at, "_");
    append(at, which);
    append(at, "_");
    append_number(at, before);
    if (!wanted(12, name))
        return;
    if (!first || policy() == Policy::none)
        fill(pages, page_bytes, page_seed);
    if (!second || policy() == Policy::none)
        fill(pages + page_bytes, page_bytes, page_seed);
    memcpy(pages_before, reinterpret_cast<const void*>(pages), sizeof(pages_before));
    const uint64_t start = pages + page_bytes - before;
    for (uint64_t i = 0; i < form.bytes; ++i) // so that each byte of the store differs
        run_source[i] = static_cast<uint8_t>(~load<uint8_t>(start + i));
    store_site = 0;
    const Caught caught = catch_exceptions([&] { form.run(start); });
    asm volatile("cld\nfninit");

    const uint64_t in_first = changed_bytes(pages, page_bytes, pages_before);
    const uint64_t in_second = changed_bytes(pages + page_bytes, page_bytes, pages_before + page_bytes);
    char detail[80];
    at = detail;
    append(at, "first=");
    append_number(at, in_first);
    append(at, " second=");
    append_number(at, in_second);
    // Bytes beside the store never change; without a lock, all of it does.
    const uint64_t of_store = changed_bytes(start, form.bytes, pages_before + page_bytes - before);
    const bool beside = in_first + in_second != of_store;
    const bool incomplete = policy() == Policy::none && form.exact && of_store != form.bytes;
    const bool stored = (first && in_first != 0) || (second && in_second != 0);
    if (beside || incomplete)
        return print_outcome(12, name, Outcome::wrong, detail);
    print_judged(12, name, stored, caught, store_site, detail);
}

} // namespace

void attack_straddle() {
    const uint64_t lower = take_pages(2);
    const uint64_t upper = take_pages(2);
    const uint64_t both = take_pages(2);
    for (const uint64_t pages : {lower, upper, both})
        for (uint64_t page = 0; page < 2; ++page)
            fill(pages + page * page_bytes, page_bytes, page_seed);
    lock_pages(lower, 1);
    lock_pages(upper + page_bytes, 1);
    lock_pages(both, 2);
    for (const StraddleForm& form : straddle_forms) {
        // fxsave wants 16-byte alignment, which every split of its step keeps.
        for (uint64_t before = form.step; before < form.bytes; before += form.step) {
            straddle(form, before, lower, true, false, "first");
            straddle(form, before, upper, false, true, "second");
            straddle(form, before, both, true, true, "both");
        }
    }
}

// --- 13 ---

namespace {

struct HarmlessForm {
    const char* name;
    uint32_t leaf; // of the feature it needs; 0: none
    unsigned bit;
    uint32_t Cpuid::* word;
    void (*run)(uint64_t address);
};

#define HARMLESS(code) [](uint64_t address) { asm volatile(code ::"b"(address) : "rax", "cc", "memory"); }
constexpr HarmlessForm harmless_forms[] = {
    {"clflush", 1, 19, &Cpuid::edx, HARMLESS("clflush (%0)")},
    {"clflushopt", 7, 23, &Cpuid::ebx, HARMLESS("clflushopt (%0)")},
    {"clwb", 7, 24, &Cpuid::ebx, HARMLESS("clwb (%0)")},
    {"prefetchw", 0x80000001, 8, &Cpuid::ecx, HARMLESS("prefetchw (%0)")},
    {"prefetcht0", 0, 0, nullptr, HARMLESS("prefetcht0 (%0)")},
    {"prefetchnta", 0, 0, nullptr, HARMLESS("prefetchnta (%0)")},
    {"invlpg", 0, 0, nullptr, HARMLESS("invlpg (%0)")},
    {"wbinvd", 0, 0, nullptr, HARMLESS("wbinvd")},
    {"read8", 0, 0, nullptr, HARMLESS("movb (%0), %%al")},
    {"read16", 0, 0, nullptr, HARMLESS("movw (%0), %%ax")},
    {"read32", 0, 0, nullptr, HARMLESS("movl (%0), %%eax")},
    {"read64", 0, 0, nullptr, HARMLESS("movq (%0), %%rax")},
    {"read128", 0, 0, nullptr, HARMLESS("movups (%0), %%xmm1")},
    {"lodsb", 0, 0, nullptr, HARMLESS("pushq %%rsi\nmovq %0, %%rsi\nlodsb\npopq %%rsi")},
    {"lea", 0, 0, nullptr, HARMLESS("leaq 8(%0), %%rax")},
    {"nop_m", 0, 0, nullptr, HARMLESS("nopl 8(%0)")},
    {"test", 0, 0, nullptr, HARMLESS("testq %%rax, (%0)")},
    {"cmp", 0, 0, nullptr, HARMLESS("cmpq %%rax, (%0)")},
    {"bt_imm", 0, 0, nullptr, HARMLESS("btq $3, (%0)")},
    {"bt_r", 0, 0, nullptr, HARMLESS("movl $100, %%eax\nbtq %%rax, (%0)")},
    {"pop_r", 0, 0, nullptr,
     HARMLESS("pushq %%r15\nmovq %%rsp, %%r15\nmovq %0, %%rsp\npopq %%rax\nmovq %%r15, %%rsp\npopq %%r15")},
    {"fld", 0, 0, nullptr, HARMLESS("fninit\nfldl (%0)\nfninit")},
    {"mul_m", 0, 0, nullptr, HARMLESS("pushq %%rdx\nmulq (%0)\npopq %%rdx")},
    {"ldmxcsr", 0, 0, nullptr, HARMLESS("ldmxcsr 0xf00(%0)")},
    {"lgdt", 0, 0, nullptr, HARMLESS("lgdt 0xd00(%0)")},
    {"outsb", 0, 0, nullptr,
     HARMLESS("pushq %%rsi\npushq %%rdx\nmovq %0, %%rsi\nmovl $0x80, %%edx\noutsb\npopq %%rdx\npopq %%rsi")},
    {"rep_movsb_none", 0, 0, nullptr,
     HARMLESS(
         "pushq %%rdi\npushq %%rcx\nmovq %0, %%rdi\nxorl %%ecx, %%ecx\nrep movsb\npopq %%rcx\npopq %%rdi")},
    {"cmov_m", 0, 0, nullptr, HARMLESS("cmpq %%rax, %%rax\ncmovneq (%0), %%rax")},
    {"execute", 0, 0, nullptr, HARMLESS("leaq 0xe00(%0), %%rax\ncall *%%rax")},
};

} // namespace

void attack_harmless() {
    const uint64_t page = take_pages(1);
    fill(page, page_bytes, page_seed);
    store<uint32_t>(page + 0xf00, 0x1f80); // for ldmxcsr
    store<uint8_t>(page + 0xe00, 0xc3);    // ret
    asm volatile("sgdt (%0)" ::"r"(page + 0xd00) : "memory");
    memcpy(pages_before, reinterpret_cast<const void*>(page), page_bytes);
    lock_pages(page, 1);
    for (const HarmlessForm& form : harmless_forms) {
        if (!wanted(13, form.name))
            continue;
        if (form.leaf != 0 && (cpuid(form.leaf).*form.word >> form.bit & 1) == 0) {
            print_skipped(13, form.name, form.name);
            continue;
        }
        const Caught caught = catch_exceptions([&] { form.run(page); });
        print_judged(13, form.name, changed_bytes(page, page_bytes, pages_before) != 0, caught, 0);
    }
}

// --- 18, 19, 31 ---

namespace {

void user_call(uint64_t address, uint64_t attributes) {
    const int64_t result = hypercall(CASEMATE_HYPERCALL, address, 1, attributes);
    asm volatile("int $0x80" ::"a"(result));
}

} // namespace

void attack_ring3() {
    use_own_tables();
    (void)hypercall(CASEMATE_HYPERCALL, 0, 0, 0); // finds out which instruction to use
    struct {
        const char* name;
        uint64_t attributes;
    } const calls[] = {
        {"lock", casemate_attributes(CASEMATE_CALL_LOCK, CASEMATE_POLICY_READ_ONLY, CASEMATE_KIND_DATA)},
        {"lock_die_on_write",
         casemate_attributes(CASEMATE_CALL_LOCK, CASEMATE_POLICY_DIE_ON_WRITE, CASEMATE_KIND_DATA)},
        {"features", casemate_attributes(CASEMATE_CALL_FEATURES, 0, 0)},
        {"seal", casemate_attributes(CASEMATE_CALL_SEAL, 0, 0)},
        {"unmarked", 0},
    };
    const uint64_t page = take_pages(1);
    for (const auto& call : calls) {
        if (!wanted(18, call.name))
            continue;
        const Caught caught = run_in_ring3(user_call, page, call.attributes);
        // Of a page that ring 3 locked after all, the store would fault.
        const Caught stored = catch_exceptions([page] { store_at(page, 1); });
        const bool refused = caught.vector == vector_leave_ring3 &&
                             static_cast<int64_t>(caught.rax) == -CASEMATE_EPERM && !stored.happened;
        print_other(18, call.name, refused ? "refused" : "WRONG");
    }
    if (wanted(18, "lock_from_ring0")) { // and SEAL from ring 3 has not sealed
        const int64_t result = find_casemate() ? lock(page, 1, CASEMATE_POLICY_READ_ONLY) : -1;
        print_other(18, "lock_from_ring0", result == 0 ? "granted" : "WRONG");
    }
}

void attack_reset() {
    // The machine must be gone before any of these comes back.
    const auto survived = [](const char* form, uint64_t page) {
        spin(10000000);
        print_other(19, form,
                    is_filled(page, page_bytes, page_seed) ? "unchanged still_running"
                                                           : "changed still_running");
    };
    if (wanted(19, "reset_port")) {
        const uint64_t page = locked_pages();
        out8(reset_control, 6);
        survived("reset_port", page);
    }
    if (wanted(19, "keyboard_reset")) {
        const uint64_t page = locked_pages();
        out8(0x64, 0xfe);
        survived("keyboard_reset", page);
    }
    if (wanted(19, "triple_fault")) {
        const uint64_t page = locked_pages();
        const DescriptorTable none{0, 0};
        asm volatile("lidt %0\nint3" ::"m"(none));
        survived("triple_fault", page);
    }
}

namespace {

alignas(4096) uint8_t spare_stack[2 * page_bytes];

void lock_everything() {
    const uint64_t pages = ram_end() / page_bytes;
    const uint64_t attributes = casemate_attributes(
        CASEMATE_CALL_LOCK,
        policy() == Policy::die_on_write ? CASEMATE_POLICY_DIE_ON_WRITE : CASEMATE_POLICY_READ_ONLY,
        CASEMATE_KIND_DATA);
    // No store at all from the call on: what it came to goes out from read-only memory.
    static const char granted[] = "attack 31 all_of_ram_lock granted\n";
    static const char refused[] = "attack 31 all_of_ram_lock WRONG\n";
    const bool amd = cpuid(0).ebx == 0x68747541;
    asm volatile("testb %b[amd], %b[amd]\n"
                 "jz 1f\n"
                 "vmmcall\n"
                 "jmp 2f\n"
                 "1: vmcall\n"
                 "2: movq %[granted], %%rsi\n"
                 "movq %[granted_bytes], %%rcx\n"
                 "testq %%rax, %%rax\n"
                 "jz 3f\n"
                 "movq %[refused], %%rsi\n"
                 "movq %[refused_bytes], %%rcx\n"
                 "3: movl $0x3f8, %%edx\n"
                 "rep outsb\n"
                 "movq %%rax, (%%rsi)\n"
                 :
                 : "a"(uint64_t{CASEMATE_HYPERCALL}), "b"(uint64_t{0}), "c"(pages),
                   "d"(attributes), [amd] "r"(amd), [granted] "i"(granted), [refused] "i"(refused),
                   [granted_bytes] "i"(sizeof(granted) - 1), [refused_bytes] "i"(sizeof(refused) - 1)
                 : "rsi", "memory");
}

} // namespace

void attack_self() {
    if (wanted(31, "own_stack")) {
        const auto stack = reinterpret_cast<uint64_t>(spare_stack);
        fill(stack, sizeof(spare_stack), page_seed);
        static volatile uint64_t slot;
        static volatile uint64_t slot_was;
        const Caught caught = catch_exceptions([stack] {
            call_on_stack(
                [](void*) {
                    lock_pages(reinterpret_cast<uint64_t>(spare_stack), 2);
                    asm volatile("movq -8(%%rsp), %%rax\n"
                                 "movq %%rax, %2\n"
                                 "leaq -8(%%rsp), %%rax\n"
                                 "movq %%rax, %1\n"
                                 "movq $1f, %0\n"
                                 "1: pushq $0x5b\n"
                                 "addq $8, %%rsp"
                                 : "=m"(store_site), "=m"(slot), "=m"(slot_was)
                                 :
                                 : "rax", "memory");
                },
                nullptr, stack + sizeof(spare_stack));
        });
        print_judged(31, "own_stack", slot == 0 || load<uint64_t>(slot) != slot_was, caught, store_site);
    }
    if (wanted(31, "zero_page")) {
        constexpr uint64_t zero_page = 0x7000;
        lock_pages(zero_page, 1);
        const auto was = load<uint64_t>(zero_page + 0x228);
        const Caught caught = catch_exceptions([was] { store_at(zero_page + 0x228, ~was); });
        const bool changed = load<uint64_t>(zero_page + 0x228) != was;
        if (changed) // the command line is still needed
            store<uint64_t>(zero_page + 0x228, was);
        print_judged(31, "zero_page", changed, caught, store_site);
    }
    if (wanted(31, "own_code")) {
        const auto code = reinterpret_cast<uint64_t>(&attack_self) & ~(page_bytes - 1);
        const auto was = load<uint64_t>(code);
        lock_pages(code, 1);
        const Caught caught = catch_exceptions([=] { store_at(code, ~was); });
        const bool changed = load<uint64_t>(code) != was;
        if (changed)
            store_at(code, was);
        print_judged(31, "own_code", changed, caught, store_site);
    }
    // The end of this VM, so not without its name.
    if (command_line_is("only", "all_of_ram") && wanted(31, "all_of_ram")) {
        if (policy() == Policy::none)
            return print_skipped(31, "all_of_ram", "needs_a_lock");
        const Caught caught = catch_exceptions([] { lock_everything(); });
        print_judged(31, "all_of_ram", !caught.happened, caught, 0);
    }
}

} // namespace payload
// NOLINTEND(misc-const-correctness)
