// SPDX-License-Identifier: Apache-2.0
// References and checks on any tables: what is taken can be checked, and a check says what a comparison of
// each slot by itself says.
#include "../expect.hpp"
#include "guard/roots.hpp"

#include <cstdint>
#include <fuzzer/FuzzedDataProvider.h>
#include <vector>

namespace casemate {
namespace {

constexpr uint64_t ram_bytes = 1_MiB;
constexpr uint64_t table_pages = 8; // from address 0: entries often lead to each other

const GuestMemory& ram() {
    static const GuestMemory memory = GuestMemory::create(ram_bytes).value();
    return memory;
}

uint64_t entry_at(uint64_t page, size_t slot) {
    return ram().fetch<uint64_t>({page + 8 * slot}).value();
}

bool same_entry(uint64_t left, uint64_t right) {
    if (((left | right) & 1) == 0)
        return true;
    constexpr uint64_t ignored = 0x60 | 0xe00 | 0x7ff0000000000000;
    return (left | ignored) == (right | ignored);
}

// What reference() was given when it was taken.
struct Model {
    bool taken = false;
    RootRequest request;
    PagingMode mode;
    std::vector<uint64_t> kernel, user;

    static std::vector<uint64_t> half(uint64_t page, size_t first_slot) {
        std::vector<uint64_t> entries;
        for (size_t slot = first_slot; slot < table_entries; ++slot)
            entries.push_back(entry_at(page, slot));
        return entries;
    }
    bool half_matches(uint64_t page, const std::vector<uint64_t>& entries) const {
        for (size_t i = 0; i < entries.size(); ++i)
            if (!same_entry(entry_at(page, request.first_slot + i), entries[i]))
                return false;
        return true;
    }
    bool matches(uint64_t cr3, const PagingMode& now) const {
        if (now != mode)
            return false;
        const uint64_t page = cr3 & 0xffffffffff000;
        const uint64_t kernel_page = request.pair ? page & ~page_bytes : page;
        if (kernel_page + (request.pair ? 2 : 1) * page_bytes > ram_bytes)
            return false;
        if (!half_matches(kernel_page, kernel))
            return false;
        if (!request.pair)
            return true;
        for (size_t slot = 0; slot < 256 && mode.no_execute; ++slot)
            if ((entry_at(kernel_page, slot) & 1) != 0 && entry_at(kernel_page, slot) >> 63U == 0)
                return false;
        return half_matches(kernel_page + page_bytes, user);
    }
};

PagingMode consume_mode(FuzzedDataProvider& input) {
    PagingMode mode{.paging = true, .pae = true, .long_mode = true};
    const auto byte = input.ConsumeIntegral<uint8_t>();
    mode.five_levels = (byte & 1) != 0;
    mode.no_execute = (byte & 2) != 0;
    if ((byte & 0xf0) == 0xf0) {
        mode.paging = (byte & 4) != 0;
        mode.pae = (byte & 8) != 0;
    }
    return mode;
}

uint64_t consume_root(FuzzedDataProvider& input) {
    const auto byte = input.ConsumeIntegral<uint8_t>();
    const uint64_t near = byte % 16 * page_bytes;
    return byte >= 0xe0 ? input.ConsumeIntegral<uint64_t>() : near | (byte & 0x80 ? 7ULL << 61U | 0x801 : 0);
}

void write_entries(FuzzedDataProvider& input) {
    const auto where = input.ConsumeIntegral<uint16_t>();
    uint64_t entry = input.ConsumeIntegral<uint8_t>();
    const auto target = input.ConsumeIntegral<uint8_t>();
    entry |= (uint64_t{target} % 16) * page_bytes;
    if (target >= 0xe0)
        entry ^= input.ConsumeIntegral<uint64_t>();
    const size_t count = target % 8 == 7 ? input.ConsumeIntegral<uint8_t>() : 1;
    const size_t index = where % table_entries;
    const uint64_t page = where / table_entries % table_pages * page_bytes;
    for (size_t i = index; i < std::min(index + count, table_entries); ++i)
        expect(ram().store(GuestPhysical{page + 8 * i}, entry).has_value());
}

// As a kernel makes a process's root.
void copy_page(FuzzedDataProvider& input) {
    const auto byte = input.ConsumeIntegral<uint8_t>();
    TableEntries entries{};
    const auto bytes = std::as_writable_bytes(std::span(entries));
    expect(ram().read(GuestRange::of({byte % table_pages * page_bytes}, page_bytes), bytes).has_value());
    expect(ram().write({byte / table_pages % table_pages * page_bytes}, bytes).has_value());
}

} // namespace
} // namespace casemate

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size);
extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
    using namespace casemate;
    expect(ram().clear(GuestRange::of({0}, table_pages * page_bytes)).has_value());
    FuzzedDataProvider input(data, size);
    Roots roots(ram());
    Model model;
    while (input.remaining_bytes() != 0) {
        switch (input.ConsumeIntegral<uint8_t>() % 8) {
        case 0: {
            const PagingMode mode = consume_mode(input);
            const auto flags = input.ConsumeIntegral<uint8_t>();
            const RootRequest request{
                .root = {consume_root(input) & ~uint64_t{(flags & 1) != 0 ? 0xfffU : 0U}},
                .pair = (flags & 2) != 0,
                .first_slot = 250 + uint64_t{input.ConsumeIntegral<uint16_t>()} % 270,
                .policy = (flags & 4) != 0 ? LockPolicy::die_on_write : LockPolicy::read_only};
            const uint64_t unprotected = (flags & 8) != 0 ? flags / 16 * page_bytes : ~uint64_t{0};
            const Lock text{.range = GuestRange::of({flags / 16 * page_bytes}, 2 * page_bytes),
                            .kind = LockKind::text};
            const auto before = roots.policy();
            const auto done = roots.reference(request, mode, {&text, 1}, [=](GuestPhysical page) {
                expect(page.value < ram_bytes && page.value % page_bytes == 0);
                return page.value != unprotected;
            });
            if (!done) {
                expect(error_of(done.error().reason) != 0 && roots.has_reference() == model.taken);
                expect(done.error().table.has_value() ==
                       (done.error().reason == RootRefusal::Reason::unprotected_table));
                expect(!done.error().table || done.error().table->page.value == unprotected);
                expect(roots.policy() == before);
                break;
            }
            expect(roots.has_reference() && roots.policy() == request.policy);
            expect(request.root.value < ram_bytes && request.first_slot >= 256 && request.first_slot < 512);
            expect(roots.extent().required <= roots.extent().tables);
            if (!model.taken)
                model = {.taken = true,
                         .request = request,
                         .mode = mode,
                         .kernel = Model::half(request.root.value, request.first_slot),
                         .user = request.pair
                                     ? Model::half(request.root.value + page_bytes, request.first_slot)
                                     : std::vector<uint64_t>{}};
            else // the same again
                expect(mode == model.mode && request.first_slot == model.request.first_slot &&
                       model.half_matches(request.root.value, model.kernel));
            break;
        }
        case 1:
        case 2: {
            const PagingMode mode = model.taken && input.ConsumeBool() ? model.mode : consume_mode(input);
            const uint64_t cr3 = consume_root(input);
            const auto found = roots.check(cr3, mode);
            expect(!found == (!model.taken || model.matches(cr3, mode)));
            expect(!roots.check_page({cr3}) == (!model.taken || model.matches(cr3, model.mode)));
            if (found && (found->kind == RootMismatch::Kind::slot ||
                          found->kind == RootMismatch::Kind::user_root_slot))
                expect(found->slot >= model.request.first_slot && found->slot < table_entries &&
                       !same_entry(found->expected, found->found) &&
                       found->found == entry_at(found->root.value, found->slot));
            break;
        }
        case 3:
        case 4:
            copy_page(input);
            break;
        default:
            write_entries(input);
        }
    }
    return 0;
}
