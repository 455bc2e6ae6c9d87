// SPDX-License-Identifier: Apache-2.0
// What the steps of guest-load share: how they are listed, and children that end as told.
#pragma once

#include "programs/failure.hpp"

#include <sys/types.h>

#include <cstddef>
#include <span>

namespace load {

struct Step {
    const char* name;
    void (*run)(unsigned rounds);
};

// Each file's steps.
std::span<const Step> process_steps();
std::span<const Step> memory_steps();
std::span<const Step> filter_steps();
std::span<const Step> container_steps();
std::span<const Step> file_steps();
std::span<const Step> address_space_steps();
std::span<const Step> crowd_steps();
std::span<const Step> churn_steps();
std::span<const Step> disk_steps();

// The step of any file, or null.
const Step* find_step(const char* name);

using failure::check, failure::fail, failure::fail_with_errno, failure::must;

inline constexpr int exited(int status) {
    return status << 8;
}
// Waits for the end of `child`, which has to be `want` as waitpid(2) tells it.
void expect_end(pid_t child, int want);

// Runs `body` in a new process, which then ends with status 0 if `body` has not ended it.
template <typename F>
pid_t start_child(F body);
[[noreturn]] void end_child(int status);
pid_t fork_child();

template <typename F>
pid_t start_child(F body) {
    const pid_t child = fork_child();
    if (child == 0) {
        body();
        end_child(0);
    }
    return child;
}

template <typename F>
void in_child(F body, int want = 0) {
    expect_end(start_child(body), want);
}

// A whole small file, read from its start; `buffer` ends with a zero. The number of bytes, or -1 and errno.
ssize_t read_file(const char* path, std::span<char> buffer);
// One write(2) of the whole text to an existing file.
bool write_file(const char* path, const char* text);

// How this program is run again: its path and the word for "end with this status".
inline constexpr const char* self = "/proc/self/exe";
inline constexpr const char* answer_word = "answer";

} // namespace load
