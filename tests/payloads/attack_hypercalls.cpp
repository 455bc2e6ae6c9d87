// SPDX-License-Identifier: Apache-2.0
// Attack 17: hypercalls with every wrong argument, each with the very error of casemate_abi.h, and the state
// unchanged after it; then as many locks as the monitor takes.
#include "attack_locks.hpp"

namespace payload {
namespace {

constexpr uint64_t read_only = CASEMATE_POLICY_READ_ONLY;
constexpr uint64_t die = CASEMATE_POLICY_DIE_ON_WRITE;

uint64_t lock_attributes(uint64_t lock_policy = read_only, uint64_t kind = CASEMATE_KIND_DATA) {
    return casemate_attributes(CASEMATE_CALL_LOCK, lock_policy, kind);
}

void print_call(const char* name, int64_t result, bool right) {
    print("attack 17 ");
    print(name);
    print(!right ? " WRONG " : result < 0 ? " refused " : " granted ");
    print_decimal(result);
    print("\n");
}

// Whether a page takes a store: the guest is harmed no further.
bool is_writable(uint64_t page) {
    const auto was = load<uint64_t>(page + 8);
    const Caught caught = catch_exceptions([&] { store_at(page + 8, ~was); });
    const bool changed = load<uint64_t>(page + 8) == ~was;
    if (changed)
        store<uint64_t>(page + 8, was);
    return changed && !caught.happened;
}

// A page that must take, or not take, stores after what came before.
void expect_writable(const char* name, uint64_t page, bool should) {
    if (!wanted(17, name))
        return;
    const bool is = is_writable(page);
    print_other(17, name, is != should ? "WRONG" : is ? "granted" : "refused");
}

} // namespace

void expect_call(const char* name, int64_t expected, uint64_t address, uint64_t pages, uint64_t attributes) {
    if (!wanted(17, name))
        return;
    const int64_t result = casemate_call(address, pages, attributes);
    print_call(name, result, result == expected);
}

void attack_hypercalls() {
    if (!find_casemate()) {
        report(false, "Casemate's CPUID leaves");
        return;
    }
    const uint64_t end = ram_end();
    const uint64_t page = take_pages(16);
    constexpr uint64_t hole = 0xc0000000;

    // Ranges.
    expect_call("pages_wrap", -CASEMATE_EINVAL, 0x1000, ~uint64_t{0}, lock_attributes());
    expect_call("bytes_wrap", -CASEMATE_EFAULT, 0xfffffffffffff000, 2, lock_attributes());
    expect_call("bytes_wrap_to_zero", -CASEMATE_EFAULT, page, uint64_t{1} << 52, lock_attributes());
    expect_call("bytes_wrap_to_one_page", -CASEMATE_EFAULT, page, (uint64_t{1} << 52) + 1, lock_attributes());
    expect_call("most_pages", -CASEMATE_EFAULT, 0, ~uint64_t{0} >> 1, lock_attributes());
    expect_call("sign_bit_pages", -CASEMATE_EFAULT, page, uint64_t{1} << 63, lock_attributes());
    expect_call("misaligned_1", -CASEMATE_EINVAL, page + 1, 1, lock_attributes());
    expect_call("misaligned_half", -CASEMATE_EINVAL, page + 0x800, 1, lock_attributes());
    expect_call("no_page", -CASEMATE_EINVAL, page, 0, lock_attributes());
    expect_call("hole", -CASEMATE_EFAULT, hole, 1, lock_attributes());
    expect_call("ecam", -CASEMATE_EFAULT, ecam, 1, lock_attributes());
    expect_call("local_apic", -CASEMATE_EFAULT, local_apic, 1, lock_attributes());
    expect_call("at_4_gib", -CASEMATE_EFAULT, 0x100000000, 1, lock_attributes());
    expect_call("over_end_of_ram", -CASEMATE_EFAULT, end - page_bytes, 2, lock_attributes());
    expect_call("beyond_end_of_ram", -CASEMATE_EFAULT, end, 1, lock_attributes());
    expect_call("ram_to_hole", -CASEMATE_EFAULT, page, (hole - page) / page_bytes + 1, lock_attributes());
    expect_call("high_address", -CASEMATE_EFAULT, uint64_t{1} << 51, 1, lock_attributes());
    expect_writable("last_page_not_locked", end - page_bytes, true);
    expect_writable("page_not_locked", page, true);

    // Attributes.
    expect_call("policy_2", -CASEMATE_EINVAL, page, 1, lock_attributes(2));
    expect_call("policy_255", -CASEMATE_EINVAL, page, 1, lock_attributes(255));
    expect_call("kind_4", -CASEMATE_EINVAL, page, 1, lock_attributes(read_only, 4));
    expect_call("kind_max", -CASEMATE_EINVAL, page, 1, lock_attributes(read_only, CASEMATE_ARGUMENT_MAX));
    expect_call("kind_high_bit", -CASEMATE_EINVAL, page, 1,
                lock_attributes(read_only, 1 << 26 | CASEMATE_KIND_DATA));
    for (unsigned bit = 0; bit < 5; ++bit) {
        static const char* const names[] = {"reserved_bit_0", "reserved_bit_1", "reserved_bit_2",
                                            "reserved_bit_3", "reserved_bit_4"};
        expect_call(names[bit], -CASEMATE_EINVAL, page, 1, lock_attributes() | 1U << bit);
    }
    expect_call("call_11", -CASEMATE_ENOSYS, page, 1, casemate_attributes(11, 0, 0));
    expect_call("call_255", -CASEMATE_ENOSYS, page, 1, casemate_attributes(255, 0, 0));
    static const struct {
        const char* name;
        uint64_t call;
    } kept[] = {{"poke_text", CASEMATE_CALL_POKE_TEXT}, {"table_write", CASEMATE_CALL_TABLE_WRITE}};
    // A slot of the user half; and nothing to compare with.
    expect_call("root_reference", -CASEMATE_EINVAL, page, 1,
                casemate_attributes(CASEMATE_CALL_ROOT_REFERENCE, 0, 0));
    expect_call("root_check", -CASEMATE_EINVAL, page, 1, casemate_attributes(CASEMATE_CALL_ROOT_CHECK, 0, 0));
    const uint64_t arena = casemate_attributes(CASEMATE_CALL_ROOT_ARENA, read_only, 0);
    expect_call("arena_no_reference", -CASEMATE_EINVAL, page, 1, arena);
    expect_call("arena_policy_2", -CASEMATE_EINVAL, page, 1, arena | uint64_t{2} << CASEMATE_POLICY_SHIFT);
    expect_call("arena_argument", -CASEMATE_EINVAL, page, 1,
                casemate_attributes(CASEMATE_CALL_ROOT_ARENA, 0, 1));
    expect_call("arena_bytes_wrap", -CASEMATE_EFAULT, page, (uint64_t{1} << 52) + 1, arena);
    expect_call("root_write_no_arena", -CASEMATE_EINVAL, page, 1,
                casemate_attributes(CASEMATE_CALL_ROOT_WRITE, 0, 0));
    expect_call("take_out_no_arena", -CASEMATE_EINVAL, 0, 1,
                casemate_attributes(CASEMATE_CALL_ROOT_WRITE, 0, 0));
    expect_call("root_clear_no_arena", -CASEMATE_EINVAL, 0, 1,
                casemate_attributes(CASEMATE_CALL_ROOT_CLEAR, 0, 0));
    const uint64_t clock = casemate_attributes(CASEMATE_CALL_ROOT_CLOCK, read_only, 1);
    expect_call("clock_no_reference", -CASEMATE_EINVAL, page, 1, clock);
    expect_call("clock_policy_2", -CASEMATE_EINVAL, page, 1, clock | uint64_t{2} << CASEMATE_POLICY_SHIFT);
    expect_call("clock_no_interval", -CASEMATE_EINVAL, page, 1,
                casemate_attributes(CASEMATE_CALL_ROOT_CLOCK, read_only, 0));
    expect_call("clock_two_pages", -CASEMATE_EINVAL, page, 2, clock);
    for (const auto& call : kept)
        expect_call(call.name, -CASEMATE_ENOSYS, page, 1, casemate_attributes(call.call, 0, 0));
    expect_call("features_policy", -CASEMATE_EINVAL, 0, 1, casemate_attributes(CASEMATE_CALL_FEATURES, 1, 0));
    expect_call("features_argument", -CASEMATE_EINVAL, 0, 1,
                casemate_attributes(CASEMATE_CALL_FEATURES, 0, 1));
    expect_call("features_reserved", -CASEMATE_EINVAL, 0, 1,
                casemate_attributes(CASEMATE_CALL_FEATURES, 0, 0) | 1);
    expect_call("seal_policy", -CASEMATE_EINVAL, 0, 1, casemate_attributes(CASEMATE_CALL_SEAL, 1, 0));
    expect_call("seal_argument", -CASEMATE_EINVAL, 0, 1, casemate_attributes(CASEMATE_CALL_SEAL, 0, 1));
    expect_call("unmarked", -CASEMATE_EOPNOTSUPP, page, 1, 0);
    expect_call("unmarked_private", -CASEMATE_EOPNOTSUPP, page, 1, 1 << 4);
    expect_call("wrong_mark", -CASEMATE_EOPNOTSUPP, page, 1, lock_attributes() ^ uint64_t{1} << 63);
    expect_call("unmarked_beyond", -CASEMATE_EOPNOTSUPP, end, 1, 0);
    expect_writable("page_still_not_locked", page, true);
    if (wanted(17, "unknown_number")) {
        const int64_t result = hypercall(0x1234, page, 1, lock_attributes());
        print_call("unknown_number", result, result == -CASEMATE_ENOSYS);
    }

    // Overlaps: pages 0..3 read-only, 4..7 die-on-write, 8..15 not locked.
    expect_call("lock", 0, page, 4, lock_attributes());
    expect_call("lock_die", 0, page + 4 * page_bytes, 4, lock_attributes(die));
    expect_call("lock_again", 0, page, 4, lock_attributes());
    expect_call("lock_again_part", 0, page + page_bytes, 1, lock_attributes());
    expect_call("lock_again_other_kind", 0, page, 4, lock_attributes(read_only, CASEMATE_KIND_TEXT));
    expect_call("lock_die_again", 0, page + 4 * page_bytes, 4, lock_attributes(die));
    expect_call("lower", -CASEMATE_EPERM, page + 4 * page_bytes, 4, lock_attributes());
    expect_call("lower_part", -CASEMATE_EPERM, page + 6 * page_bytes, 1, lock_attributes());
    expect_call("lower_over_end", -CASEMATE_EPERM, page + 7 * page_bytes, 2, lock_attributes());
    expect_call("lower_from_before", -CASEMATE_EPERM, page + 3 * page_bytes, 8, lock_attributes());
    expect_writable("refused_lower_locks_nothing", page + 8 * page_bytes, true);
    expect_call("over_locked_and_not", 0, page + 2 * page_bytes, 2, lock_attributes());
    expect_call("raise_part", 0, page + 3 * page_bytes, 1, lock_attributes(die));
    expect_call("lower_raised", -CASEMATE_EPERM, page + 3 * page_bytes, 1, lock_attributes());
    expect_call("die_over_unlocked", 0, page + 7 * page_bytes, 3, lock_attributes(die));
    expect_writable("locked_page_refuses", page, false);
    expect_writable("page_behind_takes", page + 10 * page_bytes, true);
    const int64_t bits = features();
    const auto has = [bits](uint64_t wanted) {
        return bits >= 0 && (static_cast<uint64_t>(bits) & wanted) != 0;
    };
    const bool enforced = has(CASEMATE_FEATURE_TABLES_ENFORCED);
    expect_call("kind_page_table",
                enforced || has(CASEMATE_FEATURE_TABLES_VERIFIED) ? 0 : -CASEMATE_EOPNOTSUPP,
                page + 12 * page_bytes, 1, lock_attributes(read_only, CASEMATE_KIND_PAGE_TABLE));
    expect_writable("page_table_page", page + 12 * page_bytes, !enforced);
    expect_call("last_page_of_ram", 0, end - page_bytes, 1, lock_attributes());
    expect_writable("last_page_locked", end - page_bytes, false);

    // SEAL.
    if (wanted(17, "features")) {
        const int64_t now = features();
        print_call("features", now,
                   now >= 0 && (static_cast<uint64_t>(now) & CASEMATE_FEATURE_LOCKS) != 0 &&
                       (static_cast<uint64_t>(now) & CASEMATE_FEATURE_SEALED) == 0);
    }
    expect_call("seal", 0, 0, 1, casemate_attributes(CASEMATE_CALL_SEAL, 0, 0));
    expect_call("seal_again", 0, 0, 1, casemate_attributes(CASEMATE_CALL_SEAL, 0, 0));
    expect_call("lock_after_seal", -CASEMATE_EPERM, page + 14 * page_bytes, 1, lock_attributes());
    expect_call("lock_again_after_seal", -CASEMATE_EPERM, page, 1, lock_attributes());
    expect_call("raise_after_seal", -CASEMATE_EPERM, page, 1, lock_attributes(die));
    expect_call("arena_after_seal", -CASEMATE_EPERM, page + 14 * page_bytes, 1, arena);
    expect_call("clock_after_seal", -CASEMATE_EPERM, page + 14 * page_bytes, 1, clock);
    expect_writable("unlocked_after_seal", page + 14 * page_bytes, true);
    expect_writable("locked_after_seal", page, false);
    if (wanted(17, "features_sealed")) {
        const int64_t now = features();
        print_call("features_sealed", now,
                   now >= 0 && (static_cast<uint64_t>(now) & CASEMATE_FEATURE_SEALED) != 0);
    }
}

// One page of two, so that no two locks merge. 256 MiB of RAM have room for more than a monitor should take.
void attack_many_locks() {
    if (!find_casemate()) {
        report(false, "Casemate's CPUID leaves");
        return;
    }
    const uint64_t pages = (ram_end() - take_pages(1)) / page_bytes - 1;
    const uint64_t first = take_pages(pages - 1);
    const uint64_t limit = command_line_number("locks", pages / 2 - 4);
    if (!wanted(17, "many_locks"))
        return;
    int64_t result = 0;
    uint64_t taken = 0;
    for (; taken < limit; ++taken) {
        result = lock(first + 2 * taken * page_bytes, 1, read_only);
        if (result != 0)
            break;
    }
    print("# locks taken ");
    print_decimal(static_cast<int64_t>(taken));
    print("\n");
    const uint64_t refused = first + 2 * taken * page_bytes;
    const uint64_t last = refused - 2 * page_bytes;
    print_call("many_locks", result, result == -CASEMATE_E2BIG && taken >= 1000);
    expect_call("when_full_again", 0, first, 1, lock_attributes());
    expect_call("when_full_last_again", 0, last, 1, lock_attributes());
    expect_call("when_full_another", -CASEMATE_E2BIG, refused + 2 * page_bytes, 1, lock_attributes());
    expect_call("when_full_lower_nothing", -CASEMATE_EFAULT, ram_end(), 1, lock_attributes());
    expect_writable("when_full_refused_page", refused, true);
    expect_writable("when_full_page_between", first + page_bytes, true);
    expect_writable("when_full_first", first, false);
    expect_writable("when_full_last", last, false);
    // The page between two locks joins them, so it needs no room and makes some.
    expect_call("when_full_joining", 0, first + page_bytes, 1, lock_attributes());
    expect_writable("when_full_joined", first + page_bytes, false);
    expect_call("when_room_again", 0, refused, 1, lock_attributes());
    expect_call("when_full_again_another", -CASEMATE_E2BIG, refused + 2 * page_bytes, 1, lock_attributes());
    expect_call("when_full_too_many_pieces", -CASEMATE_E2BIG, first, 2 * taken, lock_attributes());
    expect_writable("when_full_no_piece_taken", last - page_bytes, true);
    if (wanted(17, "when_full_one_range")) {
        // By as many pieces at once as a call may have.
        constexpr uint64_t step = 2 * CASEMATE_LOCK_MAX_PIECES;
        int64_t joined = 0;
        for (uint64_t at = 0; at < 2 * taken && joined == 0; at += step)
            joined = lock(first + at * page_bytes, 2 * taken - at < step ? 2 * taken - at : step, read_only);
        print_call("when_full_one_range", joined, joined == 0);
    }
    expect_call("when_room_another", 0, refused + 2 * page_bytes, 1, lock_attributes());
    if (wanted(17, "when_full_features")) {
        const int64_t now = features();
        print_call("when_full_features", now, now > 0);
    }
}

} // namespace payload
