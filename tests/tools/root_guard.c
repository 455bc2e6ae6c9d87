// SPDX-License-Identifier: Apache-2.0
// Roots for the guest kernel's guard to judge: root_guard_test builds and runs it, with `cycles` for the
// cost.
#define _GNU_SOURCE
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <ucontext.h>
#include <x86intrin.h>

#include "kernel.h"

#define ENTRIES 512
#define HALF (ENTRIES / 2)
#define PRESENT 1UL
#define ACCESSED (1UL << 5)
#define NO_EXECUTE (1UL << 63)
#define NOFLUSH (1UL << 63)
#define RAM (64UL << 20)
#define HIGH (1UL << 32)
#define ROOT 0x200000UL
#define REFERENCE 0x4000UL
#define ARENA 0x400000UL
#define ARENA_BYTES 0x100000UL

union casemate_root_rule casemate_root_rule __attribute__((aligned(4096)));
u64 casemate_root_clock[CASEMATE_CLOCK_CPUS] __attribute__((aligned(4096)));
u64 page_offset_base; // the "direct map"
u64 question[4];      // rax, rbx, rcx, rdx
u64 questions;
long answer;
u64 loaded;
static int failures;

struct fixup {
    u64 from;
    u64 to;
};
extern const struct fixup __start_extable[], __stop_extable[];

static void fix_up(int signal, siginfo_t* info, void* context) {
    greg_t* rip = &((ucontext_t*)context)->uc_mcontext.gregs[REG_RIP];
    (void)info;
    for (const struct fixup* f = __start_extable; f < __stop_extable; ++f)
        if (f->from == (u64)*rip) {
            *rip = (greg_t)f->to;
            return;
        }
    printf("signal %d at %#llx\n", signal, (unsigned long long)*rip);
    _exit(1);
}

static u64* root(u64 address) {
    return (u64*)(page_offset_base + address);
}

static u64* copy(void) {
    return (u64*)casemate_root_rule.copy;
}

static void make_root(u64 address) {
    memset(root(address), 0, 2 * PAGE_SIZE);
    memcpy(root(address) + HALF, copy(), PAGE_SIZE / 2);
    if (casemate_root_rule.pair)
        memcpy(root(address) + ENTRIES + HALF, copy() + HALF, PAGE_SIZE / 2);
}

enum verdict { loads, asks, asks_and_refuses };

// Where it asks, it has to do what it is told, and to name what it would load.
static void expect(const char* what, u64 cr3, enum verdict verdict) {
    for (answer = 0; answer >= -1; --answer) {
        questions = loaded = 0;
        const long result = __root_guard_load(cr3);
        const u64 names = cr3 & ~(NOFLUSH | 0xfff);
        const int is_loaded = verdict == loads || (verdict == asks && answer == 0);
        const int is_right = question[0] == CASEMATE_HYPERCALL && question[1] == names && question[2] == 1 &&
                             question[3] == casemate_attributes(CASEMATE_CALL_ROOT_CHECK, 0, 0);
        if (result == (is_loaded ? 0 : -CASEMATE_EPERM) && loaded == (is_loaded ? cr3 : 0) &&
            questions == (verdict != loads) && (verdict == loads || is_right))
            continue;
        printf("%s%s, CR3 %#lx, answer %ld: result %ld, %lu questions, loaded %#lx\n", what,
               casemate_root_rule.pair ? " of a pair" : "", cr3, answer, result, questions, loaded);
        ++failures;
    }
}

static void each_bit(void) {
    const int pages = casemate_root_rule.pair ? 2 : 1;
    for (int entry = 0; entry < ENTRIES * pages; ++entry)
        for (int bit = 0; bit < 64; ++bit) {
            const int is_kernel_half = entry % ENTRIES >= HALF;
            const int is_executable_user = pages == 2 && entry < HALF && 1UL << bit == PRESENT;
            const int is_wrong = is_kernel_half ? 1UL << bit != ACCESSED : is_executable_user;
            root(ROOT)[entry] ^= 1UL << bit;
            expect("a changed bit", ROOT, is_wrong ? asks : loads);
            root(ROOT)[entry] ^= 1UL << bit;
        }
}

static void set_clock(int due) {
    memset(casemate_root_clock, due ? 0 : 0xff, sizeof(casemate_root_clock));
}

static void compares(void) {
    union casemate_root_rule* rule = &casemate_root_rule;
    rule->compares = 1;
    make_root(ROOT);
    expect("an equal root", ROOT, loads);
    expect("a PCID", ROOT | 0xfff, loads);
    expect("NOFLUSH", ROOT | 3 | NOFLUSH, loads);
    for (int bit = 52; bit < 63; ++bit)
        expect("a bit that no address has", ROOT | 1UL << bit, asks_and_refuses);
    each_bit();

    make_root(rule->low_end - 2 * PAGE_SIZE);
    expect("the last of low memory", rule->low_end - 2 * PAGE_SIZE, loads);
    expect("behind low memory", rule->low_end, asks);
    expect("what cannot be read", rule->low_end - 6 * PAGE_SIZE, asks);
    make_root(HIGH);
    expect("the first of high memory", HIGH, loads);
    expect("before high memory", HIGH - 2 * PAGE_SIZE, asks);
    expect("behind high memory", HIGH + rule->high_bytes, asks);
    expect("the last address", 0xfffffffffe000, asks);
    if (rule->pair) {
        expect("the second of a pair", ROOT | PAGE_SIZE, asks_and_refuses);
        root(ROOT)[9] = NO_EXECUTE | PRESENT;
        root(ROOT)[ENTRIES + 9] = PRESENT;
        expect("user memory with NX", ROOT, loads);
        root(ROOT)[9] = PRESENT;
        expect("user memory without NX", ROOT, asks);
        rule->no_execute = 0;
        expect("user memory on a CPU without NX", ROOT, loads);
        rule->no_execute = 1;
        root(ROOT)[9] = 0;
    }
    set_clock(1);
    expect("an equal root when it is time", ROOT, asks);
    set_clock(0);
}

static void checks(void) {
    casemate_root_rule.compares = 0;
    make_root(REFERENCE);
    set_clock(1);
    expect("an equal root", ROOT, asks);
    expect("the reference", REFERENCE, loads);
    root(REFERENCE)[ENTRIES - 1] ^= 1UL << 12;
    expect("a forged reference", REFERENCE, asks);
    root(REFERENCE)[ENTRIES - 1] ^= 1UL << 12;
    set_clock(0);
}

static void arena(void) {
    union casemate_root_rule* rule = &casemate_root_rule;
    rule->compares = 0;
    rule->arena = ARENA;
    rule->arena_bytes = ARENA_BYTES;
    expect("the first of the arena", ARENA | 1, loads);
    expect("the last of the arena", ARENA + ARENA_BYTES - 2 * PAGE_SIZE, loads);
    expect("behind the arena", ARENA + ARENA_BYTES, asks);
    expect("before the arena", ARENA - 2 * PAGE_SIZE, asks);
    expect("a page of the arena", ARENA | PAGE_SIZE, rule->pair ? asks_and_refuses : loads);
    expect("the arena with a stray bit", ARENA | 1UL << 58, asks_and_refuses);
    expect("the reference", REFERENCE, loads);
    rule->arena = rule->arena_bytes = 0;
}

static int by_size(const void* left, const void* right) {
    const u64 a = *(const u64*)left;
    const u64 b = *(const u64*)right;
    return a < b ? -1 : a > b;
}

// The median of a judgement of roots that are used by turns, as `flushed` says from memory.
static u64 cycles(u64 roots, int flushed) {
    enum { rounds = 20001 };
    static u64 took[rounds];
    for (u64 i = 0; i < rounds; ++i) {
        const u64 address = ROOT + i % roots * 2 * PAGE_SIZE;
        for (u64 at = 0; flushed && at < 2 * PAGE_SIZE; at += 64)
            _mm_clflush((char*)root(address) + at);
        unsigned int cpu;
        _mm_mfence();
        const u64 start = __rdtsc();
        _mm_lfence();
        __root_guard_load(address);
        took[i] = __rdtscp(&cpu) - start;
        _mm_lfence();
    }
    qsort(took, rounds, sizeof(*took), by_size);
    return took[rounds / 2];
}

static void measure(void) {
    union casemate_root_rule* rule = &casemate_root_rule;
    enum { many = 4096 };
    for (u64 i = 0; i < many; ++i)
        make_root(ROOT + i * 2 * PAGE_SIZE);
    rule->compares = 1;
    printf("# %s: %lu cycles for one root, %lu for 16, %lu for %d, %lu from memory",
           rule->pair ? "pairs" : "roots", cycles(1, 0), cycles(16, 0), cycles(many, 0), many, cycles(64, 1));
    rule->arena_bytes = 1UL << 40;
    printf("; in an arena %lu\n", cycles(16, 0));
    rule->arena_bytes = 0;
}

int main(int argc, char** argv) {
    (void)argv;
    struct sigaction action = {.sa_sigaction = fix_up, .sa_flags = SA_SIGINFO};
    sigaction(SIGSEGV, &action, NULL);
    char* const map =
        mmap(NULL, HIGH + RAM, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (map == MAP_FAILED) {
        perror("mmap");
        return 1;
    }
    page_offset_base = (u64)map;
    union casemate_root_rule* rule = &casemate_root_rule;
    expect("a root while the guard is off", ~0UL, loads);
    rule->on = 1;
    rule->reference = REFERENCE;
    rule->low_end = RAM;
    rule->high_start = HIGH;
    rule->high_bytes = RAM;
    mprotect(root(RAM - 6 * PAGE_SIZE), PAGE_SIZE, PROT_NONE);
    // Present and absent entries, as a kernel has them.
    for (u64 i = 0; i < ENTRIES; ++i)
        copy()[i] = i % 3 == 0 ? (i * 0x123456789UL) << 12 | 0x63 : 0;
    set_clock(0);
    for (int pair = 0; pair < 2; ++pair) {
        rule->pair = pair ? PAGE_SIZE : 0;
        rule->no_execute = (u64)pair;
        if (argc > 1) {
            measure();
            continue;
        }
        compares();
        checks();
        arena();
    }
    return failures != 0;
}
