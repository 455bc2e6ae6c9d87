// SPDX-License-Identifier: Apache-2.0
#include "base/error.hpp"

#include <cerrno>
#include <cstring>

namespace casemate {
namespace {

// What helps wherever a limit of the process or the host is met.
const char* hint_for(int number) {
    switch (number) {
    case EMFILE:
        return "; raise the limit on open files (ulimit -n)";
    case ENFILE:
        return "; the host's limit on open files is reached: raise fs.file-max";
    case ENOMEM:
        return "; free memory, or raise the limits on it (ulimit -v, ulimit -l, the cgroup's)";
    default:
        return "";
    }
}

} // namespace

std::string describe_errno(int number) {
    const char* const description = strerrordesc_np(number);
    return description != nullptr ? description : "unknown error " + std::to_string(number);
}

Error::Error(std::string tried, Blame blame)
    : m_tried(std::move(tried))
    , m_blame(blame) {}

Error Error::system(std::string tried, int number) {
    Error error(std::move(tried));
    error.m_number = number;
    return error;
}

Error Error::because_of(Error cause) && {
    m_cause = std::make_shared<const Error>(std::move(cause));
    return std::move(*this);
}

Error Error::hint(std::string text) && {
    m_hint = std::move(text);
    return std::move(*this);
}

Error Error::blame(Blame blame) && {
    m_blame = blame;
    return std::move(*this);
}

int Error::number() const {
    for (const Error* error = this; error != nullptr; error = error->m_cause.get())
        if (error->m_number != 0)
            return error->m_number;
    return 0;
}

std::string Error::message() const {
    std::string text;
    std::string hints;
    for (const Error* error = this; error != nullptr; error = error->m_cause.get()) {
        if (!text.empty())
            text += ": ";
        text += error->m_tried;
        if (error->m_number != 0) {
            text += ": " + describe_errno(error->m_number);
        }
        if (!error->m_hint.empty())
            hints += "; " + error->m_hint;
    }
    return text + (hints.empty() ? hint_for(number()) : hints);
}

} // namespace casemate
