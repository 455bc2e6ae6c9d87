// SPDX-License-Identifier: Apache-2.0
// Fuzzes the lock table: any sequence of locks and undos says what a table of pages says.
#include "../../unit/guard/page_model.hpp"

#include <cstdlib>
#include <span>

namespace {

using namespace casemate;

void require(bool holds) {
    if (!holds)
        std::abort();
}

} // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size);

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
    LockTable table;
    PageModel model;
    // Four bytes a step: first page; pages; policy, kind, undo; offset of a lookup.
    for (std::span bytes(data, size); bytes.size() >= 4; bytes = bytes.subspan(4)) {
        const size_t first = bytes[0] % PageModel::pages;
        const size_t count = bytes[1] % (PageModel::pages - first + 1);
        const auto policy = (bytes[2] & 1) != 0 ? LockPolicy::die_on_write : LockPolicy::read_only;
        const auto kind = static_cast<LockKind>(bytes[2] >> 1 & 3);
        const bool taken_back = (bytes[2] >> 3 & 7) == 7;

        const PageModel before = model;
        const auto expected = model.add(first, count, policy, kind);
        const auto change = table.add({PageModel::page_range(first, count), policy, kind});
        require(change.has_value() == expected.has_value());
        require(change ? PageModel::are_pages(change->newly_locked, *expected)
                       : change.error() == expected.error());
        if (change && taken_back) {
            table.undo(*change);
            model = before;
        }
        require(model.matches(table));
        const uint64_t start = PageModel::base + first * page_bytes - bytes[3];
        require(model.matches(table, GuestRange::of(GuestPhysical{start}, uint64_t{bytes[1]} * bytes[3])));
    }
    return 0;
}
