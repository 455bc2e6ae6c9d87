// SPDX-License-Identifier: Apache-2.0
// Attack 32: a CPU that stores while another takes the lock; instructions rewritten while they fault; floods.
#include "attack_locks.hpp"

// NOLINTBEGIN(misc-const-correctness): it does not see what assembly writes.
namespace payload {
namespace {

struct RaceForm {
    const char* name;
    uint64_t offset; // in the page, of what changes
    uint64_t bytes;
    void (*run)(uint64_t page, uint64_t counter);
};

// CPU 1's half: its own store_site, for CPU 0 does not store here.
constexpr RaceForm race_forms[] = {
    {"mov", 0, 8, [](uint64_t page, uint64_t counter) { store_at(page, counter); }},
    {"lock_xadd", 64, 8,
     [](uint64_t page, uint64_t counter) {
         asm volatile("movq $1f, %0\n1: lock xaddq %1, (%2)"
                      : "=m"(store_site), "+r"(counter)
                      : "r"(page + 64)
                      : "memory");
     }},
    {"rep_stosb", 0, 64,
     [](uint64_t page, uint64_t counter) {
         uint64_t count = 64;
         asm volatile("movq $1f, %0\n1: rep stosb"
                      : "=m"(store_site), "+D"(page), "+c"(count)
                      : "a"(counter)
                      : "memory");
     }},
    {"cross_page", page_bytes - 4, 4,
     [](uint64_t page, uint64_t counter) {
         store_at(page + page_bytes - 4, counter << 32 | (counter & 0xffffffff));
     }},
    {"movups", 0, 16,
     [](uint64_t page, uint64_t counter) {
         asm volatile("movq $1f, %0\nmovq %2, %%xmm1\npunpcklqdq %%xmm1, %%xmm1\n1: movups %%xmm1, (%1)"
                      : "=m"(store_site)
                      : "r"(page), "r"(counter)
                      : "memory");
     }},
    {"push", 128, 8,
     [](uint64_t page, uint64_t counter) {
         asm volatile("movq $1f, %0\nmovq %%rsp, %%r15\nmovq %1, %%rsp\n1: pushq %2\nmovq %%r15, %%rsp"
                      : "=m"(store_site)
                      : "r"(page + 136), "r"(counter)
                      : "r15", "memory");
     }},
};

struct Race {
    const RaceForm* volatile form;
    volatile uint64_t page;   // that CPU 1 stores to; 0: none, 1: leave
    volatile uint64_t done;   // the page at which it got an exception
    volatile uint64_t faults; // #GP(0) at the instruction
    volatile uint64_t others; // any other exception
    volatile uint64_t counter;
};
Race race;

void race_loop(void*) {
    uint64_t last = 0;
    for (;;) {
        const uint64_t page = race.page;
        if (page == 1)
            return;
        if (page == 0 || page == last) {
            pause();
            continue;
        }
        const Caught caught = catch_exceptions([page] {
            while (race.page == page) {
                let_host_interrupt();
                race.counter = race.counter + 1;
                race.form->run(page, race.counter);
            }
        });
        if (caught.happened) {
            if (judge(false, caught, store_site) == Outcome::fault)
                race.faults = race.faults + 1;
            else
                race.others = race.others + 1;
            race.done = page;
            last = page;
        }
    }
}

bool differs(const uint8_t* from, uint64_t address, uint64_t bytes) {
    for (uint64_t i = 0; i < bytes; ++i)
        if (load<uint8_t>(address + i) != from[i])
            return true;
    return false;
}

void run_race(const RaceForm& form, uint64_t rounds, Random& random) {
    if (!wanted(32, form.name))
        return;
    race.form = &form;
    race.faults = 0;
    race.others = 0;
    const uint64_t pages = take_pages(rounds + 1); // the page behind the last one is never locked
    uint64_t changed = 0;
    uint64_t idle = 0;
    for (uint64_t round = 0; round < rounds; ++round) {
        const uint64_t page = pages + round * page_bytes;
        const uint64_t at = page + form.offset;
        uint8_t snapshot[64];
        memcpy(snapshot, reinterpret_cast<const void*>(at), form.bytes);
        race.page = page;
        uint64_t patience = 10000000;
        while (patience != 0 && !differs(snapshot, at, form.bytes)) {
            --patience;
            pause();
        }
        spin(random.below(300));
        lock_pages(page, 1);
        memcpy(snapshot, reinterpret_cast<const void*>(at), form.bytes);
        bool moved = false;
        // Until CPU 1 has had its exception, which tells that it did store; without a lock, until it has
        // stored. Where stores are dropped, until it made one that began after the lock.
        const uint64_t begun = race.counter;
        uint64_t looks = 10000000;
        while (looks != 0 && !moved && race.done != page &&
               (policy() == Policy::none || race.counter < begun + 2)) {
            let_host_interrupt();
            moved = differs(snapshot, at, form.bytes);
            --looks;
        }
        moved |= differs(snapshot, at, form.bytes);
        changed += moved ? 1U : 0U;
        idle += patience == 0 ? 1U : 0U;
        race.page = 0;
    }
    print("# rounds ");
    print_decimal(static_cast<int64_t>(rounds));
    print(" stores ");
    print_decimal(static_cast<int64_t>(race.counter));
    print(" faults ");
    print_decimal(static_cast<int64_t>(race.faults));
    print(" others ");
    print_decimal(static_cast<int64_t>(race.others));
    print(" changed ");
    print_decimal(static_cast<int64_t>(changed));
    print(" never began ");
    print_decimal(static_cast<int64_t>(idle));
    print("\n");
    if (idle != 0)
        return print_skipped(32, form.name, "second_cpu_never_stored");
    const Outcome quiet = race.faults == rounds ? Outcome::fault
                          : race.others != 0    ? Outcome::misreported
                                                : Outcome::unchanged;
    print_outcome(32, form.name, changed != 0 ? Outcome::changed : quiet);
}

// CPU 1 works in memory that nobody locks, between pages that CPU 0 locks: none of what it stores may be
// lost, come twice or raise anything while the host changes what lies around it.
struct Neighbour {
    volatile uint64_t page; // zeroed; CPU 1's
    volatile bool stop;
    volatile uint64_t stores;
    volatile uint64_t wrong;
    volatile bool raised;
};
Neighbour neighbour;

void neighbour_loop(void*) {
    const Caught caught = catch_exceptions([] {
        uint64_t page = neighbour.page;
        uint64_t count = 0;
        while (!neighbour.stop) {
            let_host_interrupt();
            if (page != neighbour.page) {
                page = neighbour.page;
                count = 0;
            }
            ++count;
            store<uint64_t>(page, count);
            uint64_t before = 1;
            asm volatile("lock xaddq %0, (%1)" : "+r"(before) : "r"(page + 8) : "memory");
            const bool stored = load<uint64_t>(page) == count && load<uint64_t>(page + 8) == count;
            if (before != count - 1 || !stored)
                neighbour.wrong = neighbour.wrong + 1;
            neighbour.stores = neighbour.stores + 1;
        }
    });
    neighbour.raised = caught.happened;
}

void run_neighbour(uint64_t rounds) {
    if (!wanted(32, "unlocked_neighbour"))
        return;
    const uint64_t pages = take_pages(2 * rounds + 1);
    memset(reinterpret_cast<void*>(pages), 0, (2 * rounds + 1) * page_bytes);
    neighbour.page = pages + page_bytes;
    neighbour.stop = false;
    neighbour.raised = false;
    if (!start_second_cpu(neighbour_loop, nullptr))
        return print_skipped(32, "unlocked_neighbour", "no_second_cpu");
    for (uint64_t round = 0; round < rounds && !neighbour.raised; ++round) {
        neighbour.page = pages + (2 * round + 1) * page_bytes;
        const uint64_t stores = neighbour.stores;
        while (neighbour.stores < stores + 2 && !neighbour.raised)
            let_host_interrupt();
        lock_pages(pages + 2 * round * page_bytes, 1);
    }
    neighbour.stop = true;
    while (!second_cpu_is_done())
        pause();
    print("# stores ");
    print_decimal(static_cast<int64_t>(neighbour.stores));
    print(" wrong ");
    print_decimal(static_cast<int64_t>(neighbour.wrong));
    print(neighbour.raised ? " and an exception\n" : "\n");
    print_other(32, "unlocked_neighbour", neighbour.wrong == 0 && !neighbour.raised ? "works" : "WRONG");
}

// Both CPUs lock at the same time, each every other page.
struct Both {
    volatile uint64_t pages;
    volatile uint64_t rounds;
};
Both both;

void lock_every_other(uint64_t first) {
    for (uint64_t i = 0; i < both.rounds; ++i) {
        let_host_interrupt();
        lock_pages(both.pages + (2 * i + first) * page_bytes, 1);
    }
}

void run_both(uint64_t rounds) {
    if (!wanted(32, "both_lock"))
        return;
    both.pages = take_pages(2 * rounds);
    both.rounds = rounds;
    fill(both.pages, 2 * rounds * page_bytes, page_seed);
    if (!start_second_cpu([](void*) { lock_every_other(1); }, nullptr))
        return print_skipped(32, "both_lock", "no_second_cpu");
    lock_every_other(0);
    while (!second_cpu_is_done())
        pause();
    uint64_t changed = 0;
    uint64_t faults = 0;
    for (uint64_t i = 0; i < 2 * rounds; ++i) {
        const uint64_t page = both.pages + i * page_bytes;
        const Caught caught = catch_exceptions([page] { store_at(page + 16, 1); });
        const Outcome outcome = judge(!is_filled(page, 64, page_seed), caught, store_site);
        changed += outcome == Outcome::changed ? 1U : 0U;
        faults += outcome == Outcome::fault ? 1U : 0U;
    }
    print_outcome(32, "both_lock",
                  changed != 0           ? Outcome::changed
                  : faults == 2 * rounds ? Outcome::fault
                                         : Outcome::unchanged);
}

} // namespace

void attack_second_cpu() {
    const uint64_t rounds = command_line_number("rounds", 500);
    Random random(command_line_number("seed", 1));
    race.page = 0;
    if (!start_second_cpu(race_loop, nullptr))
        return print_skipped(32, "second_cpu", "no_second_cpu");
    for (const RaceForm& form : race_forms)
        run_race(form, rounds, random);
    race.page = 1;
    while (!second_cpu_is_done())
        pause();
    // A CPU that starts over finds the locks where they were.
    if (wanted(32, "restarted_cpu")) {
        static volatile uint64_t page;
        static volatile bool faulted;
        static volatile bool precise;
        page = locked_pages();
        faulted = false;
        precise = false;
        const bool came = start_second_cpu(
            [](void*) {
                const uint64_t at = page;
                const Caught caught = catch_exceptions([at] { store_at(at, 1); });
                precise = judge(false, caught, store_site) == Outcome::fault;
                faulted = caught.happened;
            },
            nullptr);
        while (came && !second_cpu_is_done())
            pause();
        if (!came)
            return print_skipped(32, "restarted_cpu", "no_second_cpu");
        const bool changed = !is_filled(page, page_bytes, page_seed);
        print_outcome(32, "restarted_cpu",
                      changed    ? Outcome::changed
                      : !faulted ? Outcome::unchanged
                      : precise  ? Outcome::fault
                                 : Outcome::misreported);
    }
    run_neighbour(rounds);
    run_both(rounds);
}

// --- an instruction that changes ---

namespace {

// Eight bytes each, ending in ret: with rdi in the locked page, rsi beside it. Written as one aligned word.
constexpr uint64_t code(uint64_t bytes, unsigned count) {
    for (unsigned i = count; i < 8; ++i)
        bytes |= uint64_t{i == count ? 0xc3U : 0x90U} << (8 * i);
    return bytes;
}
constexpr uint64_t variants[] = {
    code(0x078948, 3),     // mov [rdi], rax
    code(0x078b48, 3),     // mov rax, [rdi]
    code(0x078948, 3),     // twice as often as the others
    code(0x068948, 3),     // mov [rsi], rax
    code(0x07ff48f0, 4),   // lock inc qword ptr [rdi]
    code(0x0b0f, 2),       // ud2
    code(0x0789489090, 5), // the store, two bytes on
    code(0xaa, 1),         // stosb
    code(0x07110f, 3),     // movups [rdi], xmm0
    code(0, 0),            // ret
};
static_assert(variants[0] == 0x90909090c3078948);

struct Rewriting {
    volatile uint64_t code; // address of the word
    volatile bool stop;
    volatile uint64_t written;
};
Rewriting rewriting;

void rewrite_loop(void*) {
    Random random(7);
    while (!rewriting.stop) {
        store<uint64_t>(rewriting.code, variants[random.below(sizeof(variants) / sizeof(variants[0]))]);
        rewriting.written = rewriting.written + 1;
        spin(random.below(64));
    }
}

} // namespace

void attack_rewriting() {
    if (!wanted(10, "rewritten_instruction"))
        return;
    const uint64_t rounds = command_line_number("rounds", 5000);
    const uint64_t beside = take_pages(1);
    const uint64_t page = locked_pages();
    rewriting.code = take_pages(1);
    rewriting.stop = false;
    rewriting.written = 0;
    store<uint64_t>(rewriting.code, variants[0]);
    // For who was past the old ret when the new one came before it.
    store<uint64_t>(rewriting.code + 8, code(0, 0));
    if (!start_second_cpu(rewrite_loop, nullptr))
        return print_skipped(10, "rewritten_instruction", "no_second_cpu");
    uint64_t faults = 0;
    uint64_t undefined = 0;
    uint64_t quiet = 0;
    uint64_t others = 0;
    // A CPU that does not run beside this one rewrites nothing, so rounds alone say little.
    const uint64_t faults_wanted = policy() == Policy::none ? 0 : rounds / 20;
    uint64_t done = 0;
    while (done < 100 * rounds && (done < rounds || rewriting.written < rounds || faults < faults_wanted)) {
        ++done;
        let_host_interrupt();
        const Caught caught = catch_exceptions([page, beside] {
            asm volatile("call *%[code]"
                         :
                         : "D"(page + 0x80), "S"(beside), "a"(~uint64_t{0}), [code] "r"(rewriting.code)
                         : "memory");
        });
        if (!caught.happened)
            ++quiet;
        else if (caught.vector == vector_general_protection)
            ++faults;
        else if (caught.vector == vector_invalid_opcode)
            ++undefined;
        else
            ++others;
    }
    rewriting.stop = true;
    while (!second_cpu_is_done())
        pause();
    print("# rounds ");
    print_decimal(static_cast<int64_t>(done));
    print(" rewritten ");
    print_decimal(static_cast<int64_t>(rewriting.written));
    print(" general protection ");
    print_decimal(static_cast<int64_t>(faults));
    print(" undefined ");
    print_decimal(static_cast<int64_t>(undefined));
    print(" none ");
    print_decimal(static_cast<int64_t>(quiet));
    print(" others ");
    print_decimal(static_cast<int64_t>(others));
    print("\n");
    const bool changed = !is_filled(page, page_bytes, page_seed);
    // A CPU may run a mixture of two instructions (SDM 9.1.3), so exceptions of any kind may come, and say
    // nothing about the lock.
    print_outcome(10, "rewritten_instruction",
                  changed       ? Outcome::changed
                  : faults != 0 ? Outcome::fault
                                : Outcome::unchanged);
}

void attack_flood() {
    const uint64_t rounds = command_line_number("rounds", 20000);
    if (wanted(10, "store_flood")) {
        const uint64_t page = locked_pages();
        uint64_t faults = 0;
        const uint64_t begin = time_stamp();
        for (uint64_t i = 0; i < rounds; ++i) {
            const Caught caught =
                catch_exceptions([page, i] { store_at(page + i * 8 % (page_bytes - 8), i); });
            faults += judge(false, caught, store_site) == Outcome::fault ? 1U : 0U;
        }
        print("# rounds ");
        print_decimal(static_cast<int64_t>(rounds));
        print(" faults ");
        print_decimal(static_cast<int64_t>(faults));
        print(" cycles each ");
        print_decimal(static_cast<int64_t>((time_stamp() - begin) / (rounds + 1)));
        print("\n");
        const bool changed = !is_filled(page, page_bytes, page_seed);
        print_outcome(10, "store_flood",
                      changed            ? Outcome::changed
                      : faults == rounds ? Outcome::fault
                                         : Outcome::unchanged);
    }
    if (wanted(17, "hypercall_flood")) {
        if (!find_casemate())
            return print_skipped(17, "hypercall_flood", "no_casemate");
        // Every result of the same call must stay the same.
        const uint64_t page = take_pages(2);
        const int64_t had = lock(page, 1, CASEMATE_POLICY_READ_ONLY);
        Random random(command_line_number("seed", 1));
        bool same = had == 0;
        for (uint64_t i = 0; i < rounds && same; ++i) {
            switch (random.below(5)) {
            case 0:
                same = features() > 0;
                break;
            case 1:
                same = lock(page, 1, CASEMATE_POLICY_READ_ONLY) == 0;
                break;
            case 2:
                same = lock(page, ~uint64_t{0} >> 13, CASEMATE_POLICY_READ_ONLY) == -CASEMATE_EFAULT;
                break;
            case 3:
                same = casemate_call(page, 1, casemate_attributes(200, 0, 0)) == -CASEMATE_ENOSYS;
                break;
            default:
                same = casemate_call(random.next() & ~(page_bytes - 1), 1 + random.below(16), 0) ==
                       -CASEMATE_EOPNOTSUPP;
            }
        }
        print_other(17, "hypercall_flood", same ? "granted" : "WRONG");
    }
}

} // namespace payload
// NOLINTEND(misc-const-correctness)
