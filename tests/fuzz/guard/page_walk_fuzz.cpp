// SPDX-License-Identifier: Apache-2.0
// translate() on any tables, control registers and addresses: what it finds must follow from entries that are
// really there.
#include "../expect.hpp"
#include "guard/page_walk.hpp"

#include <cstdint>
#include <fuzzer/FuzzedDataProvider.h>

namespace casemate {
namespace {

constexpr uint64_t ram_bytes = 1_MiB;
constexpr uint64_t table_pages = 8; // from address 0: entries often lead to each other

void check(const GuestMemory& memory, const kvm_sregs& state, uint64_t linear) {
    const auto found = translate(memory, state, {linear});
    if (!found)
        return;
    expect(found->page_bytes == 4_KiB || found->page_bytes == 2_MiB || found->page_bytes == 4_MiB ||
           found->page_bytes == 1_GiB || found->page_bytes == 4_GiB);
    expect(found->address.value < 1ULL << 52U);
    const uint64_t mask = found->page_bytes - 1;
    expect((found->address.value & mask) == (linear & mask));
    // All of a page is mapped alike.
    const auto last = translate(memory, state, {linear | mask});
    expect(last && last->page_bytes == found->page_bytes &&
           last->address.value == (found->address.value | mask));
    expect(last->writable == found->writable && last->user == found->user &&
           last->no_execute == found->no_execute);
    if ((state.cr0 & 1ULL << 31U) == 0)
        expect(found->address.value == linear && found->page_bytes == 4_GiB);
}

} // namespace
} // namespace casemate

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size);
extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
    using namespace casemate;
    static const GuestMemory memory = GuestMemory::create(ram_bytes).value();
    expect(memory.clear(GuestRange::of({0}, table_pages * page_bytes)).has_value());
    FuzzedDataProvider input(data, size);
    kvm_sregs state{};
    state.cr0 = input.ConsumeIntegralInRange(0, 7) == 0 ? 0x11 : 0x80000011;
    state.cr4 = (input.ConsumeBool() ? 1U << 4U : 0U) | (input.ConsumeBool() ? 1U << 5U : 0U) |
                (input.ConsumeBool() ? 1U << 12U : 0U);
    state.efer = (input.ConsumeBool() ? 1U << 10U : 0U) | (input.ConsumeBool() ? 1U << 11U : 0U);
    state.cr3 = input.ConsumeBool() ? input.ConsumeIntegralInRange<uint64_t>(0, table_pages) * page_bytes
                                    : input.ConsumeIntegral<uint64_t>();
    const auto linear = input.ConsumeIntegral<uint64_t>();
    while (input.remaining_bytes() > 8) {
        const uint64_t place = 8 * input.ConsumeIntegralInRange<uint64_t>(0, table_pages * 512 - 1);
        uint64_t entry = input.ConsumeIntegral<uint64_t>();
        // Mostly entries that lead on.
        if (input.ConsumeIntegralInRange(0, 3) != 0)
            entry = (entry & 0x80000000000000e7) | 1 | (entry >> 8U & (table_pages - 1)) * page_bytes;
        expect(memory.store({place}, entry).has_value());
        // Where the walk of `linear` will look.
        if (input.ConsumeBool()) {
            const unsigned shift = 12 + 9 * input.ConsumeIntegralInRange<unsigned>(0, 4);
            const uint64_t near = (place & ~0xfffULL) + 8 * (linear >> shift & 511U);
            expect(memory.store({near}, entry).has_value());
        }
    }
    check(memory, state, linear);
    check(memory, state, linear & 0xffffffff);
    // NOLINTNEXTLINE(bugprone-narrowing-conversions): sign extension is what it is for.
    check(memory, state, static_cast<uint64_t>(static_cast<int64_t>(linear << 16U) >> 16U));
    return 0;
}
