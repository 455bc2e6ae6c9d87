// SPDX-License-Identifier: Apache-2.0
// The walk over any tables (loops, self-maps, holes, large pages, reserved bits): bounded, and all that it
// finds and no more is what a walk of each address by itself goes through.
#include "../expect.hpp"
#include "guard/kernel_tables.hpp"

#include <cstdint>
#include <fuzzer/FuzzedDataProvider.h>
#include <map>
#include <set>
#include <utility>

namespace casemate {
namespace {

constexpr uint64_t ram_bytes = 1_MiB;
constexpr uint64_t table_pages = 8; // from address 0: entries often lead to each other

using Node = std::pair<uint64_t, unsigned>; // page, level

// By level from the top, with sets and no other bound: what a node leads to depends on nothing else.
struct Model {
    std::set<Node> nodes;
    uint64_t dead = 0;

    void add(const GuestMemory& memory, std::span<const uint64_t> entries, unsigned level) {
        for (const uint64_t entry : entries) {
            if ((entry & 1) == 0)
                continue;
            const bool large = level > 1 && (entry >> 7 & 1) != 0;
            if (level > 3 && large)
                ++dead;
            else if (large && level == 3 && (entry >> 13 & 0x1ffff) != 0)
                ++dead;
            else if (large && level == 2 && (entry >> 13 & 0xff) != 0)
                ++dead;
            else if (level > 1 && !large)
                descend(memory, entry & 0xffffffffff000, level - 1);
        }
    }
    void descend(const GuestMemory& memory, uint64_t page, unsigned level) {
        if (page > ram_bytes - page_bytes) {
            ++dead;
            return;
        }
        if (!nodes.insert({page, level}).second)
            return;
        TableEntries entries{};
        expect(memory.read(GuestRange::of({page}, page_bytes), std::as_writable_bytes(std::span(entries)))
                   .has_value());
        add(memory, entries, level);
    }
};

} // namespace
} // namespace casemate

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size);
extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
    using namespace casemate;
    static const GuestMemory memory = GuestMemory::create(ram_bytes).value();
    expect(memory.clear(GuestRange::of({0}, table_pages * page_bytes)).has_value());
    FuzzedDataProvider input(data, size);
    const bool five_levels = input.ConsumeBool();
    const size_t first_slot = input.ConsumeIntegralInRange<size_t>(256, 511);
    const uint64_t wanted_page = input.ConsumeIntegralInRange<uint64_t>(0, 16) * page_bytes;
    const uint64_t limit =
        input.ConsumeBool() ? input.ConsumeIntegralInRange<uint64_t>(0, 2000) : ~uint64_t{0};
    TableEntries root{};
    while (input.remaining_bytes() >= 6) {
        const auto where = input.ConsumeIntegral<uint16_t>();
        uint64_t entry = input.ConsumeIntegral<uint8_t>(); // P, RW, US, A, D, PS
        const auto target = input.ConsumeIntegral<uint8_t>();
        entry |= (uint64_t{target} % 16) * page_bytes;
        if (target >= 0xf0) // any address, reserved bits
            entry |= input.ConsumeIntegral<uint64_t>();
        const size_t index = where % table_entries;
        const size_t page = where / table_entries % (table_pages + 1);
        const size_t repeat = target % 8 == 7 ? input.ConsumeIntegral<uint8_t>() : 1;
        for (size_t i = index; i < std::min(index + repeat, table_entries); ++i) {
            if (page == table_pages)
                root.at(i) = entry;
            else
                expect(memory.store(GuestPhysical{page * page_bytes + 8 * i}, entry).has_value());
        }
    }

    std::map<Node, bool> found;
    uint64_t leaves = 0;
    const auto entries = std::span<const uint64_t>(root).subspan(first_slot);
    KernelTableWalk walk(
        memory, five_levels, {.work = limit, .ending = {}},
        [&](const KernelLeaf& leaf) {
            ++leaves;
            expect(leaf.bytes == 4_KiB || leaf.bytes == 2_MiB || leaf.bytes == 1_GiB);
            expect(leaf.linear.value % leaf.bytes == 0 && leaf.physical.value % leaf.bytes == 0);
            expect(leaf.linear.value >> (five_levels ? 56 : 47) ==
                   (five_levels ? uint64_t{0xff} : uint64_t{0x1ffff}));
            return wanted_page - leaf.physical.value < leaf.bytes;
        },
        [&](const KernelTable& table) {
            expect(table.level >= 1 && table.level < (five_levels ? 5 : 4));
            expect(found.emplace(Node(table.page.value, table.level), table.wanted).second);
            return true;
        });
    const bool complete = walk.walk(entries, first_slot);
    expect(walk.work() <= limit && walk.tables() <= 4 * ram_bytes / page_bytes);
    expect(walk.tables() * KernelTableWalk::table_work + leaves <= walk.work());
    Model model;
    model.add(memory, entries, five_levels ? 5 : 4);
    if (!complete) {
        expect(walk.work() + KernelTableWalk::table_work > limit);
        return 0;
    }
    expect(walk.tables() == model.nodes.size() && found.size() == model.nodes.size());
    expect(walk.dead_entries() == model.dead);
    for (const Node& node : model.nodes) {
        expect(found.contains(node));
        // Wanted is what maps the page, itself or below.
        TableEntries table{};
        expect(memory.read(GuestRange::of({node.first}, page_bytes), std::as_writable_bytes(std::span(table)))
                   .has_value());
        bool wanted = false;
        for (const uint64_t entry : table) {
            const uint64_t bytes = page_bytes << (9 * (node.second - 1));
            const bool large = node.second > 1 && (entry >> 7 & 1) != 0;
            if ((entry & 1) == 0 || (large && (node.second == 4 || (entry & (bytes - 1) & ~0x1fffULL) != 0)))
                continue;
            if (large || node.second == 1)
                wanted |= wanted_page - (entry & 0xffffffffff000 & ~(bytes - 1)) < bytes;
            else if (const auto below = found.find({entry & 0xffffffffff000, node.second - 1});
                     below != found.end())
                wanted |= below->second;
        }
        expect(found.at(node) == wanted);
    }
    return 0;
}
