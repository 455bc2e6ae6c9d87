// SPDX-License-Identifier: Apache-2.0
// Address spaces that come, change, take turns and go: each has a page-table root, and so has each entry in
// it.
#include "load.hpp"

#include <array>
#include <csignal>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <sched.h>
#include <sys/mman.h>
#include <system_error>
#include <thread>
#include <unistd.h>

namespace load {
namespace {

constexpr size_t page = 4096;
constexpr uint64_t slot_bytes = 1ULL << 39U; // of an entry in a root of 4 levels

// Two processes that wake each other, a byte each way a round: two context switches where there is one CPU.
void ping_pong(unsigned rounds) {
    int there[2];
    int back[2];
    must("pipe", pipe(there));
    must("pipe", pipe(back));
    char byte = 1;
    const pid_t child = start_child([&] {
        for (unsigned i = 0; i < rounds; ++i) {
            check(read(there[0], &byte, 1) == 1, "pipe to the child");
            check(write(back[1], &byte, 1) == 1, "pipe to the parent");
        }
    });
    for (unsigned i = 0; i < rounds; ++i) {
        check(write(there[1], &byte, 1) == 1, "pipe to the child");
        check(read(back[0], &byte, 1) == 1, "pipe from the child");
    }
    expect_end(child, 0);
}

// A mapping of many GiB of which two pages are used, the first and the last.
struct Sparse {
    static constexpr uint64_t bytes = 64ULL << 30U;
    uint64_t address;

    std::byte* at(uint64_t offset) const {
        // NOLINTNEXTLINE(performance-no-int-to-ptr): user space chooses where it maps
        return reinterpret_cast<std::byte*>(address + offset);
    }
    uint64_t& first() const { return *reinterpret_cast<uint64_t*>(at(0)); }
    uint64_t& last() const { return *reinterpret_cast<uint64_t*>(at(bytes - page)); }
    void map() const {
        constexpr int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED_NOREPLACE;
        check(mmap(at(0), bytes, PROT_READ | PROT_WRITE, flags, -1, 0) == at(0), "mmap at a fixed address");
    }
    void unmap() const { must("munmap", munmap(at(0), bytes)); }
    void put(uint64_t value) const { first() = value, last() = ~value; }
    bool has(uint64_t value) const { return first() == value && last() == ~value; }
    bool is_new() const { return first() == 0 && last() == 0; }
};

// Entries of a root that come, go and come again, each time with an empty table behind them; and what forks
// and ends meanwhile.
void slots(unsigned rounds) {
    constexpr unsigned together = 8;
    // Programs, libraries and stacks are below and above.
    constexpr unsigned lowest = 16;
    constexpr unsigned choice = 144;
    for (unsigned i = 0; i < rounds; ++i) {
        std::array<Sparse, together> mappings{};
        for (unsigned k = 0; k < together; ++k) {
            const uint64_t slot = lowest + (i + k * 17) % choice;
            // Half of them reach into the next slot.
            mappings[k].address = slot * slot_bytes + (k % 2 == 0 ? 0 : slot_bytes - Sparse::bytes / 2);
        }
        for (const uint64_t again : {1U, 2U}) {
            for (const Sparse& one : mappings) {
                one.map();
                check(one.is_new(), "a new mapping is not empty");
                one.put(one.address * again);
            }
            in_child([&] {
                for (const Sparse& one : mappings) {
                    check(one.has(one.address * again), "a child's copy differs");
                    one.put(i);
                }
                mappings[i % together].unmap();
            });
            for (const Sparse& one : mappings)
                check(one.has(one.address * again), "a child's store reached its parent");
            for (unsigned k = 0; k < together; ++k)
                mappings[(k * 3 + i) % together].unmap();
        }
    }
}

[[noreturn]] void answer(unsigned number) {
    char word[12];
    (void)std::snprintf(word, sizeof word, "%u", number);
    std::array<char*, 4> words{const_cast<char*>(self), const_cast<char*>(answer_word), word, nullptr};
    execv(self, words.data());
    fail_with_errno("execv");
}

// One thread runs a program while others end, come, or work.
void exec_among_threads(unsigned rounds) {
    constexpr unsigned together = 6;
    for (unsigned i = 0; i < rounds; ++i) {
        in_child(
            [i] {
                const auto work = [i](unsigned one) {
                    if (one == i % together)
                        answer(i % 100);
                    for (unsigned turn = 0; one % 2 == 0 || turn < i % 16; ++turn)
                        sched_yield();
                };
                try {
                    for (unsigned one = 0; one < together; ++one)
                        std::thread(work, one).detach();
                } catch (const std::system_error& error) {
                    // As clone(2) says while a thread of this process is running a program.
                    check(error.code() == std::errc::resource_unavailable_try_again, "no thread was started");
                }
                for (;;)
                    pause();
            },
            exited(static_cast<int>(i % 100)));
    }
}

struct Sharer {
    unsigned number = 0;
    std::array<std::byte, 65536> stack;
};

int share(void* argument) {
    const unsigned number = static_cast<const Sharer*>(argument)->number;
    if (number % 2 == 0)
        answer(number);
    sched_yield();
    return static_cast<int>(number);
}

// Processes that share an address space: some leave it for a program, some end, in any order.
void exec_among_sharers(unsigned rounds) {
    constexpr unsigned together = 4;
    static std::array<Sharer, together> sharers;
    for (unsigned i = 0; i < rounds; ++i) {
        in_child([i] {
            std::array<pid_t, together> children{};
            for (unsigned one = 0; one < together; ++one) {
                sharers[one].number = (i + one) % 100;
                std::byte* const top = sharers[one].stack.data() + sharers[one].stack.size();
                children[one] = must("clone", clone(share, top, CLONE_VM | SIGCHLD, &sharers[one]));
            }
            for (unsigned one = 0; one < together; ++one)
                expect_end(children[one], exited(static_cast<int>((i + one) % 100)));
        });
    }
}

constexpr Step all_steps[] = {
    {"ping_pong", ping_pong},
    {"slots", slots},
    {"exec_among_threads", exec_among_threads},
    {"exec_among_sharers", exec_among_sharers},
};

} // namespace

std::span<const Step> address_space_steps() {
    return all_steps;
}

} // namespace load
