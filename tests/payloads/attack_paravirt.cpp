// SPDX-License-Identifier: Apache-2.0
// Attack 15: what KVM itself writes into guest memory where an MSR says (linux
// Documentation/virt/kvm/x86/msr.rst), aimed at a page before it is locked, and at locked ones after SEAL.
// Each is first seen to write into a page that is not.
#include "attack_locks.hpp"

#include <initializer_list>

namespace payload {
namespace {

constexpr uint32_t kvm_features_leaf = 0x40000001;
constexpr uint32_t wall_clock_msr = 0x4b564d00;
constexpr uint32_t system_time_msr = 0x4b564d01;
constexpr uint32_t async_page_fault_msr = 0x4b564d02;
constexpr uint32_t steal_time_msr = 0x4b564d03;
constexpr uint32_t end_of_interrupt_msr = 0x4b564d04;
constexpr uint32_t async_page_fault_vector_msr = 0x4b564d06;
constexpr uint8_t vector = 0x40;
constexpr uint64_t area_bytes = 64;

// One interrupt, taken and acknowledged: for PV EOI, KVM notes in memory that one is in service.
void take_interrupt() {
    store<uint32_t>(local_apic + 0x300, 0x44000U | vector);
    asm volatile("sti\nnop\nnop\nnop\ncli" ::: "memory");
}
void acknowledge_interrupt() {
    store<uint32_t>(local_apic + 0xb0, 0);
}

void set_wall_clock(uint64_t area) {
    write_msr(wall_clock_msr, area);
}
void set_system_time(uint64_t area) {
    write_msr(system_time_msr, area | 1);
}
void set_steal_time(uint64_t area) {
    write_msr(steal_time_msr, area | 1);
}
// Enabling it makes KVM tell of all pages at once, with a token of all ones at offset 4.
void set_async_page_fault(uint64_t area) {
    write_msr(async_page_fault_msr, 0);
    write_msr(async_page_fault_vector_msr, vector);
    write_msr(async_page_fault_msr, area | 1 | 8);
    asm volatile("sti\nnop\nnop\nnop\ncli" ::: "memory");
    acknowledge_interrupt();
}
void set_end_of_interrupt(uint64_t area) {
    write_msr(end_of_interrupt_msr, area | 1);
    take_interrupt();
}

struct Area {
    const char* name;
    const char* later_name;
    unsigned feature; // bit of the KVM leaf's eax
    uint32_t msr;     // to switch it off with 0; not the wall clock
    void (*set)(uint64_t area);
};
constexpr Area areas[] = {
    {"wall_clock", "wall_clock_then_lock", 3, 0, set_wall_clock},
    {"system_time", "system_time_then_lock", 3, system_time_msr, set_system_time},
    {"async_page_fault", "async_page_fault_then_lock", 14, async_page_fault_msr, set_async_page_fault},
    {"steal_time", "steal_time_then_lock", 5, steal_time_msr, set_steal_time},
    {"end_of_interrupt", "end_of_interrupt_then_lock", 6, end_of_interrupt_msr, set_end_of_interrupt},
};

// Zero where KVM writes: it looks at versions and flags, and a token of zero says that the slot is free.
void prepare(uint64_t page) {
    fill(page, page_bytes, page_seed);
    for (uint64_t i = 0; i < area_bytes; ++i)
        store<uint8_t>(page + i, 0);
}

bool is_prepared(uint64_t page) {
    for (uint64_t i = 0; i < area_bytes; ++i)
        if (load<uint8_t>(page + i) != 0)
            return false;
    for (uint64_t i = area_bytes; i < page_bytes; ++i)
        if (load<uint8_t>(page + i) != static_cast<uint8_t>(i * 0x5b + page_seed))
            return false;
    return true;
}

// Time for KVM to write: exits, and reads of the page.
bool changes_within(uint64_t page, unsigned patience) {
    for (unsigned i = 0; i < patience; ++i) {
        if (!is_prepared(page))
            return true;
        (void)in8(com1 + 7);
    }
    return false;
}

void switch_off(const Area& area) {
    acknowledge_interrupt();
    if (area.msr != 0)
        (void)catch_exceptions([&] { write_msr(area.msr, 0); });
}

// An interrupt may be gone again before KVM notes it: emulated hosts lose one now and then.
bool is_seen_to_write(const Area& area, uint64_t page, Caught& refused) {
    for (unsigned tries = 0; tries < 20; ++tries) {
        refused = catch_exceptions([&] { area.set(page); });
        if (refused.happened)
            return false;
        if (changes_within(page, 50))
            return true;
        acknowledge_interrupt();
    }
    return false;
}

// KVM may refuse the MSR instead of the write that follows.
void print_area(const char* name, bool changed, const Caught& caught) {
    constexpr uint16_t wrmsr = 0x300f;
    const bool at_msr = caught.happened && load<uint16_t>(caught.rip) == wrmsr;
    print_judged(15, name, changed, caught, at_msr ? caught.rip : 0, at_msr ? "msr_refused" : "");
}

// Whether it is there, and seen to write into a page that is not locked. Says why not.
bool is_proven(const Area& area, const char* name) {
    if ((cpuid(kvm_features_leaf).eax >> area.feature & 1) == 0) {
        print_skipped(15, name, "no_such_feature");
        return false;
    }
    const uint64_t proof = take_pages(1);
    prepare(proof);
    Caught caught;
    const bool seen = is_seen_to_write(area, proof, caught);
    switch_off(area);
    if (!seen)
        print_skipped(15, name, caught.happened ? "msr_refused" : "never_seen_to_write");
    return seen;
}

void attempt_locked_later(const Area& area) {
    const char* const name = area.later_name;
    if (!wanted(15, name) || !is_proven(area, name))
        return;
    const uint64_t page = take_pages(1);
    prepare(page);
    Caught caught;
    if (!is_seen_to_write(area, page, caught)) {
        switch_off(area);
        return print_skipped(15, name, "never_seen_to_write");
    }
    // Still switched on; nothing in service, and room for a new token.
    while ((load<uint32_t>(local_apic + 0x100 + 0x10UL * (vector / 32)) >> (vector % 32) & 1) != 0)
        acknowledge_interrupt();
    (void)in8(com1 + 7);
    prepare(page);
    lock_pages(page, 1);
    // What is there now must stay.
    alignas(8) static uint8_t before[page_bytes];
    memcpy(before, reinterpret_cast<const void*>(page), page_bytes);
    bool changed = false;
    // Some areas KVM takes back at the next exit, whoever caused it.
    for (unsigned tries = 0; tries < 20 && !changed && !caught.happened; ++tries) {
        caught = catch_exceptions([&] { area.set(page); });
        for (unsigned i = 0; i < 10 && !changed; ++i) {
            for (uint64_t at = 0; at < page_bytes; ++at)
                changed |= load<uint8_t>(page + at) != before[at];
            (void)in8(com1 + 7);
        }
        acknowledge_interrupt();
    }
    switch_off(area);
    print_area(name, changed, caught);
}

void attempt_locked(const Area& area, uint64_t page) {
    const char* const name = area.name;
    if (!wanted(15, name) || !is_proven(area, name))
        return;
    Caught caught;
    bool changed = false;
    for (unsigned tries = 0; tries < 20 && !changed && !caught.happened; ++tries) {
        caught = catch_exceptions([&] { area.set(page); });
        changed = changes_within(page, 10);
        acknowledge_interrupt();
    }
    switch_off(area);
    print_area(name, changed || !is_prepared(page), caught);
}

// KVM_HC_CLOCK_PAIRING of linux Documentation/virt/kvm/x86/hypercalls.rst: KVM writes where a call says, and
// tells the caller alone when it could not.
void attempt_clock_pairing(uint64_t page) {
    constexpr uint64_t clock_pairing = 9;
    constexpr const char* name = "clock_pairing";
    if (!wanted(15, name))
        return;
    const uint64_t proof = take_pages(1);
    prepare(proof);
    if (hypercall(clock_pairing, proof, 0, 0) != 0 || is_prepared(proof))
        return print_skipped(15, name, "never_seen_to_write");
    (void)hypercall(clock_pairing, page, 0, 0);
    print_judged(15, name, !is_prepared(page), {}, 0);
}

struct OtherCpu {
    uint64_t page;
    volatile bool stop;
};

} // namespace

void attack_paravirt() {
    enable_local_apic();
    for (const Area& area : areas)
        attempt_locked_later(area);
    constexpr uint64_t count = sizeof(areas) / sizeof(areas[0]);
    uint64_t pages[count + 1];
    for (uint64_t& page : pages) {
        page = take_pages(1);
        prepare(page);
        lock_pages(page, 1);
    }
    if (policy() != Policy::none && seal() != 0)
        return report(false, "seal");
    for (uint64_t i = 0; i < count; ++i)
        attempt_locked(areas[i], pages[i]);
    attempt_clock_pairing(pages[count]);
}

// Another CPU's MSR is no business of the one that locks; SEAL looks at all.
void attack_paravirt_cpu() {
    constexpr const char* name = "steal_time_of_other_cpu";
    if (!wanted(15, name))
        return;
    static OtherCpu other;
    other.page = take_pages(1);
    prepare(other.page);
    const bool started = start_second_cpu(
        [](void*) {
            // KVM writes at each of these, and else when the host's scheduler interrupts.
            do {
                set_steal_time(other.page);
                pause();
            } while (policy() == Policy::none && !other.stop);
            while (!other.stop)
                pause();
            write_msr(steal_time_msr, 0);
        },
        nullptr);
    if (!started || !changes_within(other.page, 1000000)) {
        other.stop = true;
        return print_skipped(15, name, started ? "never_seen_to_write" : "no_second_cpu");
    }
    lock_pages(other.page, 1);
    static uint8_t before[page_bytes];
    memcpy(before, reinterpret_cast<const void*>(other.page), page_bytes);
    if (policy() != Policy::none && seal() != 0)
        return report(false, "seal");
    // Where it has to change, the other CPU may not get its turn for long.
    const unsigned patience = policy() == Policy::none ? 1000000 : 100;
    bool changed = false;
    for (unsigned i = 0; i < patience && !changed; ++i) {
        for (uint64_t at = 0; at < page_bytes; ++at)
            changed |= load<uint8_t>(other.page + at) != before[at];
        (void)in8(com1 + 7);
    }
    other.stop = true;
    print_judged(15, name, changed, {}, 0);
}

} // namespace payload
