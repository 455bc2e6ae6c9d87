// SPDX-License-Identifier: Apache-2.0
// How the small programs that tests and tools/bench run fail: with one line, at once.
#pragma once

namespace failure {

struct Manner {
    const char* prefix; // of the line; lives as long as the process
    int descriptor;     // where the line goes
    int status;         // the process's
};
// For this process and those that it forks later, before anything in it can fail.
void set_manner(Manner manner);

// Says what failed, and ends this process, without flushing what it has in buffers.
[[noreturn, gnu::format(printf, 1, 2)]] void fail(const char* format, ...);
// The same, and errno after it.
[[noreturn, gnu::format(printf, 1, 2)]] void fail_with_errno(const char* format, ...);

// A system call's result, which has to be 0 or more.
template <typename T>
T must(const char* call, T result) {
    if (result < 0)
        fail_with_errno("%s", call);
    return result;
}

// Fails unless `held`.
inline void check(bool held, const char* what) {
    if (!held)
        fail("%s", what);
}

} // namespace failure
