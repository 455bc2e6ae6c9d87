// SPDX-License-Identifier: Apache-2.0
// Every form of store (store_forms.py) at one page: attack 10, and 34 for those that decoders may not know.
// Without a lock each must change exactly the bytes it should, with one none.
#include "attack.hpp"

extern "C" {
// One entry of store_forms.py's table.
struct StoreForm {
    const char* name;
    const char* feature; // of known_features; "" when every x86-64 CPU has it
    void (*routine)();
    uint64_t instruction; // address of the store in the routine
    const uint8_t* expected;
    uint32_t attack;
    int32_t offset; // of `expected` from the target
    uint32_t bytes;
    int32_t span_offset; // where bytes may change to what nobody can tell
    uint32_t span_bytes;
    uint32_t flags;
};
extern const StoreForm store_forms[];
extern const StoreForm store_forms_end[];
extern uint8_t form_pages[];
extern uint8_t form_target[];
uint32_t form_xcr0;
void run_form(void (*routine)());
}

namespace payload {
namespace {

constexpr uint32_t writes_same_value = 1; // what it stores is what was there
constexpr uint32_t may_lose_xcr0 = 2;
constexpr uint64_t pages_bytes = 3 * page_bytes;

struct Feature {
    const char* name;
    uint32_t leaf;
    uint32_t subleaf;
    uint32_t Cpuid::* word;
    unsigned bit;
    uint64_t xcr0;
};
constexpr Feature known_features[] = {
    {"cx16", 1, 0, &Cpuid::ecx, 13, 0},
    {"sse4_1", 1, 0, &Cpuid::ecx, 19, 0},
    {"movbe", 1, 0, &Cpuid::ecx, 22, 0},
    {"xsave", 1, 0, &Cpuid::ecx, 26, 3},
    {"avx", 1, 0, &Cpuid::ecx, 28, 7},
    {"f16c", 1, 0, &Cpuid::ecx, 29, 7},
    {"avx2", 7, 0, &Cpuid::ebx, 5, 7},
    {"avx512f", 7, 0, &Cpuid::ebx, 16, 0xe7},
    {"cet_ss", 7, 0, &Cpuid::ecx, 7, 0},
    {"movdiri", 7, 0, &Cpuid::ecx, 27, 0},
    {"movdir64b", 7, 0, &Cpuid::ecx, 28, 0},
    {"enqcmd", 7, 0, &Cpuid::ecx, 29, 0},
    {"amx_tile", 7, 0, &Cpuid::edx, 24, 0x60000},
    {"xsaveopt", 0xd, 1, &Cpuid::eax, 0, 3},
    {"xsavec", 0xd, 1, &Cpuid::eax, 1, 3},
    {"xsaves", 0xd, 1, &Cpuid::eax, 3, 3},
    {"sse4a", 0x80000001, 0, &Cpuid::ecx, 6, 0},
    {"clzero", 0x80000008, 0, &Cpuid::ebx, 0, 0},
};

bool has(const char* name) {
    if (*name == 0)
        return true;
    for (const Feature& feature : known_features)
        if (equal(feature.name, name)) {
            const bool present = cpuid(feature.leaf & 0x80000000).eax >= feature.leaf &&
                                 (cpuid(feature.leaf, feature.subleaf).*feature.word >> feature.bit & 1) != 0;
            return present && (form_xcr0 & feature.xcr0) == feature.xcr0;
        }
    return false;
}

constexpr uint8_t pattern(int64_t at) {
    return static_cast<uint8_t>(at * 0x5b + 0x9d); // as in store_forms.py
}

alignas(8) uint8_t before[pages_bytes];

void restore_pages() {
    for (uint64_t i = 0; i < pages_bytes; ++i)
        form_pages[i] = pattern(static_cast<int64_t>(i));
}

bool pages_differ(const uint8_t* from) {
    for (uint64_t i = 0; i < pages_bytes; i += 8)
        if (load<uint64_t>(reinterpret_cast<uint64_t>(form_pages) + i) !=
            load<uint64_t>(reinterpret_cast<uint64_t>(from) + i))
            return true;
    return false;
}

// Whether the pages are as the form should leave pages that nobody protects; else prints which byte is not.
bool did_as_told(const StoreForm& form) {
    bool span_changed = form.span_bytes == 0;
    for (uint64_t i = 0; i < pages_bytes; ++i) {
        const int64_t at = static_cast<int64_t>(i) - (form_target - form_pages);
        const uint8_t now = load<uint8_t>(reinterpret_cast<uint64_t>(form_pages) + i);
        uint8_t should = pattern(static_cast<int64_t>(i));
        if (at >= form.offset && at - form.offset < form.bytes)
            should = form.expected[at - form.offset];
        else if (at >= form.span_offset && at - form.span_offset < form.span_bytes) {
            span_changed |= now != should;
            continue;
        }
        if (now == should)
            continue;
        print("# ");
        print(form.name);
        print(" at ");
        print_decimal(at);
        print(" is ");
        print_hex(now);
        print(" should be ");
        print_hex(should);
        print("\n");
        return false;
    }
    return span_changed || form.bytes != 0;
}

Caught run(const StoreForm& form) {
    Caught caught;
    // An exit between XSETBV and the store lets some hosts forget XCR0.
    for (unsigned tries = 0; tries < 50; ++tries) {
        caught = catch_exceptions([&] { run_form(form.routine); });
        asm volatile("fninit");
        if ((form.flags & may_lose_xcr0) == 0 || !caught.happened || caught.vector != vector_invalid_opcode)
            break;
    }
    return caught;
}

void attempt(const StoreForm& form) {
    if (!wanted(form.attack, form.name))
        return;
    if (!has(form.feature))
        return print_skipped(form.attack, form.name, form.feature);
    if (policy() == Policy::none)
        restore_pages();
    memcpy(before, form_pages, pages_bytes);
    const Caught caught = run(form);
    const bool changed = pages_differ(before);
    if (policy() != Policy::none || caught.happened) {
        print_judged(form.attack, form.name, changed, caught, form.instruction);
        return;
    }
    if (!did_as_told(form))
        return print_outcome(form.attack, form.name, Outcome::wrong);
    if ((form.flags & writes_same_value) != 0)
        return print_outcome(form.attack, form.name, Outcome::unchanged, "writes_same_value");
    print_outcome(form.attack, form.name, changed ? Outcome::changed : Outcome::unchanged);
}

} // namespace
} // namespace payload

void payload_main() {
    using namespace payload;
    start_attacks();
    write_cr0(read_cr0() | cr0_wp);
    form_xcr0 = static_cast<uint32_t>(supported_xcr0());
    restore_pages();
    lock_pages(reinterpret_cast<uint64_t>(form_pages) + page_bytes, 1);
    for (const StoreForm* form = store_forms; form != store_forms_end; ++form)
        attempt(*form);
    finish_attacks();
}
