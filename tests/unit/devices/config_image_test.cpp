// SPDX-License-Identifier: Apache-2.0
#include "devices/config_image.hpp"

#include <algorithm>
#include <array>
#include <cstdio>
#include <doctest/doctest.h>
#include <fstream>
#include <string>

namespace casemate {
namespace {

constexpr std::byte absent{0xff};

// The permissions of the mapping that holds `address`, as /proc/self/maps has them.
std::string permissions(const std::byte* address) {
    std::ifstream maps("/proc/self/maps");
    for (std::string line; std::getline(maps, line);) {
        unsigned long start = 0;
        unsigned long end = 0;
        std::array<char, 5> text{};
        if (std::sscanf(line.c_str(), "%lx-%lx %4s", &start, &end, text.data()) == 3 &&
            reinterpret_cast<unsigned long>(address) - start < end - start)
            return text.data();
    }
    return {};
}

TEST_CASE("an image has zeroed functions and all-ones everywhere else") {
    for (const unsigned present : {0U, 1U, 2U, ConfigImage::slots}) {
        const auto image = ConfigImage::create(present);
        REQUIRE(image);
        const auto bytes = image->bytes();
        REQUIRE(bytes.size() == 1_MiB);
        for (unsigned slot = 0; slot < ConfigImage::slots; ++slot) {
            const auto all = bytes.subspan(slot * ConfigImage::slot_bytes, ConfigImage::slot_bytes);
            const size_t function = slot < present ? ConfigImage::function_bytes : 0;
            CHECK(std::ranges::count(all.first(function), std::byte{0}) == std::ssize(all.first(function)));
            CHECK(std::ranges::count(all.subspan(function), absent) == std::ssize(all.subspan(function)));
        }
    }
}

TEST_CASE("an update shows at its function alone, and the image itself cannot be written") {
    auto image = ConfigImage::create(3);
    REQUIRE(image);
    std::array<std::byte, 256> contents{};
    for (size_t i = 0; i < contents.size(); ++i)
        contents.at(i) = static_cast<std::byte>(i + 1);
    image->update(1, contents);
    const auto function = [&](unsigned slot) {
        return image->bytes().subspan(slot * ConfigImage::slot_bytes, ConfigImage::function_bytes);
    };
    CHECK(std::ranges::equal(function(1).first(contents.size()), contents));
    CHECK(std::ranges::count(function(1).subspan(contents.size()), std::byte{0}) == 4096 - 256);
    CHECK(std::ranges::count(function(0), std::byte{0}) == 4096);
    CHECK(std::ranges::count(function(2), std::byte{0}) == 4096);
    for (uint64_t page = 0; page < ConfigImage::size_bytes; page += page_bytes)
        CHECK(permissions(image->bytes().data() + page) == "r--s");
}

} // namespace
} // namespace casemate
