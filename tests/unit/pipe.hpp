// SPDX-License-Identifier: Apache-2.0
// A pipe whose ends a test holds.
#pragma once

#include "base/fd.hpp"

#include <array>
#include <doctest/doctest.h>
#include <fcntl.h>
#include <string>
#include <unistd.h>

namespace casemate {

struct Pipe {
    Fd read_end;
    Fd write_end;
    // `flags` as pipe2(2) has them, beside O_CLOEXEC.
    explicit Pipe(int flags = 0) {
        std::array<int, 2> ends{};
        REQUIRE(pipe2(ends.data(), O_CLOEXEC | flags) == 0);
        read_end = Fd(ends[0]);
        write_end = Fd(ends[1]);
    }
};

// One read(2); empty at the end, or when there is nothing and it does not wait.
inline std::string read_some(int descriptor, size_t most = 4096) {
    std::string text(most, '\0');
    const ssize_t count = read(descriptor, text.data(), most);
    text.resize(count > 0 ? static_cast<size_t>(count) : 0);
    return text;
}

} // namespace casemate
