// SPDX-License-Identifier: Apache-2.0
#include "boot/initrd.hpp"

#include "synthetic_kernel.hpp"

#include <algorithm>
#include <doctest/doctest.h>
#include <string>
#include <string_view>

namespace casemate {
namespace {

LoadedKernel kernel_at(uint64_t start, uint64_t end) {
    return {.format = LoadedKernel::Format::elf,
            .entry = GuestPhysical{start},
            .occupied = GuestRange::of(GuestPhysical{start}, end - start),
            .header = {},
            .command_line_limit = 2047,
            .initrd_addr_max = 0x7fffffff};
}

struct Outcome {
    uint64_t start = 0;
    std::string error;
};
Outcome place(uint64_t ram_bytes, const LoadedKernel& kernel, uint64_t bytes) {
    const auto memory = GuestMemory::create(ram_bytes);
    REQUIRE(memory);
    const Fd file = synthetic::file_of({});
    REQUIRE(ftruncate(file.get(), static_cast<off_t>(bytes)) == 0);
    const auto range = load_initrd(*memory, kernel, synthetic::path_of(file).c_str());
    if (!range) {
        CHECK(range.error().blame() == Blame::usage);
        return {.start = 0, .error = range.error().message()};
    }
    CHECK(range->bytes() == bytes);
    CHECK(memory->is_ram(*range));
    CHECK_FALSE(range->overlaps(kernel.occupied));
    return {.start = range->start().value, .error = {}};
}

bool says(const Outcome& outcome, std::string_view part) {
    return outcome.error.find(part) != std::string::npos;
}

TEST_CASE("an initrd lies at the highest page of RAM and has the file's bytes") {
    const auto memory = GuestMemory::create(16_MiB);
    REQUIRE(memory);
    const synthetic::Bytes contents(page_bytes + 1, std::byte{0x5a});
    const Fd file = synthetic::file_of(contents);
    const auto range = load_initrd(*memory, kernel_at(1_MiB, 2_MiB), synthetic::path_of(file).c_str());
    REQUIRE(range);
    CHECK(range->start().value == 16_MiB - 2 * page_bytes);
    synthetic::Bytes copy(contents.size());
    REQUIRE(memory->read(*range, copy));
    CHECK(copy == contents);
}

TEST_CASE("an initrd may touch the kernel but not overlap it by a byte") {
    const auto kernel = kernel_at(1_MiB, 8_MiB);
    CHECK(place(16_MiB, kernel, 8_MiB).start == 8_MiB);
    const auto refused = place(16_MiB, kernel, 8_MiB + 1);
    CHECK(says(refused, "needs at least 17 MiB of RAM, the guest has 16 MiB"));
    CHECK(place(17_MiB, kernel, 8_MiB + 1).start == 9_MiB - page_bytes);
}

TEST_CASE("a kernel at the end of RAM leaves room in front, but not below 1 MiB") {
    const auto kernel = kernel_at(12_MiB, 16_MiB);
    CHECK(place(16_MiB, kernel, 11_MiB).start == 1_MiB);
    CHECK(says(place(16_MiB, kernel, 11_MiB + 1), "needs at least 28 MiB"));
}

TEST_CASE("the kernel's highest address and the hole bound an initrd in a big guest") {
    auto kernel = kernel_at(1_MiB, 2_MiB);
    CHECK(place(5_GiB, kernel, 1).start == 2_GiB - page_bytes);
    kernel.initrd_addr_max = 2_GiB;
    CHECK(place(5_GiB, kernel, 1).start == 2_GiB);
    kernel.initrd_addr_max = 0xffffffff;
    CHECK(place(5_GiB, kernel, 1).start == 3_GiB - page_bytes);
    kernel.initrd_addr_max = ~0ULL;
    CHECK(place(5_GiB, kernel, 1).start == 3_GiB - page_bytes);
    kernel.initrd_addr_max = 2_MiB;
    CHECK(says(place(5_GiB, kernel, 2 * page_bytes), "takes an initrd only between"));
    kernel.initrd_addr_max = 0;
    CHECK(says(place(5_GiB, kernel, 1), "takes no initrd"));
}

TEST_CASE("an initrd that no guest could hold is not answered with a request for more RAM") {
    const auto outcome = place(16_MiB, kernel_at(1_MiB, 2_MiB), 2_GiB);
    CHECK(says(outcome, "takes an initrd only between"));
    CHECK(says(outcome, "--disk"));
    CHECK(says(place(16_MiB, kernel_at(1_MiB, 2_MiB), 1ULL << 62), "takes an initrd only between"));
}

TEST_CASE("an empty, missing or odd initrd is the user's error and is named") {
    const auto memory = GuestMemory::create(16_MiB);
    REQUIRE(memory);
    const auto kernel = kernel_at(1_MiB, 2_MiB);
    CHECK(says(place(16_MiB, kernel, 0), "the file is empty"));
    const auto missing = load_initrd(*memory, kernel, "/nonexistent/initrd");
    REQUIRE_FALSE(missing);
    CHECK(missing.error().blame() == Blame::usage);
    CHECK(missing.error().message().find("load initrd /nonexistent/initrd") == 0);
    CHECK_FALSE(load_initrd(*memory, kernel, "/"));
}

TEST_CASE("what is surely no initrd is refused by its kind, with what to do; anything else is the kernel's "
          "to judge") {
    const auto load = [](std::string_view start, size_t offset = 0) {
        const auto memory = GuestMemory::create(16_MiB);
        REQUIRE(memory);
        synthetic::Bytes contents(page_bytes);
        std::ranges::copy(std::as_bytes(std::span(start)),
                          contents.begin() + static_cast<std::ptrdiff_t>(offset));
        const Fd file = synthetic::file_of(contents);
        const auto range = load_initrd(*memory, kernel_at(1_MiB, 2_MiB), synthetic::path_of(file).c_str());
        return range ? std::string() : range.error().message();
    };
    using namespace std::literals;
    for (const auto start : {"070701"sv, "\x1f\x8b"sv, "\x28\xb5\x2f\xfd"sv, "hsqs"sv, "\0\0\0\0"sv})
        CHECK(load(start).empty());
    CHECK(load("HdrS", 0x202).find("is an x86 kernel (bzImage); Pass it as --kernel.") != std::string::npos);
    CHECK(load("\x7f"
               "ELF")
              .find("is an ELF file") != std::string::npos);
    CHECK(load("070707").find("cpio -o -H newc") != std::string::npos);
    CHECK(load("QFI\xfb").find("is a qcow2 image; Pass a raw image as --disk.") != std::string::npos);
    CHECK(load("ustar", 257).find("is a tar archive; Make it with cpio") != std::string::npos);
}

} // namespace
} // namespace casemate
