// SPDX-License-Identifier: Apache-2.0
// Error: what was tried, on what, why it failed, what to do next; and Result/TRY to carry it.
#pragma once

#include <expected>
#include <memory>
#include <string>
#include <string_view>
#include <utility>

namespace casemate {

// Whose mistake it is decides the exit status (machine/exit_status.hpp). A guest never causes either.
enum class Blame {
    host,  // the host or the monitor failed
    usage, // an option or a file given by the user is wrong
};

// One pointer, whose contents live out of line: errors are rare, and every call that may fail moves one.
// What makes them is cold: compilers put all that leads there apart from what runs, which then takes fewer
// pages.
class [[nodiscard]] Error {
public:
    // `tried` names the action and its object: "open /dev/kvm". No full stop.
    [[gnu::cold]] explicit Error(std::string_view tried, Blame blame = Blame::host);
    Error(const Error& other);
    Error(Error&& other) noexcept = default;
    Error& operator=(const Error& other);
    Error& operator=(Error&& other) noexcept = default;
    ~Error();

    // The failed call and its errno value; `number` is positive.
    [[gnu::cold]] static Error system(std::string_view tried, int number);
    [[gnu::cold]] static Error usage(std::string_view tried);

    // Wraps this error: "cannot boot guest: <this>". The outer text must not repeat the cause.
    [[gnu::cold]] Error because_of(Error cause) &&;
    // One imperative sentence on what the user can do. Printed last.
    [[gnu::cold]] Error hint(std::string_view text) &&;
    // A limit on files or memory stays the host's.
    [[gnu::cold]] Error blame(Blame blame) &&;

    Blame blame() const;
    // errno of this error or of the nearest cause that has one; 0 when none has.
    int number() const;
    // Whether the process or the host has met a limit on files, memory or threads (number() is EMFILE,
    // ENFILE, ENOMEM or EAGAIN). It tells nothing about what was tried.
    bool is_limit() const;

    // One line: outermost first, joined by ": ", the hints after "; ". What helps against a limit on files
    // stands instead of them, against one on memory where there is none.
    std::string message() const;

private:
    struct Contents;
    struct Delete {
        void operator()(Contents* contents) const;
    };
    std::unique_ptr<Contents, Delete> m_contents; // null only when moved from
};

// What an errno value means, in English; also for one that the C library does not know.
std::string describe_errno(int number);

template <typename T>
using Result = std::expected<T, Error>;

[[gnu::cold]] inline std::unexpected<Error> fail(Error error) {
    return std::unexpected<Error>(std::move(error));
}

} // namespace casemate

// Yields the value of a Result, or returns its error from the enclosing function. Moves; must not be nested
// inside another TRY (statement expressions would shadow).
#define TRY(expression)                                                                                      \
    ({                                                                                                       \
        auto casemate_try_result = (expression);                                                             \
        if (!casemate_try_result) [[unlikely]]                                                               \
            return std::unexpected(std::move(casemate_try_result).error());                                  \
        *std::move(casemate_try_result);                                                                     \
    })
