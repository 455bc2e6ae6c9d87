// SPDX-License-Identifier: Apache-2.0
// User page tables of every shape: small, huge, file-backed and executable mappings that come, change and go.
#include "load.hpp"

#include <array>
#include <atomic>
#include <cerrno>
#include <csetjmp>
#include <csignal>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

namespace load {
namespace {

constexpr size_t page = 4096;
constexpr size_t huge_page = 2UL << 20;

std::byte* map(size_t bytes, int protection, int flags, int file = -1) {
    void* const address = mmap(nullptr, bytes, protection, flags | (file < 0 ? MAP_ANONYMOUS : 0), file, 0);
    if (address == MAP_FAILED)
        fail_with_errno("mmap");
    return static_cast<std::byte*>(address);
}

uint64_t& word(std::byte* address) {
    return *reinterpret_cast<uint64_t*>(address);
}

sigjmp_buf after_fault;

void on_fault(int /*number*/) {
    siglongjmp(after_fault, 1);
}

// Whether a store faults, with SIGSEGV or SIGBUS.
bool faults(std::byte* address) {
    struct sigaction action{};
    action.sa_handler = on_fault;
    must("sigaction", sigaction(SIGSEGV, &action, nullptr));
    must("sigaction", sigaction(SIGBUS, &action, nullptr));
    if (sigsetjmp(after_fault, 1) != 0)
        return true;
    *reinterpret_cast<volatile uint64_t*>(address) = 1;
    return false;
}

void anonymous(unsigned rounds) {
    for (unsigned i = 0; i < rounds; ++i) {
        const size_t pages = 1 + i % 16;
        std::byte* memory = map(pages * page, PROT_READ | PROT_WRITE, MAP_PRIVATE);
        for (size_t at = 0; at < pages; ++at)
            word(memory + at * page) = i + at;
        must("mprotect", mprotect(memory, page, PROT_READ));
        check(faults(memory), "a store to a read-only page did not fault");
        must("mprotect", mprotect(memory, page, PROT_READ | PROT_WRITE));
        check(!faults(memory + 8), "a store to a writable page faulted");
        void* const moved = mremap(memory, pages * page, (pages + 40) * page, MREMAP_MAYMOVE);
        check(moved != MAP_FAILED, "mremap");
        memory = static_cast<std::byte*>(moved);
        for (size_t at = 0; at < pages; ++at)
            check(word(memory + at * page) == i + at, "mremap lost a page");
        must("madvise", madvise(memory, page, MADV_DONTNEED));
        check(word(memory) == 0, "a dropped page is not zero");
        must("munmap", munmap(memory, (pages + 40) * page));
    }
}

void file_mapping(unsigned rounds) {
    char name[] = "mapped-XXXXXX";
    const int file = must("mkstemp", mkstemp(name));
    must("unlink", unlink(name));
    for (unsigned i = 0; i < rounds; ++i) {
        const size_t pages = 1 + i % 8;
        must("ftruncate", ftruncate(file, static_cast<off_t>(pages * page)));
        std::byte* const shared = map(pages * page, PROT_READ | PROT_WRITE, MAP_SHARED, file);
        std::byte* const copy = map(pages * page, PROT_READ | PROT_WRITE, MAP_PRIVATE, file);
        word(shared) = i;
        check(word(copy) == i, "two mappings of a file differ");
        word(copy) = ~uint64_t{i};
        must("msync", msync(shared, page, MS_SYNC));
        uint64_t written = 0;
        check(pread(file, &written, sizeof written, 0) == sizeof written && written == i,
              "a private mapping's store reached the file, or a shared one's did not");
        must("ftruncate", ftruncate(file, 0));
        check(faults(shared), "a store past the end of a file did not fault");
        must("munmap", munmap(shared, pages * page));
        must("munmap", munmap(copy, pages * page));
    }
    close(file);
}

// Code that is written, run, changed and run again.
void executable(unsigned rounds) {
    for (unsigned i = 0; i < rounds; ++i) {
        std::byte* const memory = map(page, PROT_READ | PROT_WRITE, MAP_PRIVATE);
        for (const uint32_t value : {i, ~i}) {
            // mov eax, imm32; ret
            std::array<unsigned char, 6> code{0xb8, 0, 0, 0, 0, 0xc3};
            std::memcpy(&code[1], &value, sizeof value);
            must("mprotect", mprotect(memory, page, PROT_READ | PROT_WRITE));
            std::memcpy(memory, code.data(), code.size());
            must("mprotect", mprotect(memory, page, PROT_READ | PROT_EXEC));
            check(faults(memory), "a store to executable memory did not fault");
            const auto function = reinterpret_cast<uint32_t (*)()>(memory);
            check(function() == value, "code gave the wrong answer");
        }
        must("munmap", munmap(memory, page));
    }
}

size_t huge_kib_in_use() {
    static std::array<char, 4096> text;
    must("/proc/self/smaps_rollup", read_file("/proc/self/smaps_rollup", text));
    const char* const line = std::strstr(text.data(), "AnonHugePages:");
    check(line != nullptr, "smaps_rollup has no AnonHugePages");
    return std::strtoul(line + std::strlen("AnonHugePages:"), nullptr, 10);
}

// Huge pages that are made, split by a mapping change, copied after fork, and unmapped in parts.
void huge(unsigned rounds) {
    bool was_huge = false;
    for (unsigned i = 0; i < rounds; ++i) {
        std::byte* const whole = map(2 * huge_page, PROT_READ | PROT_WRITE, MAP_PRIVATE);
        std::byte* const memory =
            whole + (huge_page - reinterpret_cast<uintptr_t>(whole) % huge_page) % huge_page;
        must("madvise", madvise(memory, huge_page, MADV_HUGEPAGE));
        for (size_t at = 0; at < huge_page; at += 16 * page)
            word(memory + at) = at + i;
        was_huge = was_huge || huge_kib_in_use() >= huge_page / 1024;
        in_child([&] {
            word(memory + page) = 7;
            check(word(memory) == i && word(memory + page) == 7, "a copy after fork differs");
        });
        check(word(memory + page) == 0, "a child's store reached its parent");
        must("mprotect", mprotect(memory + 8 * page, page, PROT_READ));
        check(faults(memory + 8 * page), "a store to a split huge page did not fault");
        must("munmap", munmap(memory + 32 * page, 16 * page));
        for (size_t at = 0; at < huge_page; at += 16 * page)
            check(at == 32 * page || word(memory + at) == at + i, "a split huge page lost data");
        must("munmap", munmap(whole, 2 * huge_page));
    }
    check(was_huge, "no huge page was given");
}

uint64_t vmstat(const char* prefix) {
    static std::array<char, 16384> text;
    must("/proc/vmstat", read_file("/proc/vmstat", text));
    uint64_t sum = 0;
    for (const char* line = text.data(); line != nullptr; line = std::strchr(line, '\n')) {
        line += *line == '\n' ? 1 : 0;
        if (std::strncmp(line, prefix, std::strlen(prefix)) == 0)
            if (const char* const number = std::strchr(line, ' '); number != nullptr)
                sum += std::strtoull(number, nullptr, 10);
    }
    return sum;
}

// Takes memory until the kernel takes `rounds` pages of the page cache back. In a file system with sparse
// files.
void pressure(unsigned rounds) {
    constexpr size_t step = 1UL << 20;
    const uint64_t before = vmstat("pgsteal_");
    char name[] = "sparse-XXXXXX";
    const int file = must("mkstemp", mkstemp(name));
    must("unlink", unlink(name));
    const long total = sysconf(_SC_PHYS_PAGES) * static_cast<long>(page);
    must("ftruncate", ftruncate(file, total));
    static std::array<std::byte, 65536> buffer;
    ssize_t count = 0;
    for (long cached = 0; vmstat("pgsteal_") < before + rounds && cached < total; cached += step)
        for (size_t have = 0; have < step; have += static_cast<size_t>(count)) {
            count = must("read", read(file, buffer.data(), buffer.size()));
            check(count > 0 &&
                      std::memcmp(buffer.data(), buffer.data() + 1, static_cast<size_t>(count) - 1) == 0 &&
                      buffer[0] == std::byte{0},
                  "a hole in a file is not zero");
        }
    // Now the cache has all that was free, and this takes from it.
    constexpr size_t wanted = 16;
    std::array<std::byte*, wanted> taken{};
    for (size_t i = 0; i < wanted; ++i) {
        taken[i] = map(step, PROT_READ | PROT_WRITE, MAP_PRIVATE);
        for (size_t at = 0; at < step; at += page)
            word(taken[i] + at) = at + i;
    }
    for (size_t i = 0; i < wanted; ++i)
        for (size_t at = 0; at < step; at += page)
            check(word(taken[i] + at) == at + i, "memory under pressure lost data");
    check(vmstat("pgsteal_") >= before + rounds, "the kernel reclaimed too little");
    check(vmstat("oom_kill ") == 0, "the kernel killed a process");
    close(file);
}

// Faults in much memory, and reads it in an order that no TLB holds.
void touch(unsigned rounds) {
    constexpr size_t pages = 8192;
    constexpr size_t reads = 16 * pages;
    for (unsigned i = 0; i < rounds; ++i) {
        std::byte* const memory = map(pages * page, PROT_READ | PROT_WRITE, MAP_PRIVATE);
        for (size_t at = 0; at < pages; ++at)
            word(memory + at * page) = at;
        uint64_t next = i;
        for (size_t n = 0; n < reads; ++n) {
            next = next * 6364136223846793005 + 1442695040888963407; // Knuth's MMIX generator
            const size_t at = (next >> 33U) % pages;
            check(word(memory + at * page) == at, "a page lost its contents");
        }
        must("munmap", munmap(memory, pages * page));
    }
}

constexpr Step all_steps[] = {
    {"anonymous", anonymous}, {"file_mapping", file_mapping}, {"executable", executable},
    {"huge", huge},           {"pressure", pressure},         {"touch", touch},
};

} // namespace

std::span<const Step> memory_steps() {
    return all_steps;
}

} // namespace load
