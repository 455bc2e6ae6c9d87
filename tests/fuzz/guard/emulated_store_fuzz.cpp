// SPDX-License-Identifier: Apache-2.0
// find_store_origin() on any code before and behind RIP, registers, tables, address and data: what it names
// stores exactly that, when it is decoded again where it is said to be.
#include "../expect.hpp"
#include "guard/emulated_store.hpp"
#include "guard/page_walk.hpp"

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <fuzzer/FuzzedDataProvider.h>

namespace casemate {
namespace {

constexpr uint64_t ram_bytes = 4_MiB;
constexpr uint64_t code_page = 0x10000;
constexpr uint64_t target_page = 0x20000;

// Near the target, where a page ends, or anywhere.
uint64_t number(FuzzedDataProvider& input) {
    switch (input.ConsumeIntegralInRange(0, 7)) {
    case 0:
        return input.ConsumeIntegral<uint64_t>();
    case 1:
        return input.ConsumeIntegralInRange<uint64_t>(0, 64);
    case 2:
        return target_page - input.ConsumeIntegralInRange<uint64_t>(0, 64);
    default:
        return target_page + input.ConsumeIntegralInRange<uint64_t>(0, 4) * 8;
    }
}

CpuState any_state(FuzzedDataProvider& input) {
    CpuState state;
    kvm_regs& r = state.registers;
    for (auto* field : {&r.rax, &r.rbx, &r.rcx, &r.rdx, &r.rsi, &r.rdi, &r.rsp, &r.rbp, &r.r8, &r.r9, &r.r10,
                        &r.r11, &r.r12, &r.r13, &r.r14, &r.r15})
        *field = number(input);
    r.rflags = input.ConsumeIntegral<uint32_t>();
    // Also where a part of the code is in the page before, and at the ends of the address space.
    r.rip = input.ConsumeIntegralInRange(0, 15) == 0
                ? input.ConsumeIntegralInRange<uint64_t>(0, 30) - 15
                : code_page + input.ConsumeIntegralInRange<uint64_t>(0, 40);
    state.system.fs.base = number(input);
    state.system.gs.base = number(input);
    state.system.cs.l = input.ConsumeIntegralInRange(0, 15) != 0 ? 1 : 0;
    state.system.cr0 = 1U << 31U | 1U;
    state.system.cr3 = 0x1000;
    state.system.cr4 = 1U << 5U;
    state.system.efer = 1U << 10U | 1U << 8U;
    return state;
}

// 4 KiB pages as they are, some of them changed at random.
void fill_tables(const GuestMemory& memory, FuzzedDataProvider& input) {
    expect(memory.store({0x1000}, uint64_t{0x2007}).has_value());
    expect(memory.store({0x2000}, uint64_t{0x3007}).has_value());
    expect(memory.store({0x3000}, uint64_t{0x4007}).has_value());
    for (uint64_t page = 0; page < 512; ++page)
        expect(memory.store({0x4000 + 8 * page}, page << 12U | 7U).has_value());
    for (auto changes = input.ConsumeIntegralInRange<unsigned>(0, 3); changes != 0; --changes)
        expect(memory
                   .store({0x4000 + 8 * input.ConsumeIntegralInRange<uint64_t>(0, 40)},
                          input.ConsumeIntegralInRange<uint64_t>(0, 40) << 12U | 7U)
                   .has_value());
}

} // namespace
} // namespace casemate

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size);
extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
    using namespace casemate;
    static const GuestMemory memory = GuestMemory::create(ram_bytes).value();
    static const Decoder decoder;
    FuzzedDataProvider input(data, size);
    const CpuState state = any_state(input);
    fill_tables(memory, input);
    const GuestPhysical address{number(input)};
    auto stored = input.ConsumeBytes<std::byte>(input.ConsumeIntegralInRange<size_t>(0, 9));
    // As often the low bytes of a register.
    if (input.ConsumeBool() && stored.size() <= 8)
        std::ranges::copy(std::as_bytes(std::span(&state.registers.rax, 1)).first(stored.size()),
                          stored.begin());
    const auto code = input.ConsumeRemainingBytes<std::byte>();
    expect(memory.clear(GuestRange::of({code_page - page_bytes}, 2 * page_bytes)).has_value());
    expect(
        memory.write({code_page - 16}, std::span(code).first(std::min<size_t>(code.size(), 64))).has_value());

    const auto found = find_store_origin(memory, state, decoder, address, stored);
    if (!found)
        return 0;
    expect(uses_64_bit_code(state) && !stored.empty() && stored.size() <= 8);
    CpuState before = state;
    before.registers.rip = found->rip;
    const auto bytes = fetch_instruction(memory, before);
    const auto decoded = decoder.decode(bytes, before);
    expect(decoded && found->rip + decoded->length == state.registers.rip);
    expect(decoded->text == found->instruction && decoded->length == found->code.size());
    expect(std::memcmp(bytes.data(), found->code.data(), found->code.size()) == 0);
    expect(decoded->effect == StoreEffect::repeatable && decoded->stores.size() == 1);
    const StoreOperand& store = decoded->stores.front();
    expect(!store.is_run && store.bytes == stored.size() && store.address == found->linear);
    const auto translation = translate(memory, state.system, store.address);
    expect(translation && translation->address == address);
    uint64_t value = 0;
    std::memcpy(&value, stored.data(), stored.size());
    expect(!store.value || *store.value == value);
    return 0;
}
