// SPDX-License-Identifier: Apache-2.0
// Attack 20 on roots in an arena: stores to them, and tables that are linked, taken out and linked anew,
// which must be what the CPU then walks. Attack 17 on the calls that do it.
#include "attack_locks.hpp"
#include "page_tables.hpp"

namespace payload {
namespace {

constexpr uint64_t table_flags = writable_page | entry_user;
constexpr uint64_t frame_mask = 0x000ffffffffff000;
constexpr uint64_t kernel_slot = 256;
constexpr uint64_t slot_bytes = uint64_t{1} << 39;
constexpr uint64_t roots = 16;
// Root 0 is the one to come back to.
constexpr uint64_t linked_root = 1, taken_out_root = 2, cleared_root = 3, churned_root = 4,
                   refusing_root = 15;

constexpr const char* no_arena = "no_arena_on_this_host";

uint64_t pool;
uint64_t low_table; // maps the payload itself
uint64_t reference;

uint64_t new_table() {
    const uint64_t table = take_pages(1);
    memset(reinterpret_cast<void*>(table), 0, page_bytes);
    return table;
}

void set_entry(uint64_t table, uint64_t index, uint64_t entry) {
    store<uint64_t>(table + 8 * index, entry);
}

// A table for a root's slot whose first page leads to a page that holds `value`.
uint64_t new_chain(uint64_t value) {
    const uint64_t page = take_pages(1);
    store<uint64_t>(page, value);
    uint64_t below = page;
    for (unsigned level = 1; level < 4; ++level) {
        const uint64_t table = new_table();
        set_entry(table, 0, below | table_flags);
        below = table;
    }
    return below;
}

uint64_t asked_policy() {
    return policy() == Policy::die_on_write ? CASEMATE_POLICY_DIE_ON_WRITE : CASEMATE_POLICY_READ_ONLY;
}

int64_t give_arena(uint64_t address, uint64_t pages) {
    return casemate_call(address, pages, casemate_attributes(CASEMATE_CALL_ROOT_ARENA, asked_policy(), 0));
}
int64_t write_root(uint64_t root, uint64_t slot, uint64_t table) {
    return casemate_call(table, 1,
                         casemate_attributes(CASEMATE_CALL_ROOT_WRITE, 0, CASEMATE_ROOT_ENTRY(root, slot)));
}
int64_t clear_root(uint64_t root) {
    return casemate_call(0, 1,
                         casemate_attributes(CASEMATE_CALL_ROOT_CLEAR, 0, CASEMATE_ROOT_ENTRY(root, 0)));
}

uint64_t page_of(uint64_t root) {
    return pool + root * page_bytes;
}

// What the CPU reads at a slot's first address; 0 when there is nothing.
uint64_t read_slot(uint64_t slot) {
    uint64_t value = 0;
    const Caught caught = catch_exceptions([&] { value = load<uint64_t>(slot * slot_bytes); });
    return caught.happened ? 0 : value;
}

// A root as a new process gets it.
bool prepare(uint64_t root) {
    return write_root(root, 0, low_table) == 0;
}
void run_on(uint64_t root) {
    write_cr3(page_of(root));
}

void judge_working(const char* name, bool works) {
    run_on(0);
    print_other(20, name, works ? "works" : "WRONG");
}

bool is_to_try(const char* name, bool is_possible) {
    if (!wanted(20, name))
        return false;
    if (!is_possible)
        print_skipped(20, name, no_arena);
    return is_possible;
}

void attempt_linking(bool has_arena) {
    constexpr uint64_t slot = 2;
    if (!is_to_try("linked_table", has_arena))
        return;
    bool right = prepare(linked_root);
    run_on(linked_root);
    right = right && read_slot(slot) == 0;
    // Nothing that is not present is cached.
    right = right && write_root(linked_root, slot, new_chain(0x1111)) == 0 && read_slot(slot) == 0x1111;
    store<uint64_t>(slot * slot_bytes, 0x2222);
    right = right && read_slot(slot) == 0x2222;
    judge_working("linked_table", right);
}

void attempt_taking_out(bool has_arena) {
    constexpr uint64_t slot = 3;
    if (!is_to_try("relinked_slot", has_arena))
        return;
    bool right = prepare(taken_out_root);
    run_on(taken_out_root);
    right = right && write_root(taken_out_root, slot, new_chain(0x3333)) == 0 && read_slot(slot) == 0x3333;
    right = right && write_root(taken_out_root, slot, 0) == 0;
    run_on(taken_out_root);
    const uint64_t after = read_slot(slot);
    right = right && write_root(taken_out_root, slot, new_chain(0x4444)) == 0;
    run_on(taken_out_root);
    const uint64_t then = read_slot(slot);
    print("# taken out reads ");
    print_hex(after);
    print(", linked anew reads ");
    print_hex(then);
    print("\n");
    judge_working("relinked_slot", right && after == 0 && then == 0x4444);
}

void attempt_clearing(bool has_arena) {
    constexpr uint64_t slot = 4;
    if (!is_to_try("relinked_root", has_arena))
        return;
    bool right = prepare(cleared_root) && write_root(cleared_root, slot, new_chain(0x5555)) == 0;
    run_on(cleared_root);
    right = right && read_slot(slot) == 0x5555;
    run_on(0);
    right = right && clear_root(cleared_root) == 0 && prepare(cleared_root) &&
            write_root(cleared_root, slot, new_chain(0x6666)) == 0;
    run_on(cleared_root);
    const uint64_t then = read_slot(slot);
    print("# cleared and linked anew reads ");
    print_hex(then);
    print("\n");
    judge_working("relinked_root", right && then == 0x6666);
}

// Round by round through the arena, as processes come and go, with some slots of one root and others of the
// next.
void attempt_churn(bool has_arena) {
    constexpr uint64_t rounds = 6;
    if (!is_to_try("root_churn", has_arena))
        return;
    uint64_t wrong = 0;
    for (uint64_t round = 0; round < rounds; ++round)
        for (uint64_t root = churned_root; root < refusing_root; ++root) {
            bool right = prepare(root);
            const uint64_t slots = 1 + (round + root) % 4;
            for (uint64_t slot = 5; slot < 5 + slots; ++slot)
                right = right && write_root(root, slot, new_chain(round << 16 | root << 8 | slot)) == 0;
            run_on(root);
            for (uint64_t slot = 5; slot < 5 + slots; ++slot)
                right = right && read_slot(slot) == (round << 16 | root << 8 | slot);
            right = right && read_slot(5 + slots) == 0;
            run_on(0);
            right = right && clear_root(root) == 0;
            wrong += right ? 0 : 1;
        }
    print("# wrong roots ");
    print_decimal(static_cast<int64_t>(wrong));
    print("\n");
    judge_working("root_churn", wrong == 0);
}

// Where there is no lock the entry is put back.
void attempt_store(const char* name, uint64_t at, uint64_t value) {
    const auto before = load<uint64_t>(at);
    store_site = 0;
    const Caught caught = catch_exceptions([=] { store_at(at, value); });
    const bool changed = load<uint64_t>(at) != before;
    if (changed)
        store<uint64_t>(at, before);
    print_judged(20, name, changed, caught, store_site);
}

void attempt_calls() {
    constexpr uint64_t root = refusing_root;
    const uint64_t table = new_table();
    const auto write = [](uint64_t of, uint64_t slot) {
        return casemate_attributes(CASEMATE_CALL_ROOT_WRITE, 0, CASEMATE_ROOT_ENTRY(of, slot));
    };
    const auto clear = [](uint64_t of, uint64_t slot) {
        return casemate_attributes(CASEMATE_CALL_ROOT_CLEAR, 0, CASEMATE_ROOT_ENTRY(of, slot));
    };
    const uint64_t arena = casemate_attributes(CASEMATE_CALL_ROOT_ARENA, asked_policy(), 0);
    expect_call("second_arena", -CASEMATE_EPERM, take_pages(2), 1, arena);
    expect_call("link_kernel_slot", -CASEMATE_EPERM, table, 1, write(root, 256));
    expect_call("link_last_slot", -CASEMATE_EPERM, table, 1, write(root, 511));
    expect_call("take_out_kernel_slot", -CASEMATE_EPERM, 0, 1, write(root, kernel_slot));
    expect_call("link_no_such_root", -CASEMATE_EINVAL, table, 1, write(roots, 1));
    expect_call("link_last_root_number", -CASEMATE_EINVAL, table, 1, write((1U << 18) - 1, 1));
    expect_call("link_two_pages", -CASEMATE_EINVAL, table, 2, write(root, 1));
    expect_call("link_policy", -CASEMATE_EINVAL, table, 1,
                write(root, 1) | uint64_t{1} << CASEMATE_POLICY_SHIFT);
    expect_call("link_reserved_bit", -CASEMATE_EINVAL, table, 1, write(root, 1) | 1);
    expect_call("link_locked_table", -CASEMATE_EPERM, reference, 1, write(root, 1));
    expect_call("link_root", -CASEMATE_EPERM, page_of(root), 1, write(root, 1));
    expect_call("link_end_of_ram", -CASEMATE_EFAULT, ram_end(), 1, write(root, 1));
    expect_call("link_hole", -CASEMATE_EFAULT, 0xc0000000, 1, write(root, 1));
    expect_call("link_local_apic", -CASEMATE_EFAULT, local_apic, 1, write(root, 1));
    expect_call("link_high", -CASEMATE_EFAULT, uint64_t{1} << 51, 1, write(root, 1));
    expect_call("link", 0, table, 1, write(root, 1));
    expect_call("link_again", 0, table, 1, write(root, 1));
    expect_call("link_other", -CASEMATE_EPERM, table + page_bytes, 1, write(root, 1));
    expect_call("clear_slot", -CASEMATE_EINVAL, 0, 1, clear(root, 1));
    expect_call("clear_no_such_root", -CASEMATE_EINVAL, 0, 1, clear(roots, 0));
    expect_call("clear", 0, 0, 1, clear(root, 0));
    expect_call("clear_again", 0, 0, 1, clear(root, 0));
    expect_call("take_out_nothing", 0, 0, 1, write(root, 1));
    expect_call("check_arena_root", 0, page_of(root), 1, casemate_attributes(CASEMATE_CALL_ROOT_CHECK, 0, 0));
    expect_call("check_reference", 0, reference, 1, casemate_attributes(CASEMATE_CALL_ROOT_CHECK, 0, 0));
}

// False: the host has no arena.
bool make_arena(uint64_t kernel_table, uint64_t kernel_directory) {
    const auto locks = [](uint64_t table) {
        return lock(table, 1, asked_policy(), CASEMATE_KIND_PAGE_TABLE) == 0;
    };
    const bool locked = locks(reference) && locks(kernel_table) && locks(kernel_directory);
    const int64_t referred = casemate_call(
        reference, 1, casemate_attributes(CASEMATE_CALL_ROOT_REFERENCE, asked_policy(), kernel_slot));
    const int64_t given = give_arena(pool, roots);
    print("# reference ");
    print_decimal(referred);
    print(", arena ");
    print_decimal(given);
    print("\n");
    if (given == -CASEMATE_EOPNOTSUPP)
        return false;
    report(locked && referred == 0 && given == 0 && prepare(0), "arena");
    run_on(0);
    return true;
}

// Whether there is an arena; without a policy its pages are as any.
bool set_up() {
    use_own_tables();
    low_table = load<uint64_t>(read_cr3()) & frame_mask;
    // The kernel half maps the first GiB, as a direct map.
    reference = new_table();
    const uint64_t kernel_table = new_table();
    const uint64_t kernel_directory = new_table();
    set_entry(reference, kernel_slot, kernel_table | writable_page);
    set_entry(kernel_table, 0, kernel_directory | writable_page);
    for (uint64_t i = 0; i < 512; ++i)
        set_entry(kernel_directory, i, i << 21 | writable_page | entry_large);
    pool = take_pages(roots);
    fill(pool, roots * page_bytes, page_seed);
    return policy() != Policy::none && make_arena(kernel_table, kernel_directory);
}

} // namespace

void attack_roots() {
    const bool has_arena = set_up();
    attempt_linking(has_arena);
    attempt_taking_out(has_arena);
    attempt_clearing(has_arena);
    attempt_churn(has_arena);
    static const struct {
        const char* name;
        uint64_t root, slot, entry;
    } stores[] = {{"root_kernel_slot", 1, kernel_slot, 0x200000 | table_flags},
                  {"root_unused_kernel_slot", 1, 400, 0x200000 | table_flags},
                  {"root_user_slot", 1, 100, 0x200000 | table_flags},
                  {"root_in_use", 0, kernel_slot, 0}};
    for (const auto& each : stores)
        if (is_to_try(each.name, has_arena || policy() == Policy::none))
            attempt_store(each.name, page_of(each.root) + 8 * each.slot, each.entry);
}

void attack_root_calls() {
    if (set_up())
        attempt_calls();
    else if (wanted(17, "root_calls"))
        print_skipped(17, "root_calls", no_arena);
}

} // namespace payload
