// SPDX-License-Identifier: Apache-2.0
// Attacks 26 and 27: registers that hold a kernel's protections, changed after SEAL.
#include "attack_locks.hpp"

// NOLINTBEGIN(misc-const-correctness): it does not see what assembly writes.
namespace payload {
namespace {

constexpr uint32_t msr_efer = 0xc0000080;
constexpr uint64_t efer_sce = 1;
constexpr uint64_t efer_nxe = 1 << 11;
constexpr uint64_t cr4_umip = 1 << 11;
constexpr uint64_t cr4_smep = 1 << 20;
constexpr uint64_t cr4_smap = 1 << 21;

uint64_t read_cr4() {
    uint64_t value;
    asm volatile("mov %%cr4, %0" : "=r"(value));
    return value;
}
void write_cr4(uint64_t value) {
    asm volatile("mov %0, %%cr4" ::"r"(value) : "memory");
}

struct [[gnu::packed]] TablePointer {
    uint16_t limit;
    uint64_t base;
};
TablePointer read_idtr() {
    TablePointer table{};
    asm volatile("sidt %0" : "=m"(table));
    return table;
}
void write_idtr(const TablePointer& table) {
    asm volatile("lidt %0" ::"m"(table));
}

struct MsrForm {
    const char* name;
    uint32_t msr;
    uint64_t change; // bits that are flipped
};
constexpr MsrForm msr_forms[] = {
    {"lstar", 0xc0000082, 0x1000},   {"star", 0xc0000081, uint64_t{8} << 32},
    {"sfmask", 0xc0000084, 0x200},   {"cstar", 0xc0000083, 0x1000},
    {"sysenter_cs", 0x174, 8},       {"sysenter_esp", 0x175, 0x1000},
    {"sysenter_eip", 0x176, 0x1000}, {"efer", msr_efer, efer_sce},
    {"lstar_same", 0xc0000082, 0},
};

void attempt_msr(const MsrForm& form) {
    if (!wanted(27, form.name))
        return;
    const uint64_t before = read_msr(form.msr);
    const uint64_t value = before ^ form.change;
    store_site = 0;
    const Caught caught = catch_exceptions([&] {
        asm volatile("movq $1f, %0\n1: wrmsr"
                     : "=m"(store_site)
                     : "c"(form.msr), "a"(static_cast<uint32_t>(value)),
                       "d"(static_cast<uint32_t>(value >> 32))
                     : "memory");
    });
    const bool changed = read_msr(form.msr) != before;
    if (changed)
        write_msr(form.msr, before);
    print_judged(27, form.name, changed, caught, store_site);
}

// Never again a store, a call or an exit: without the guest's help. Without a lock it ends soon.
void keep_still() {
    constexpr uint64_t patience = uint64_t{1} << 37; // of time-stamp counts, a minute
    const uint64_t begin = time_stamp();
    spin(1000);
    while (policy() != Policy::none && time_stamp() - begin < patience)
        pause();
}

template <typename Change, typename Restore>
void attempt_state(unsigned number, const char* form, bool possible, Change change, Restore restore) {
    if (!wanted(number, form))
        return;
    if (!possible)
        return print_skipped(number, form, "not_on_this_cpu");
    const Caught caught = catch_exceptions([&] { change(); });
    if (!caught.happened)
        keep_still();
    restore();
    print_judged(number, form, !caught.happened, caught, 0);
}

void attempt_cr4(const char* form, uint64_t bit) {
    const uint64_t with = read_cr4();
    attempt_state(26, form, (with & bit) != 0, [=] { write_cr4(with & ~bit); }, [=] { write_cr4(with); });
}

} // namespace

void attack_registers() {
    const Cpuid features = cpuid(7);
    write_cr0(read_cr0() | cr0_wp);
    write_cr4(read_cr4() | ((features.ebx & 1 << 7) != 0 ? cr4_smep : 0) |
              ((features.ebx & 1 << 20) != 0 ? cr4_smap : 0) | ((features.ecx & 1 << 2) != 0 ? cr4_umip : 0));
    write_msr(msr_efer, read_msr(msr_efer) | efer_sce | efer_nxe);
    for (const MsrForm& form : msr_forms)
        if (form.msr != msr_efer)
            write_msr(form.msr, 0x100000);
    const uint64_t copy = take_pages(1); // of the IDT
    locked_pages();
    if (policy() != Policy::none && seal() != 0)
        return report(false, "seal");

    for (const MsrForm& form : msr_forms)
        attempt_msr(form);
    attempt_state(
        26, "write_protect_off", true, [] { write_cr0(read_cr0() & ~cr0_wp); },
        [] { write_cr0(read_cr0() | cr0_wp); });
    attempt_cr4("smep_off", cr4_smep);
    attempt_cr4("smap_off", cr4_smap);
    attempt_cr4("umip_off", cr4_umip);
    // The same gates elsewhere: nothing else gives it away.
    static TablePointer table;
    table = read_idtr();
    attempt_state(
        27, "idt_moved", true,
        [copy] {
            memcpy(reinterpret_cast<void*>(copy), reinterpret_cast<const void*>(table.base),
                   table.limit + 1U);
            write_idtr({table.limit, copy});
        },
        [] { write_idtr(table); });
    attempt_state(
        27, "idt_longer", true, [] { write_idtr({static_cast<uint16_t>(table.limit + 16), table.base}); },
        [] { write_idtr(table); });
}

} // namespace payload
// NOLINTEND(misc-const-correctness)
