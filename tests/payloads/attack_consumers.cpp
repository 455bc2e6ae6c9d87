// SPDX-License-Identifier: Apache-2.0
// Attack 37: what takes a store inside KVM before memory does, moved over a locked page: the local APIC by
// its base MSR, a device's doorbell by its BAR. KVM asks them for each store that it emulates.
#include "attack_locks.hpp"
#include "virtio.hpp"

// NOLINTBEGIN(misc-const-correctness): it does not see what assembly writes.
namespace payload {
namespace {

constexpr uint32_t msr_apic_base = 0x1b;
constexpr uint64_t apic_base_bsp = 1 << 8;
constexpr uint64_t apic_base_x2apic = 1 << 10;
constexpr uint16_t entropy_type = 4;
constexpr uint64_t bar_bytes = 0x8000;
constexpr uint64_t doorbell_offset = 0x3000; // in the BAR

// KVM emulates it wherever it goes; a plain store it does where it meets it in its own page-table work.
void insert_at(uint64_t address) {
    uint64_t count = 4;
    asm volatile("movq $1f, %0\n1: rep insb"
                 : "=m"(store_site), "+D"(address), "+c"(count)
                 : "d"(static_cast<uint16_t>(com1 + 7))
                 : "memory");
}
void move_to(uint64_t address) {
    store_at(address, 0x7777777777777777);
}

struct Store {
    const char* apic_name;
    const char* doorbell_name;
    void (*run)(uint64_t address);
};
constexpr Store stores[] = {
    {"apic_base_ins", "doorbell_ins", insert_at},
    {"apic_base_mov", "doorbell_mov", move_to},
};

Caught write_apic_base(uint64_t value) {
    store_site = 0;
    return catch_exceptions([value] {
        asm volatile("movq $1f, %0\n1: wrmsr"
                     : "=m"(store_site)
                     : "c"(msr_apic_base), "a"(static_cast<uint32_t>(value)),
                       "d"(static_cast<uint32_t>(value >> 32))
                     : "memory");
    });
}

// Without a lock the base stays, so that the store shows what it does to memory.
void attempt_apic(const Store& form) {
    if (!wanted(37, form.apic_name))
        return;
    const uint64_t page = locked_pages();
    const uint64_t before = read_msr(msr_apic_base);
    if (policy() != Policy::none)
        (void)write_apic_base(page | (before & (page_bytes - 1)));
    attempt(37, form.apic_name, page, 1, [&] { form.run(page + 16); });
    (void)write_apic_base(before);
}

void attempt_base(const char* name, uint64_t value) {
    if (!wanted(37, name))
        return;
    locked_pages(); // without any, nothing is recorded
    const uint64_t before = read_msr(msr_apic_base);
    const Caught caught = write_apic_base(value);
    const bool changed = read_msr(msr_apic_base) != before;
    if (changed)
        (void)write_apic_base(before);
    print_judged(37, name, changed, caught, store_site);
}

// The doorbell's page is the locked one; the whole BAR lies over pages that nobody uses.
void attempt_doorbell(const Store& form) {
    if (!wanted(37, form.doorbell_name))
        return;
    VirtioFunction device;
    for (unsigned slot = 0; slot < 32 && device.type != entropy_type; ++slot)
        if (!device.probe(slot))
            device.type = 0;
    if (device.type != entropy_type)
        return print_skipped(37, form.doorbell_name, "no_entropy_device");
    static Rings rings;
    if (!device.start(0, rings, 0))
        return print_skipped(37, form.doorbell_name, "no_negotiation");
    const uint64_t room = take_pages(2 * bar_bytes / page_bytes);
    const uint64_t bar = (room + bar_bytes - 1) & ~(bar_bytes - 1);
    const uint64_t page = bar + doorbell_offset;
    fill(page, page_bytes, page_seed);
    const uint64_t place = config_address(device.slot, 0x10);
    const uint32_t before = load<uint32_t>(place);
    store<uint32_t>(place, static_cast<uint32_t>(bar));
    lock_pages(page, 1);
    attempt(37, form.doorbell_name, page, 1, [&] { form.run(page); });
    store<uint32_t>(place, before);
}

// What Linux does at its start, and has to be let do.
void attempt_x2apic() {
    if (!wanted(37, "x2apic"))
        return;
    if ((cpuid(1).ecx >> 21 & 1) == 0)
        return print_skipped(37, "x2apic", "not_on_this_cpu");
    const uint64_t wanted_base = read_msr(msr_apic_base) | apic_base_x2apic;
    bool enabled = false;
    const Caught caught = catch_exceptions([&] {
        write_msr(msr_apic_base, wanted_base);
        enabled = read_msr(msr_apic_base) == wanted_base;
        (void)read_msr(0x802); // the x2APIC's id
    });
    print_other(37, "x2apic", enabled && !caught.happened ? "works" : "WRONG");
}

} // namespace

void attack_consumers() {
    out8(com1 + 7, 0x77); // what INS reads
    for (const Store& form : stores)
        attempt_apic(form);
    for (const Store& form : stores)
        attempt_doorbell(form);
    const uint64_t base = read_msr(msr_apic_base);
    attempt_base("apic_base_moved", (base & (page_bytes - 1)) | take_pages(1));
    attempt_base("apic_base_high", (base & (page_bytes - 1)) | uint64_t{1} << 35);
    attempt_base("boot_cpu_flag", base ^ apic_base_bsp);
    attempt_x2apic();
}

} // namespace payload
// NOLINTEND(misc-const-correctness)
