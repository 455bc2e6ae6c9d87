// SPDX-License-Identifier: Apache-2.0
// The groups of attempts of attack_locks.elf; attack=NAME on the command line chooses one.
#pragma once

#include "attack.hpp"

namespace payload {

void attack_write_protect(); // 2: CR0.WP cleared
void attack_aliases();       // 4, 7: other mappings of the page, from ring 0 and 3
void attack_frames();        // 11: stores that the CPU makes on its own; one a VM
void attack_straddle();      // 12: stores over a page boundary
void attack_harmless();      // 13: what stores nothing
void attack_devices();       // 14: transfers of virtio devices
void attack_paravirt();      // 15: what KVM writes for its guest
void attack_paravirt_cpu();  // 15: the same, for another CPU than the one that locks
void attack_hypercalls();    // 17: the interface itself
void attack_many_locks();    // 17: until the table is full
void attack_ring3();         // 18: hypercalls of user space
void attack_reset();         // 19: ways to start over; one a VM
void attack_self();          // 31: locks that harm only the guest
void attack_roots();         // 20: roots in an arena
void attack_root_calls();    // 17: the calls that write them
void attack_registers();     // 26, 27: registers changed after SEAL
void attack_translation();   // 36: tables behind what registers point at
void attack_second_cpu();    // 32: another CPU that stores while a lock is taken
void attack_rewriting();     // an instruction that changes while the monitor looks at it
void attack_transfer();      // 33: a transfer that has begun before the lock
void attack_consumers();     // 37: devices in KVM moved over a locked page
void attack_starts();        // 40: SMI, INIT and start-up after SEAL; most end the VM
void attack_flood();         // as many violations and calls as the CPU can make
void attack_walks();         // 38: calls that make the monitor walk and change as much as they can
void attack_busy();          // 39: disks as busy as can be, while audits and the machine's end are due

constexpr uint8_t page_seed = 0x9d;

// A page, or more, that is filled and then locked.
inline uint64_t locked_pages(uint64_t count = 1) {
    const uint64_t pages = take_pages(count);
    fill(pages, count * page_bytes, page_seed);
    lock_pages(pages, count);
    return pages;
}

// Makes a call, and reports whether rax was as expected; of attack 17.
void expect_call(const char* name, int64_t expected, uint64_t address, uint64_t pages, uint64_t attributes);

// The address of the last instruction that store_at() was about to execute.
inline volatile uint64_t store_site;

inline void store_at(uint64_t address, uint64_t value) {
    asm volatile("movq $1f, %0\n1: movq %2, (%1)" : "=m"(store_site) : "r"(address), "r"(value) : "memory");
}

// Calls function(), catching its exception, and reports what became of the pages. `function` sets store_site.
template <typename Function>
void attempt(unsigned number, const char* form, uint64_t pages, uint64_t count, Function function) {
    store_site = 0;
    const Caught caught = catch_exceptions(function);
    print_judged(number, form, !is_filled(pages, count * page_bytes, page_seed), caught, store_site);
}

} // namespace payload
