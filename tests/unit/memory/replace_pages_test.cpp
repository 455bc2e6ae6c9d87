// SPDX-License-Identifier: Apache-2.0
#include "base/fd.hpp"
#include "memory/guest_memory.hpp"

#include <array>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <doctest/doctest.h>
#include <fcntl.h>
#include <string>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

namespace casemate {
namespace {

using Sealing = GuestMemory::Sealing;

std::byte* host_of(const GuestMemory& memory, uint64_t address) {
    for (const GuestMemory::Region& region : memory.regions())
        if (address >= region.start.value && address - region.start.value < region.memory.size())
            return region.memory.data() + (address - region.start.value);
    return nullptr;
}

// Whether the host's kernel can put a byte there for us.
bool is_writable(std::byte* byte) {
    std::array<int, 2> ends{};
    REQUIRE(pipe2(ends.data(), O_CLOEXEC) == 0);
    const Fd from(ends[0]);
    const Fd into(ends[1]);
    REQUIRE(write(into.get(), "x", 1) == 1);
    return read(from.get(), byte, 1) == 1;
}

void fill_with_page_numbers(std::span<std::byte> bytes) {
    for (uint64_t at = 0; at < bytes.size(); at += page_bytes) {
        REQUIRE(bytes[at] == std::byte{});
        const uint64_t number = at / page_bytes + 1;
        std::memcpy(bytes.data() + at, &number, sizeof(number));
    }
}

TEST_CASE("replaced pages are changed by their view alone, and their neighbours as before") {
    for (const Sealing sealing : {Sealing::where_possible, Sealing::never}) {
        auto memory = GuestMemory::create(8_MiB);
        REQUIRE(memory);
        for (uint64_t at = 0; at < 8_MiB; at += page_bytes) // huge pages, where there are any
            REQUIRE(memory->store(GuestPhysical{at}, at));
        const uint64_t first = 2_MiB + 5 * page_bytes;
        const uint64_t end = 4_MiB + page_bytes;
        auto view =
            memory->replace_pages(GuestRange::of({first}, end - first), fill_with_page_numbers, sealing);
        REQUIRE(view);
        REQUIRE(view->size() == end - first);
        for (uint64_t at = 0; at < 8_MiB; at += page_bytes) {
            const bool inside = at >= first && at < end;
            REQUIRE(memory->fetch<uint64_t>({at}) == (inside ? (at - first) / page_bytes + 1 : at));
        }
        CHECK(is_writable(host_of(*memory, first - 1)));
        CHECK_FALSE(is_writable(host_of(*memory, first)));
        CHECK_FALSE(is_writable(host_of(*memory, end - 1)));
        CHECK(is_writable(host_of(*memory, end)));
        const uint64_t value = 0x1122334455667788;
        std::memcpy(view->data() + 3 * page_bytes + 8, &value, sizeof(value));
        CHECK(memory->fetch<uint64_t>({first + 3 * page_bytes + 8}) == value);
    }
}

TEST_CASE("replaced pages do not become writable again, also not through /proc/self/mem") {
    auto memory = GuestMemory::create(4_MiB);
    REQUIRE(memory);
    const auto view = memory->replace_pages(GuestRange::of({1_MiB}, 1_MiB), [](auto) {}, Sealing::never);
    REQUIRE(view);
    std::byte* const host = host_of(*memory, 1_MiB);
    CHECK(mprotect(host, page_bytes, PROT_READ | PROT_WRITE) != 0);
    const auto self = open_file("/proc/self/mem", O_RDWR);
    REQUIRE(self);
    CHECK(pwrite(self->get(), "x", 1, static_cast<off_t>(reinterpret_cast<uint64_t>(host))) < 0);
    CHECK(*host == std::byte{});
}

TEST_CASE("no child inherits replaced pages or their view") {
    auto memory = GuestMemory::create(4_MiB);
    REQUIRE(memory);
    const auto view = memory->replace_pages(GuestRange::of({1_MiB}, 1_MiB), [](auto) {}, Sealing::never);
    REQUIRE(view);
    const std::array pages{host_of(*memory, 1_MiB), view->data()};
    const pid_t child = fork();
    REQUIRE(child >= 0);
    if (child == 0) {
        unsigned inherited = 0;
        for (std::byte* const page : pages) {
            unsigned char resident = 0;
            inherited += mincore(page, page_bytes, &resident) == 0 || errno != ENOMEM ? 1U : 0U;
        }
        _exit(static_cast<int>(inherited));
    }
    int status = -1;
    REQUIRE(waitpid(child, &status, 0) == child);
    CHECK(WIFEXITED(status));
    CHECK(WEXITSTATUS(status) == 0);
}

TEST_CASE("no descriptor of replaced pages is left") {
    auto memory = GuestMemory::create(4_MiB);
    REQUIRE(memory);
    const Fd before(open("/dev/null", O_RDONLY | O_CLOEXEC));
    const auto view = memory->replace_pages(GuestRange::of({1_MiB}, 1_MiB), [](auto) {}, Sealing::never);
    REQUIRE(view);
    const Fd after(open("/dev/null", O_RDONLY | O_CLOEXEC));
    CHECK(after.get() == before.get() + 1);
}

TEST_CASE("what is not RAM, or lies in both regions, is not replaced") {
    auto memory = GuestMemory::create(3_GiB + 4_MiB);
    REQUIRE(memory);
    const auto replace = [&](uint64_t address, uint64_t bytes) {
        return memory->replace_pages(GuestRange::of({address}, bytes), [](auto) {}, Sealing::never);
    };
    CHECK_FALSE(replace(3_GiB, page_bytes));
    CHECK_FALSE(replace(3_GiB - page_bytes, 2 * page_bytes));
    CHECK_FALSE(replace(4_GiB + 4_MiB - page_bytes, 2 * page_bytes));
    CHECK_FALSE(replace(3_GiB - page_bytes, 1_GiB + 2 * page_bytes));
    CHECK(replace(4_GiB + 4_MiB - page_bytes, page_bytes));
    CHECK(replace(3_GiB - page_bytes, page_bytes));
}

TEST_CASE("where a sealed page is nothing is replaced, and nothing changes") {
    auto memory = GuestMemory::create(4_MiB);
    REQUIRE(memory);
    for (uint64_t at = 0; at < 4_MiB; at += page_bytes)
        REQUIRE(memory->store(GuestPhysical{at}, at));
    const std::array denied{GuestRange::of({1_MiB}, page_bytes)};
    REQUIRE(memory->deny_writes(denied, Sealing::where_possible));
    if (memory->sealed_bytes() == 0)
        return;
    CHECK_FALSE(memory->replace_pages(
        GuestRange::of({1_MiB - page_bytes}, 3 * page_bytes), [](auto) {}, Sealing::never));
    for (uint64_t at = 0; at < 4_MiB; at += page_bytes)
        REQUIRE(memory->fetch<uint64_t>({at}) == at);
    CHECK(is_writable(host_of(*memory, 1_MiB - page_bytes)));
    CHECK(is_writable(host_of(*memory, 1_MiB + page_bytes)));
}

// The limit is the process's.
TEST_CASE("when the host gives no memory nothing is replaced, and no signal ends the process") {
    auto memory = GuestMemory::create(4_MiB);
    REQUIRE(memory);
    REQUIRE(memory->store(GuestPhysical{1_MiB}, uint64_t{7}));
    rlimit before{};
    REQUIRE(getrlimit(RLIMIT_FSIZE, &before) == 0);
    const rlimit small{.rlim_cur = rlim_t{512} * 1024, .rlim_max = before.rlim_max};
    REQUIRE(setrlimit(RLIMIT_FSIZE, &small) == 0);
    const auto view = memory->replace_pages(GuestRange::of({1_MiB}, 1_MiB), [](auto) {}, Sealing::never);
    REQUIRE(setrlimit(RLIMIT_FSIZE, &before) == 0);
    REQUIRE_FALSE(view);
    CHECK(view.error().number() == EFBIG);
    CHECK(memory->fetch<uint64_t>({1_MiB}) == 7U);
    CHECK(memory->store(GuestPhysical{1_MiB}, uint64_t{8}));
}

TEST_CASE("two memories have nothing in common, and what is replaced goes with its memory") {
    auto first = GuestMemory::create(4_MiB);
    auto second = GuestMemory::create(4_MiB);
    REQUIRE(first);
    REQUIRE(second);
    const auto range = GuestRange::of({1_MiB}, 1_MiB);
    const auto view = first->replace_pages(range, fill_with_page_numbers, Sealing::never);
    const auto other = second->replace_pages(range, fill_with_page_numbers, Sealing::never);
    REQUIRE(view);
    REQUIRE(other);
    *other->data() = std::byte{0x55};
    CHECK(first->fetch<uint64_t>({1_MiB}) == 1U);
    CHECK(second->fetch<uint64_t>({1_MiB}) == 0x55U);
    std::byte* const host = host_of(*first, 1_MiB);
    {
        const GuestMemory gone(std::move(*first));
    }
    unsigned char resident = 0;
    CHECK(mincore(host, page_bytes, &resident) != 0);
    CHECK(view->bytes().front() == std::byte{1}); // the view outlives it
}

} // namespace
} // namespace casemate
