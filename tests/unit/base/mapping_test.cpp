// SPDX-License-Identifier: Apache-2.0
#include "base/mapping.hpp"

#include "base/units.hpp"

#include <cerrno>
#include <doctest/doctest.h>
#include <sys/mman.h>

namespace casemate {
namespace {

bool is_mapped(const std::byte* page) {
    unsigned char resident = 0;
    return mincore(const_cast<std::byte*>(page), page_bytes, &resident) == 0 || errno != ENOMEM;
}

TEST_CASE("a mapping leaves only its sealed pages behind, in whatever order they were sealed") {
    constexpr uint64_t pages = 16;
    auto mapping = Mapping::anonymous(pages * page_bytes, page_bytes);
    REQUIRE(mapping);
    std::byte* const data = mapping->data();
    const auto seal = [&](uint64_t first, uint64_t count) {
        return mapping->seal(first * page_bytes, count * page_bytes);
    };
    if (const auto first = seal(8, 2); !first) {
        REQUIRE((first.error().number() == ENOSYS || first.error().number() == EPERM));
        MESSAGE("this kernel cannot seal: ", first.error().message());
        return;
    }
    REQUIRE(seal(2, 1));
    REQUIRE(seal(15, 1));
    REQUIRE(seal(4, 1));
    REQUIRE(seal(3, 1)); // joins two
    REQUIRE(seal(9, 2)); // overlaps one
    CHECK(mapping->sealed_bytes() == 7 * page_bytes);

    Mapping other;
    other = std::move(*mapping);
    CHECK(other.sealed_bytes() == 7 * page_bytes);
    CHECK(mapping->sealed_bytes() == 0);
    const Mapping moved(std::move(other));
    CHECK(moved.sealed_bytes() == 7 * page_bytes);
    CHECK(is_mapped(data));
    other = Mapping();
    {
        [[maybe_unused]] const Mapping last(std::move(const_cast<Mapping&>(moved)));
    }
    for (uint64_t page = 0; page < pages; ++page) {
        CAPTURE(page);
        const bool sealed = (page >= 2 && page <= 4) || (page >= 8 && page <= 10) || page == 15;
        CHECK(is_mapped(data + page * page_bytes) == sealed);
    }
}

TEST_CASE("sealing what is not mapped fails with the reason") {
    auto mapping = Mapping::anonymous(page_bytes, page_bytes);
    REQUIRE(mapping);
    munmap(mapping->data(), page_bytes);
    const auto sealed = mapping->seal(0, page_bytes);
    REQUIRE_FALSE(sealed);
    CHECK(sealed.error().number() != 0);
    CHECK(mapping->sealed_bytes() == 0);
}

} // namespace
} // namespace casemate
