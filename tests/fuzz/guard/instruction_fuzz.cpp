// SPDX-License-Identifier: Apache-2.0
// attribute_store() on any bytes at RIP, registers and page tables: it ends soon, and a hit is what it
// claims.
#include "../expect.hpp"
#include "guard/attribution.hpp"
#include "guard/page_walk.hpp"

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <fuzzer/FuzzedDataProvider.h>

namespace casemate {
namespace {

constexpr uint64_t ram_bytes = 1_MiB;
constexpr uint64_t table_pages = 8; // from address 0
constexpr uint64_t code_page = 0x10000;
constexpr uint64_t code_linear = 0x10000;
const GuestRange locked = GuestRange::of({0x20000}, 0x20000);
const GuestRange locked_harder = GuestRange::of({0x48000}, 0x1000);

// Often near what the tables map, and near the ends.
uint64_t number(FuzzedDataProvider& input) {
    switch (input.ConsumeIntegralInRange(0, 7)) {
    case 0:
        return input.ConsumeIntegral<uint64_t>();
    case 1:
        return 0 - input.ConsumeIntegralInRange<uint64_t>(0, 64);
    case 2:
        return 0xffffffff - input.ConsumeIntegralInRange<uint64_t>(0, 64);
    case 3:
        return input.ConsumeIntegralInRange<uint64_t>(0, 64);
    default:
        return input.ConsumeIntegralInRange<uint64_t>(0, ram_bytes);
    }
}

CpuState any_state(FuzzedDataProvider& input) {
    CpuState state;
    kvm_regs& r = state.registers;
    for (auto* field : {&r.rax, &r.rbx, &r.rcx, &r.rdx, &r.rsi, &r.rdi, &r.rsp, &r.rbp, &r.r8, &r.r9, &r.r10,
                        &r.r11, &r.r12, &r.r13, &r.r14, &r.r15})
        *field = number(input);
    r.rflags = input.ConsumeIntegral<uint32_t>() & (input.ConsumeBool() ? ~0U : ~(1U << 17U));
    r.rip = input.ConsumeIntegralInRange(0, 31) == 0 ? number(input) : code_linear;
    kvm_sregs& s = state.system;
    for (auto* segment : {&s.cs, &s.ds, &s.es, &s.fs, &s.gs, &s.ss}) {
        if (input.ConsumeIntegralInRange(0, 7) == 0)
            segment->base = number(input);
        segment->db = input.ConsumeBool() ? 1 : 0;
    }
    s.cs.l = input.ConsumeBool() ? 1 : 0;
    s.cr0 = (input.ConsumeBool() ? 1U : 0U) | (input.ConsumeBool() ? 1U << 31U : 0U);
    s.cr4 = (input.ConsumeBool() ? 1U << 4U : 0U) | (input.ConsumeBool() ? 1U << 5U : 0U) |
            (input.ConsumeBool() ? 1U << 12U : 0U);
    s.efer = (input.ConsumeBool() ? 1U << 10U : 0U) | (input.ConsumeBool() ? 1U << 11U : 0U);
    s.cr3 = input.ConsumeIntegralInRange(0, 15) == 0 ? number(input) : 0;
    return state;
}

// Identity maps for any mode, then changed at random.
void fill_tables(const GuestMemory& memory, const kvm_sregs& state, FuzzedDataProvider& input) {
    const bool long_mode = (state.efer & 1U << 10U) != 0;
    const bool pae = (state.cr4 & 1U << 5U) != 0;
    const uint64_t flags = long_mode || pae ? 7 : 0;
    if (flags == 0) {
        expect(memory.store({0}, uint32_t{0x1007}).has_value());
        for (uint32_t page = 0; page < ram_bytes / page_bytes; ++page)
            expect(memory.store({0x1000 + 4 * page}, page << 12U | 7U).has_value());
    } else {
        const unsigned levels = !long_mode ? 3 : (state.cr4 & 1U << 12U) != 0 ? 5 : 4;
        for (unsigned level = 0; level + 1 < levels; ++level) {
            const uint64_t next = (level + 1) * page_bytes | (long_mode || level != 0 ? 7 : 1);
            expect(memory.store({level * page_bytes}, next).has_value());
        }
        for (uint64_t page = 0; page < ram_bytes / page_bytes; ++page)
            expect(memory.store({(levels - 1) * page_bytes + 8 * page}, page << 12U | 7U).has_value());
    }
    const auto changes = input.ConsumeIntegralInRange<unsigned>(0, 6);
    for (unsigned i = 0; i < changes; ++i) {
        const uint64_t table = input.ConsumeIntegralInRange<uint64_t>(0, table_pages - 1) * page_bytes;
        const uint64_t place = table + 8 * input.ConsumeIntegralInRange<uint64_t>(0, 255);
        expect(memory.store({place}, input.ConsumeIntegral<uint64_t>()).has_value());
    }
}

} // namespace
} // namespace casemate

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size);
extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
    using namespace casemate;
    static const GuestMemory memory = GuestMemory::create(ram_bytes).value();
    static const Decoder decoder;
    expect(memory.clear(GuestRange::of({0}, table_pages * page_bytes)).has_value());
    FuzzedDataProvider input(data, size);
    const auto code = input.ConsumeBytes<std::byte>(longest_instruction);
    const CpuState state = any_state(input);
    fill_tables(memory, state.system, input);
    expect(memory.clear(GuestRange::of({code_page}, page_bytes)).has_value());
    expect(memory.write({code_page}, code).has_value());

    size_t lookups = 0;
    const auto found =
        attribute_store(memory, state, decoder, [&](const GuestRange& range) -> std::optional<Lock> {
            ++lookups;
            expect(!range.empty() && range.end() > range.start().value);
            if (range.overlaps(locked_harder))
                return Lock{.range = locked_harder, .policy = LockPolicy::die_on_write};
            if (range.overlaps(locked))
                return Lock{.range = locked};
            return std::nullopt;
        });
    expect(lookups <= max_page_walks);
    expect(found.code.size() <= longest_instruction);
    expect(found.instruction.size() < 256);
    expect(found.hit.has_value() == found.reason.empty());
    if (found.hit) {
        const StoreHit& hit = *found.hit;
        expect(!found.instruction.empty() && !found.code.empty());
        const auto byte = GuestRange::of(hit.address, 1);
        expect(memory.is_ram(byte) && hit.lock.range.contains(byte) && hit.bytes != 0);
        const auto translation = translate(memory, state.system, hit.linear);
        expect(translation && translation->address == hit.address);
    }

    // The decoder alone, on bytes that were not fetched.
    if (const auto decoded = decoder.decode(code, state)) {
        expect(decoded->length >= 1 && decoded->length <= code.size());
        expect(decoded->stores.size() <= 2);
        for (const StoreOperand& store : decoded->stores) {
            expect(store.bytes != 0);
            if (store.bytes < 8 && store.value)
                expect(*store.value >> (8 * store.bytes) == 0);
            if (store.is_run)
                expect(store.address.value + (store.bytes - 1) >= store.address.value);
            if (!uses_64_bit_code(state))
                expect(store.address.value < 4_GiB);
        }
    }
    return 0;
}
