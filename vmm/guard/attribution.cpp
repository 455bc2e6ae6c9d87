// SPDX-License-Identifier: Apache-2.0
#include "guard/attribution.hpp"

#include "guard/page_walk.hpp"

#include <algorithm>
#include <fmt/core.h>

namespace casemate {

namespace {

class Search {
public:
    Search(const GuestMemory& memory, const CpuState& state, const LockLookup& find_lock)
        : m_memory(memory)
        , m_state(state)
        , m_find_lock(find_lock)
        , m_linear_mask(uses_64_bit_code(state) ? ~0ULL : 4_GiB - 1) {}

    const std::optional<StoreHit>& hit() const { return m_hit; }

    // In the order of storing, part by part as the guest maps them.
    void look_at(const StoreOperand& store) {
        uint64_t left = store.bytes;
        uint64_t next = store.downward ? store.address.value + (store.bytes - 1) : store.address.value;
        while (left != 0) {
            next &= m_linear_mask;
            if (m_walks == max_page_walks) {
                m_cut_short = true;
                return;
            }
            ++m_walks;
            const auto translation = translate(m_memory, m_state.system, {next});
            const uint64_t offset_mask = (translation ? translation->page_bytes : page_bytes) - 1;
            const uint64_t offset = next & offset_mask;
            const uint64_t part = std::min(left - 1, store.downward ? offset : offset_mask - offset) + 1;
            if (translation)
                look_at_part(store, *translation, next, part);
            else if (!m_unmapped)
                m_unmapped = GuestLinear{next};
            left -= part;
            next = store.downward ? next - part : next + part;
        }
    }

    std::string why_not() const {
        if (m_unmapped)
            return fmt::format("its store to {} is not mapped", to_string(*m_unmapped));
        if (m_cut_short)
            return fmt::format("the first {} pages it stores to are not locked", max_page_walks);
        return "none of its stores is to locked memory";
    }

private:
    // `part` bytes from, or down from, the translated byte: contiguous in guest-physical memory.
    void look_at_part(const StoreOperand& store, const Translation& translation, uint64_t linear,
                      uint64_t part) {
        const uint64_t nearest = translation.address.value;
        const uint64_t lowest = store.downward ? nearest - (part - 1) : nearest;
        const auto range = GuestRange::from_guest(GuestValue(lowest), GuestValue(part));
        if (!range)
            return;
        const auto lock = m_find_lock(*range);
        if (!lock || (m_hit && m_hit->lock.policy >= lock->policy))
            return;
        const uint64_t first = store.downward ? std::min(nearest, lock->range.end() - 1)
                                              : std::max(nearest, lock->range.start().value);
        // Wraps back for a byte below.
        m_hit = StoreHit{.lock = *lock,
                         .address = {first},
                         .linear = {linear + (first - nearest)},
                         .bytes = store.bytes,
                         .value = store.value};
    }

    const GuestMemory& m_memory;
    const CpuState& m_state;
    const LockLookup& m_find_lock;
    uint64_t m_linear_mask;
    std::optional<StoreHit> m_hit;
    std::optional<GuestLinear> m_unmapped;
    size_t m_walks = 0;
    bool m_cut_short = false;
};

} // namespace

Attribution attribute_store(const GuestMemory& memory, const CpuState& state, const Decoder& decoder,
                            const LockLookup& find_lock) {
    Attribution result;
    result.code = fetch_instruction(memory, state);
    if (result.code.empty()) {
        result.reason = "the instruction cannot be fetched: CS:RIP is not mapped to RAM";
        return result;
    }
    auto decoded = decoder.decode(result.code, state);
    if (!decoded) {
        result.reason = "the decoder does not know the instruction";
        return result;
    }
    result.code.resize(decoded->length);
    result.instruction = std::move(decoded->text);
    result.marks_descriptor = decoded->marks_descriptor;
    if (decoded->stores.empty()) {
        result.reason =
            "the instruction stores nothing itself; an event's frame or a table's accessed bit may have been";
        return result;
    }
    Search search(memory, state, find_lock);
    for (const bool run : {false, true})
        for (const StoreOperand& store : decoded->stores)
            if (store.is_run == run && !(run && search.hit()))
                search.look_at(store);
    result.hit = search.hit();
    if (!result.hit)
        result.reason = search.why_not();
    return result;
}

} // namespace casemate
