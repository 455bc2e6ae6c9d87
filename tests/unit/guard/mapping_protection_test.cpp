// SPDX-License-Identifier: Apache-2.0
#include "guard/mapping_protection.hpp"

#include "base/fd.hpp"
#include "guard/lock_table.hpp"
#include "memory/layout.hpp"

#include <array>
#include <atomic>
#include <cerrno>
#include <charconv>
#include <cstdio>
#include <cstring>
#include <doctest/doctest.h>
#include <fcntl.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <memory>
#include <span>
#include <stop_token>
#include <string>
#include <string_view>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <thread>
#include <unistd.h>
#include <vector>

namespace casemate {
namespace {

using Sealing = GuestMemory::Sealing;

GuestRange pages_at(uint64_t address, uint64_t count) {
    return GuestRange::of(GuestPhysical{address}, count * page_bytes);
}

std::byte* host_of(const GuestMemory& memory, uint64_t address) {
    for (const GuestMemory::Region& region : memory.regions())
        if (address >= region.start.value && address - region.start.value < region.memory.size())
            return region.memory.data() + (address - region.start.value);
    return nullptr;
}

// Whether the host's kernel, asked to put a byte there for us, can: what a store would meet, without a
// signal.
bool is_writable(std::byte* byte) {
    std::array<int, 2> ends{};
    REQUIRE(pipe2(ends.data(), O_CLOEXEC) == 0);
    const Fd from(ends[0]);
    const Fd into(ends[1]);
    REQUIRE(write(into.get(), "x", 1) == 1);
    const ssize_t got = read(from.get(), byte, 1);
    if (got < 0)
        REQUIRE(errno == EFAULT);
    return got == 1;
}

bool kernel_seals() {
    return syscall(462, nullptr, size_t{0}, 0UL) == 0; // mseal of nothing
}

// Areas of /proc/self/maps that touch the region.
unsigned areas_in(const Mapping& mapping) {
    const auto start = reinterpret_cast<uint64_t>(mapping.data());
    const std::unique_ptr<FILE, int (*)(FILE*)> maps(std::fopen("/proc/self/maps", "re"), std::fclose);
    REQUIRE(maps);
    unsigned count = 0;
    std::array<char, 4096> line{};
    while (std::fgets(line.data(), static_cast<int>(line.size()), maps.get()) != nullptr) {
        uint64_t first = 0;
        std::from_chars(line.data(), line.data() + line.size(), first, 16);
        count += first >= start && first < start + mapping.size() ? 1U : 0U;
    }
    return count;
}

TEST_CASE("protected pages take no byte from the host, their neighbours do, and all can be read") {
    for (const Sealing sealing : {Sealing::where_possible, Sealing::never}) {
        auto memory = GuestMemory::create(4_MiB);
        REQUIRE(memory);
        REQUIRE(memory->store(GuestPhysical{0x5000}, uint64_t{0x1122334455667788}));
        MappingProtection protection(*memory, sealing);
        CHECK(std::string_view(protection.name()) == "mapping");
        const std::array ranges{pages_at(0x5000, 1), pages_at(0x8000, 2)};
        REQUIRE(protection.protect(ranges));
        for (uint64_t page = 0x3000; page < 0xc000; page += page_bytes) {
            CAPTURE(page);
            const bool locked = page == 0x5000 || page == 0x8000 || page == 0x9000;
            CHECK(is_writable(host_of(*memory, page)) != locked);
            CHECK(is_writable(host_of(*memory, page + page_bytes - 1)) != locked);
        }
        CHECK(memory->fetch<uint64_t>(GuestPhysical{0x5000}) == 0x1122334455667788);
        CHECK(memory->fetch<uint64_t>(GuestPhysical{0x8000}) == 0U);
        CHECK(memory->sealed_bytes() ==
              (sealing == Sealing::where_possible && kernel_seals() ? 3 * page_bytes : 0));
    }
}

TEST_CASE("a page in the middle of a huge one, and one range in each half of RAM, are protected alone") {
    auto memory = GuestMemory::create(3_GiB + 4_MiB);
    REQUIRE(memory);
    for (const uint64_t huge : {3_GiB - 2_MiB, 4_GiB + 2_MiB})
        for (uint64_t offset = 0; offset < 2_MiB; offset += page_bytes)
            REQUIRE(memory->store(GuestPhysical{huge + offset}, huge + offset));
    MappingProtection protection(*memory);
    const std::array ranges{pages_at(3_GiB - 1_MiB, 1), pages_at(4_GiB, 1), pages_at(4_GiB + 3_MiB, 256)};
    REQUIRE(protection.protect(ranges));
    CHECK_FALSE(is_writable(host_of(*memory, 3_GiB - 1_MiB)));
    CHECK(is_writable(host_of(*memory, 3_GiB - 1_MiB - 1)));
    CHECK(is_writable(host_of(*memory, 3_GiB - 1_MiB + page_bytes + 8)));
    CHECK_FALSE(is_writable(host_of(*memory, 4_GiB)));
    CHECK(is_writable(host_of(*memory, 4_GiB + page_bytes)));
    CHECK_FALSE(is_writable(host_of(*memory, 4_GiB + 4_MiB - 1)));
    for (const uint64_t huge : {3_GiB - 2_MiB, 4_GiB + 2_MiB})
        for (uint64_t offset = 0; offset < 1_MiB - page_bytes; offset += page_bytes)
            REQUIRE(memory->fetch<uint64_t>(GuestPhysical{huge + offset}) == huge + offset);
}

TEST_CASE("no system call of the process undoes a sealed page") {
    auto memory = GuestMemory::create(1_MiB);
    REQUIRE(memory);
    REQUIRE(memory->store(GuestPhysical{0x5000}, uint32_t{0xfeedface}));
    MappingProtection protection(*memory);
    const std::array one{pages_at(0x5000, 1)};
    REQUIRE(protection.protect(one));
    if (!kernel_seals()) {
        MESSAGE("this kernel has no mseal(2)");
        CHECK(memory->sealed_bytes() == 0);
        return;
    }
    std::byte* const page = host_of(*memory, 0x5000);
    const auto refused = [](long result) { return result == -1 && errno == EPERM; };
    const auto refused_map = [](const void* result) { return result == MAP_FAILED && errno == EPERM; };
    CHECK(refused(mprotect(page, page_bytes, PROT_READ | PROT_WRITE)));
    CHECK(refused(mprotect(page - page_bytes, 3 * page_bytes, PROT_READ | PROT_WRITE)));
    CHECK(refused(madvise(page, page_bytes, MADV_DONTNEED)));
    CHECK(refused(madvise(page, page_bytes, MADV_FREE)));
    CHECK(refused(madvise(page, page_bytes, MADV_REMOVE)));
    CHECK(refused(munmap(page, page_bytes)));
    CHECK(refused_map(mremap(page, page_bytes, 2 * page_bytes, MREMAP_MAYMOVE)));
    CHECK(refused_map(
        mmap(page, page_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0)));
    CHECK(memory->fetch<uint32_t>(GuestPhysical{0x5000}) == 0xfeedfaceU);
    CHECK_FALSE(is_writable(page));
}

TEST_CASE("memory that is not sealed goes with its owner, sealed pages stay") {
    for (const Sealing sealing : {Sealing::where_possible, Sealing::never}) {
        auto memory = GuestMemory::create(1_MiB);
        REQUIRE(memory);
        MappingProtection protection(*memory, sealing);
        const std::array ranges{pages_at(0x5000, 1), pages_at(0x8000, 2)};
        REQUIRE(protection.protect(ranges));
        std::byte* const start = host_of(*memory, 0);
        const uint64_t sealed = memory->sealed_bytes();
        {
            [[maybe_unused]] const GuestMemory last(*std::move(memory));
        }
        uint64_t left = 0;
        for (uint64_t offset = 0; offset < 1_MiB; offset += page_bytes) {
            unsigned char resident = 0;
            left += mincore(start + offset, page_bytes, &resident) == 0 ? page_bytes : 0;
        }
        CHECK(left == sealed);
    }
}

TEST_CASE("protected pages next to each other share one memory area") {
    auto memory = GuestMemory::create(1_MiB);
    REQUIRE(memory);
    MappingProtection protection(*memory);
    const unsigned before = areas_in(memory->regions().front().memory);
    // Odd pages first, then those between.
    for (const uint64_t first : {uint64_t{1}, uint64_t{0}})
        for (uint64_t page = first; page < 64; page += 2) {
            const std::array one{pages_at(0x10000 + page * page_bytes, 1)};
            REQUIRE(protection.protect(one));
        }
    CHECK(areas_in(memory->regions().front().memory) == before + 2);
}

TEST_CASE("no child of the process has guest RAM") {
    auto memory = GuestMemory::create(1_MiB);
    REQUIRE(memory);
    REQUIRE(memory->store(GuestPhysical{0}, 1));
    std::byte* const page = host_of(*memory, 0);
    const pid_t child = fork();
    REQUIRE(child >= 0);
    if (child == 0) {
        unsigned char resident = 0;
        _exit(mincore(page, page_bytes, &resident) != 0 && errno == ENOMEM ? 0 : 1);
    }
    int status = -1;
    REQUIRE(waitpid(child, &status, 0) == child);
    CHECK(status == 0);
}

TEST_CASE("what is not RAM is refused whole") {
    auto memory = GuestMemory::create(1_MiB);
    REQUIRE(memory);
    MappingProtection protection(*memory);
    const std::array beyond{pages_at(0x5000, 1), pages_at(1_MiB - page_bytes, 2)};
    CHECK_FALSE(protection.protect(beyond));
    CHECK(is_writable(host_of(*memory, 0x5000)));
    CHECK(is_writable(host_of(*memory, 1_MiB - 1)));
    CHECK(memory->store(GuestPhysical{0x5000}, 1));
}

// Lets mprotect(page, ..., protection) fail with ENOMEM in the calling thread, until it ends.
struct FailingCall {
    const std::byte* page;
    int protection;
};
void make_fail(const FailingCall& call) {
    const auto address = reinterpret_cast<uint64_t>(call.page);
    const auto skip_unless = [](uint32_t value, size_t skipped) {
        return sock_filter{BPF_JMP | BPF_JEQ | BPF_K, 0, static_cast<uint8_t>(skipped), value};
    };
    const auto load = [](size_t offset) {
        return sock_filter{BPF_LD | BPF_W | BPF_ABS, 0, 0, static_cast<uint32_t>(offset)};
    };
    constexpr size_t arguments = offsetof(seccomp_data, args);
    std::array filter{
        load(offsetof(seccomp_data, nr)),
        skip_unless(SYS_mprotect, 7),
        load(arguments),
        skip_unless(static_cast<uint32_t>(address), 5),
        load(arguments + 4),
        skip_unless(static_cast<uint32_t>(address >> 32), 3),
        load(arguments + 16),
        skip_unless(static_cast<uint32_t>(call.protection), 1),
        sock_filter{BPF_RET | BPF_K, 0, 0, SECCOMP_RET_ERRNO | ENOMEM},
        sock_filter{BPF_RET | BPF_K, 0, 0, SECCOMP_RET_ALLOW},
    };
    const sock_fprog program{.len = filter.size(), .filter = filter.data()};
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0 ||
        prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) != 0)
        std::perror("seccomp");
}

TEST_CASE("when the host refuses one range all are writable again, and the error says what to do") {
    auto memory = GuestMemory::create(1_MiB);
    REQUIRE(memory);
    MappingProtection protection(*memory);
    const std::array ranges{pages_at(0x5000, 1), pages_at(0x8000, 2), pages_at(0xb000, 1),
                            pages_at(0xd000, 1)};
    std::string message;
    std::thread([&] {
        make_fail({host_of(*memory, 0xb000), PROT_READ});
        const auto denied = protection.protect(ranges);
        message = denied ? "" : denied.error().message();
    }).join();
    CHECK(message.find("gpa:0xb000") != std::string::npos);
    CHECK(message.find("vm.max_map_count") != std::string::npos);
    for (uint64_t page = 0x5000; page < 0xf000; page += page_bytes)
        CHECK(is_writable(host_of(*memory, page)));
    CHECK(memory->store(GuestPhysical{0x5000}, 1));
    CHECK(memory->sealed_bytes() == 0);
    CHECK(protection.protect(ranges));
}

TEST_CASE("when a range cannot be given back either, no host write is let through to fault") {
    auto memory = GuestMemory::create(1_MiB);
    REQUIRE(memory);
    MappingProtection protection(*memory);
    const std::array ranges{pages_at(0x5000, 1), pages_at(0x8000, 2)};
    bool denied = true;
    std::thread([&] {
        make_fail({host_of(*memory, 0x8000), PROT_READ});
        make_fail({host_of(*memory, 0x5000), PROT_READ | PROT_WRITE});
        denied = protection.protect(ranges).has_value();
    }).join();
    CHECK_FALSE(denied);
    CHECK_FALSE(is_writable(host_of(*memory, 0x5000)));
    CHECK(memory->store(GuestPhysical{0x5000}, 1).error() == GuestFault::locked);
    CHECK(memory->clear(pages_at(0x5000, 1)).error() == GuestFault::locked);
    const std::array all{pages_at(0x4000, 3)};
    CHECK(memory->begin_transfer(all, GuestMemory::Direction::into_ram).error() == GuestFault::locked);
    CHECK(memory->fetch<uint32_t>(GuestPhysical{0x5000}) == 0U);
}

struct TableGate : WriteGate {
    LockTable table;
    bool may_write(const GuestRange& range) const override { return table.may_write(range); }
};

// A write that asks before the lock and lands after mprotect ends this process.
TEST_CASE("locks published, drained and protected while host threads write let no write through to fault") {
    constexpr uint64_t pages = 500;
    auto memory = GuestMemory::create(pages * page_bytes);
    REQUIRE(memory);
    TableGate gate;
    memory->set_write_gate(&gate);
    MappingProtection protection(*memory, Sealing::never);
    std::atomic<uint64_t> next = 0; // the page that is locked next: where writes matter
    std::atomic<int> ready = 0;
    // Each writer has half of every page; its transfers take as long as a turn of the other threads.
    const auto write_all = [&](const std::stop_token& stop, uint64_t half) {
        ++ready;
        for (uint64_t i = 0; !stop.stop_requested(); ++i) {
            const GuestRange part = GuestRange::of({next * page_bytes + half}, page_bytes / 2);
            // Refused when the page is locked just now.
            (void)memory->store(GuestPhysical{part.start().value + i % 256 * 8}, i).has_value();
            const auto transfer = memory->begin_transfer({&part, 1}, GuestMemory::Direction::into_ram);
            std::this_thread::yield();
            if (transfer)
                std::memset(transfer->vectors().front().iov_base, 1, transfer->bytes());
        }
    };
    {
        const std::array writers{std::jthread(write_all, 0), std::jthread(write_all, page_bytes / 2)};
        while (ready != static_cast<int>(writers.size()))
            std::this_thread::yield();
        for (uint64_t page = 0; page < pages - 1; ++page) {
            std::this_thread::yield();
            const auto change = gate.table.add({pages_at(page * page_bytes, 1)});
            REQUIRE(change);
            REQUIRE(memory->drain_writes({}));
            REQUIRE(protection.protect(change->newly_locked));
            next = page + 1;
        }
    }
    CHECK(memory->clear(pages_at(0, pages)).error() == GuestFault::locked);
    CHECK(gate.table.count() == 1);
}

} // namespace
} // namespace casemate
