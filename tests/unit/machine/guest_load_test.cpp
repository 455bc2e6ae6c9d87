// SPDX-License-Identifier: Apache-2.0
#include "machine/guest_load.hpp"

#include "../boot/synthetic_kernel.hpp"

#include <doctest/doctest.h>
#include <string>

namespace casemate {
namespace {

TEST_CASE("kernel and initrd are in RAM when their reading is finished") {
    const auto memory = GuestMemory::create(16_MiB);
    REQUIRE(memory);
    const Fd kernel = synthetic::file_of(synthetic::BzImage().file());
    const synthetic::Bytes contents(page_bytes + 1, std::byte{0x5a});
    const Fd initrd = synthetic::file_of(contents);
    const auto load = GuestLoad::begin(
        *memory, {.kernel = synthetic::path_of(kernel), .initrd = synthetic::path_of(initrd)});
    REQUIRE(load);
    const auto guest = (*load)->finish();
    REQUIRE(guest);
    CHECK(guest->kernel.occupied.start().value == synthetic::bz_start);
    REQUIRE(guest->initrd);
    synthetic::Bytes copy(contents.size());
    REQUIRE(memory->read(*guest->initrd, copy));
    CHECK(copy == contents);
    CHECK(memory->writes_in_flight() == 0);
}

TEST_CASE("an error in a file that is read beside is the user's and names the file") {
    const auto memory = GuestMemory::create(16_MiB);
    REQUIRE(memory);
    const Fd kernel = synthetic::file_of(synthetic::BzImage().file());
    const auto error = [&memory](GuestLoad::Paths paths) {
        const auto load = GuestLoad::begin(*memory, std::move(paths));
        REQUIRE(load);
        const auto guest = (*load)->finish();
        REQUIRE_FALSE(guest);
        CHECK(guest.error().blame() == Blame::usage);
        return guest.error().message();
    };
    CHECK(error({.kernel = "/nonexistent/vmlinux", .initrd = "/nonexistent/initrd"})
              .starts_with("load kernel /nonexistent/vmlinux"));
    CHECK(error({.kernel = synthetic::path_of(kernel), .initrd = "/nonexistent/initrd"})
              .starts_with("load initrd /nonexistent/initrd"));
}

TEST_CASE("a load that nobody asks for its outcome ends before what it loads into") {
    const Fd kernel = synthetic::file_of(synthetic::Elf().file());
    const auto memory = GuestMemory::create(16_MiB);
    REQUIRE(memory);
    REQUIRE(GuestLoad::begin(*memory, {.kernel = synthetic::path_of(kernel), .initrd = {}}));
    CHECK(memory->writes_in_flight() == 0);
}

} // namespace
} // namespace casemate
