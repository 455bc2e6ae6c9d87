// SPDX-License-Identifier: Apache-2.0
#include "machine/host_brand.hpp"

#include <cstring>
#include <doctest/doctest.h>
#include <string>

namespace casemate {
namespace {

std::string text_of(const CpuBrand& brand) {
    std::array<char, sizeof(brand)> text{};
    std::memcpy(text.data(), brand.data(), sizeof(brand));
    REQUIRE(text.back() == '\0');
    return text.data();
}

std::string shown_name; // 48 bytes
uint32_t largest_leaf = 0;
std::array<uint32_t, 4> shown_leaf(uint32_t leaf) {
    std::array<uint32_t, 4> registers{largest_leaf, 0, 0, 0};
    if (leaf != 0x80000000)
        std::memcpy(registers.data(), shown_name.data() + (leaf - 0x80000002) * sizeof(registers),
                    sizeof(registers));
    return registers;
}
std::string host_shows(std::string name, uint32_t largest) {
    name.resize(48);
    shown_name = name;
    largest_leaf = largest;
    return text_of(host_brand(shown_leaf));
}

TEST_CASE("a guest's processor has the host's name") {
    CHECK(host_shows("Intel(R) Processor 5Y70 CPU @ 1.10GHz", 0x80000008) ==
          "Intel(R) Processor 5Y70 CPU @ 1.10GHz");
    CHECK(host_shows("       Intel(R) Xeon(TM) CPU 3.00GHz", 0x80000008) == "Intel(R) Xeon(TM) CPU 3.00GHz");
    CHECK(host_shows(std::string(47, 'x'), 0x80000004) == std::string(47, 'x'));
}

TEST_CASE("a host without a name shows nobody's registers") {
    const std::string none = host_shows("", 0x80000008);
    CHECK_FALSE(none.empty());
    CHECK(host_shows("   ", 0x80000008) == none);
    CHECK(host_shows("something else", 0x80000003) == none);
    CHECK(host_shows("something else", 0x80000000) == none);
    CHECK(host_shows("something else", 0) == none);
}

TEST_CASE("a name that is too long is cut off and stays terminated") {
    CHECK(host_shows(std::string(48, 'x'), 0x80000008) == std::string(47, 'x'));
    CHECK(text_of(make_brand(std::string(1000, 'x'))) == std::string(47, 'x'));
    CHECK(text_of(make_brand("")).empty());
}

TEST_CASE("this host's processor has a name or gets one") {
    CHECK_FALSE(text_of(host_brand()).empty());
}

} // namespace
} // namespace casemate
