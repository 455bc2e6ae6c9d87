// SPDX-License-Identifier: Apache-2.0
#include "programs/failure.hpp"

#include <cerrno>
#include <cstdarg>
#include <cstdio>
#include <cstring>
#include <unistd.h>

namespace failure {
namespace {

Manner how{.prefix = "", .descriptor = STDERR_FILENO, .status = 1};

[[noreturn]] void end(const char* format, va_list arguments, const char* separator, const char* reason) {
    char what[256];
    (void)std::vsnprintf(what, sizeof what, format, arguments);
    dprintf(how.descriptor, "%s%s%s%s\n", how.prefix, what, separator, reason);
    _exit(how.status);
}

} // namespace

void set_manner(Manner manner) {
    how = manner;
}

void fail(const char* format, ...) {
    va_list arguments;
    va_start(arguments, format);
    end(format, arguments, "", "");
}

void fail_with_errno(const char* format, ...) {
    const int error = errno;
    va_list arguments;
    va_start(arguments, format);
    end(format, arguments, ": ", std::strerror(error));
}

} // namespace failure
