// SPDX-License-Identifier: Apache-2.0
#include "attack.hpp"

namespace payload {
namespace {

constexpr uint64_t first_free_page = 0x1000000;

Policy chosen_policy = Policy::none;
uint64_t next_page = first_free_page;
uint64_t attempts;
uint64_t first_attempt;
uint64_t attempt_count;

[[noreturn]] void give_up(const char* why) {
    print("not ok ");
    print(why);
    print("\n");
    power_off();
}

void print_head(const char* word, unsigned number, const char* form) {
    print(word);
    print_decimal(number);
    print(" ");
    print(form);
}

void print_result(unsigned number, const char* form, const char* outcome, const char* detail) {
    print_head("attack ", number, form);
    print(" ");
    print(outcome);
    if (*detail != 0) {
        print(" ");
        print(detail);
    }
    print("\n");
}

const char* name_of(Outcome outcome) {
    switch (outcome) {
    case Outcome::changed:
        return "changed";
    case Outcome::fault:
        return "fault";
    case Outcome::unchanged:
        return "unchanged";
    case Outcome::misreported:
        return "misreported";
    default:
        return "wrong";
    }
}

constexpr uint8_t fill_byte(uint64_t at, uint8_t seed) {
    return static_cast<uint8_t>(at * 0x5b + seed);
}

} // namespace

void start_attacks() {
    enable_extensions();
    if (command_line_is("policy", "read_only"))
        chosen_policy = Policy::read_only;
    else if (command_line_is("policy", "die_on_write"))
        chosen_policy = Policy::die_on_write;
    else if (command_line_names("policy") && !command_line_is("policy", "none"))
        give_up("policy= takes none, read_only or die_on_write");
    first_attempt = command_line_number("from", 0);
    attempt_count = command_line_number("count", ~uint64_t{0});
    if (chosen_policy == Policy::none)
        return;
    if (!find_casemate())
        give_up("no CPUID leaf of Casemate, or another ABI version");
    const int64_t bits = features();
    if (bits < 0 || (static_cast<uint64_t>(bits) & CASEMATE_FEATURE_LOCKS) == 0)
        give_up("the monitor offers no locks");
}

Policy policy() {
    return chosen_policy;
}

void lock_pages(uint64_t address, uint64_t pages) {
    if (chosen_policy == Policy::none)
        return;
    const uint64_t asked =
        chosen_policy == Policy::read_only ? CASEMATE_POLICY_READ_ONLY : CASEMATE_POLICY_DIE_ON_WRITE;
    const int64_t result = lock(address, pages, asked);
    if (result == 0)
        return;
    print("not ok lock of ");
    print_hex(address);
    print(" pages ");
    print_decimal(static_cast<int64_t>(pages));
    print(" result ");
    print_decimal(result);
    print("\n");
    power_off();
}

bool wanted(unsigned number, const char* form) {
    if (command_line_names("only") && !command_line_is("only", form))
        return false;
    const uint64_t index = attempts++;
    if (index < first_attempt || index - first_attempt >= attempt_count)
        return false;
    print_head("try ", number, form);
    print("\n");
    return true;
}

void print_outcome(unsigned number, const char* form, Outcome outcome, const char* detail) {
    print_result(number, form, name_of(outcome), detail);
}

void print_skipped(unsigned number, const char* form, const char* reason) {
    print_result(number, form, "skipped", reason);
}

void print_other(unsigned number, const char* form, const char* outcome) {
    print_result(number, form, outcome, "");
}

Outcome judge(bool changed, const Caught& caught, uint64_t site) {
    if (changed)
        return Outcome::changed;
    if (!caught.happened)
        return Outcome::unchanged;
    if (caught.vector == vector_general_protection && caught.error == 0 && caught.rip == site)
        return Outcome::fault;
    return Outcome::misreported;
}

void print_judged(unsigned number, const char* form, bool changed, const Caught& caught, uint64_t site,
                  const char* detail) {
    const Outcome outcome = judge(changed, caught, site);
    if (outcome != Outcome::misreported)
        return print_outcome(number, form, outcome, detail);
    print_head("attack ", number, form);
    print(" misreported vector=");
    print_decimal(static_cast<int64_t>(caught.vector));
    print(" error=");
    print_hex(caught.error);
    print(" rip=");
    print_hex(caught.rip);
    print(" instruction=");
    print_hex(site);
    print(" ");
    print(detail);
    print("\n");
}

void finish_attacks() {
    print("payload done\n");
    power_off();
}

uint64_t take_pages(uint64_t count) {
    const uint64_t address = next_page;
    next_page += count * page_bytes;
    if (next_page > ram_end())
        give_up("not enough RAM: give the machine more with --memory");
    return address;
}

void fill(uint64_t address, uint64_t bytes, uint8_t seed) {
    for (uint64_t i = 0; i < bytes; ++i)
        store<uint8_t>(address + i, fill_byte(i, seed));
}

bool is_filled(uint64_t address, uint64_t bytes, uint8_t seed) {
    for (uint64_t i = 0; i < bytes; ++i)
        if (load<uint8_t>(address + i) != fill_byte(i, seed))
            return false;
    return true;
}

} // namespace payload
