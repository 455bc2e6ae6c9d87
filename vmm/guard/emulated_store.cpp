// SPDX-License-Identifier: Apache-2.0
#include "guard/emulated_store.hpp"

#include "guard/page_walk.hpp"

#include <algorithm>
#include <cstring>
#include <utility>

namespace casemate {
namespace {

class OriginSearch {
public:
    OriginSearch(const GuestMemory& memory, const CpuState& state, const Decoder& decoder,
                 GuestPhysical address, std::span<const std::byte> data)
        : m_memory(memory)
        , m_state(state)
        , m_decoder(decoder)
        , m_address(address)
        , m_bytes(data.size()) {
        std::memcpy(&m_value, data.data(), std::min(data.size(), sizeof(m_value)));
    }

    std::optional<StoreOrigin> find() {
        if (!uses_64_bit_code(m_state) || may_be_pushed() || may_be_of_string_under_way())
            return std::nullopt;
        const std::vector<std::byte> code = code_before_rip();
        std::optional<StoreOrigin> found;
        for (size_t length = 1; length <= code.size(); ++length) {
            const auto candidate = std::span(code).last(length);
            CpuState before = m_state;
            before.registers.rip -= length;
            switch (judge(candidate, before)) {
            case Verdict::no:
                continue;
            case Verdict::possible:
                return std::nullopt;
            case Verdict::fits:
                if (found)
                    return std::nullopt;
                found = make_origin(candidate, before);
            }
        }
        return found;
    }

private:
    enum class Verdict { no, possible, fits };

    bool leads_to(uint64_t linear, GuestPhysical address) const {
        const auto translation = translate(m_memory, m_state.system, {linear});
        return translation && translation->address == address;
    }

    // Whether a store of these bytes is handed over as what was stored, or as that among others: KVM takes
    // each page by itself, and there eight bytes at a time (linux v6.12 arch/x86/kvm/x86.c,
    // emulator_read_write(), complete_emulated_mmio()).
    bool covers(uint64_t linear, uint64_t bytes) const {
        constexpr uint64_t most = 8;
        for (uint64_t part = 0; bytes != 0; linear += part, bytes -= part) {
            part = std::min(bytes, page_bytes - linear % page_bytes);
            const uint64_t skip = (m_address.value - linear) % page_bytes;
            if (skip < part && skip % most == 0 && m_bytes == std::min(most, part - skip) &&
                leads_to(linear + skip, m_address))
                return true;
        }
        return false;
    }

    // CALL leaves nothing at RIP to recognise it by. A far one pushes two words.
    bool may_be_pushed() const {
        constexpr uint64_t word = 8;
        for (const uint64_t linear : {m_state.registers.rsp, m_state.registers.rsp + word})
            for (uint64_t byte = 0; byte < word; ++byte)
                if ((linear + byte) % page_bytes == m_address.value % page_bytes &&
                    leads_to(linear + byte, m_address))
                    return true;
        return false;
    }

    // Of the element that was stored last, the address register has gone on by it. Where it may have wrapped
    // at 32 bits every address is possible.
    bool may_be_of_string(std::span<const std::byte> code, CpuState state) const {
        state.registers.rcx = 1; // one element's operand; none is left, or any number
        const auto decoded = m_decoder.decode(code, state);
        if (!decoded || decoded->effect != StoreEffect::string || decoded->stores.empty())
            return false;
        const StoreOperand& next = decoded->stores.front();
        const uint64_t low = next.address.value % 4_GiB;
        return low < next.bytes || low > 4_GiB - 1 - 2 * next.bytes ||
               covers(next.address.value - next.bytes, next.bytes) ||
               covers(next.address.value + next.bytes, next.bytes);
    }
    bool may_be_of_string_under_way() const {
        return may_be_of_string(fetch_instruction(m_memory, m_state), m_state);
    }

    // Up to 15 bytes that end at RIP; fewer when the page before is not mapped.
    std::vector<std::byte> code_before_rip() const {
        const uint64_t rip = m_state.registers.rip;
        for (const uint64_t length : {uint64_t{longest_instruction}, (rip - 1) % page_bytes + 1}) {
            if (length > longest_instruction)
                break;
            CpuState before = m_state;
            before.registers.rip -= length;
            std::vector<std::byte> code = fetch_instruction(m_memory, before);
            if (code.size() >= length) {
                code.resize(length);
                return code;
            }
        }
        return {};
    }

    Verdict judge(std::span<const std::byte> code, const CpuState& before) const {
        const auto decoded = m_decoder.decode(code, before);
        if (!decoded || decoded->length != code.size())
            return Verdict::no;
        if (decoded->effect == StoreEffect::string)
            return may_be_of_string(code, before) ? Verdict::possible : Verdict::no;
        if (decoded->stores.empty() || decoded->effect == StoreEffect::push) // as may_be_pushed() found
            return Verdict::no;
        if (decoded->effect == StoreEffect::unknown)
            return std::ranges::any_of(decoded->stores,
                                       [this](const StoreOperand& store) { return store.bytes >= m_bytes; })
                       ? Verdict::possible
                       : Verdict::no;
        if (std::ranges::none_of(decoded->stores, [this](const StoreOperand& store) {
                return covers(store.address.value, store.bytes);
            }))
            return Verdict::no;
        const StoreOperand& store = decoded->stores.front();
        if (decoded->effect != StoreEffect::repeatable || decoded->stores.size() != 1 ||
            store.bytes != m_bytes)
            return Verdict::possible;
        return !store.value || *store.value == m_value ? Verdict::fits : Verdict::no;
    }

    StoreOrigin make_origin(std::span<const std::byte> code, const CpuState& before) const {
        auto decoded = m_decoder.decode(code, before).value_or(DecodedInstruction{});
        return {.rip = before.registers.rip,
                .linear = decoded.stores.front().address,
                .instruction = std::move(decoded.text),
                .code = {code.begin(), code.end()}};
    }

    const GuestMemory& m_memory;
    const CpuState& m_state;
    const Decoder& m_decoder;
    GuestPhysical m_address;
    uint64_t m_bytes;
    uint64_t m_value = 0;
};

} // namespace

std::optional<StoreOrigin> find_store_origin(const GuestMemory& memory, const CpuState& state,
                                             const Decoder& decoder, GuestPhysical address,
                                             std::span<const std::byte> data) {
    if (data.empty() || data.size() > sizeof(uint64_t) ||
        address.value % page_bytes + data.size() > page_bytes)
        return std::nullopt;
    return OriginSearch(memory, state, decoder, address, data).find();
}

} // namespace casemate
