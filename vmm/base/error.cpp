// SPDX-License-Identifier: Apache-2.0
#include "base/error.hpp"

#include <cerrno>
#include <cstring>
#include <memory>

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

struct Error::Contents {
    std::string tried;
    std::string hint;
    int number = 0;
    Blame blame = Blame::host;
    std::shared_ptr<const Contents> cause;
};

void Error::Delete::operator()(Contents* contents) const {
    delete contents;
}

Error::Error(std::string_view tried, Blame blame)
    : m_contents(new Contents{.tried = std::string(tried), .hint = {}, .blame = blame, .cause = {}}) {}

Error::Error(const Error& other)
    : m_contents(other.m_contents ? new Contents(*other.m_contents) : nullptr) {}

Error& Error::operator=(const Error& other) {
    return *this = Error(other);
}

Error::~Error() = default;

Error Error::system(std::string_view tried, int number) {
    Error error(tried);
    error.m_contents->number = number;
    return error;
}

Error Error::usage(std::string_view tried) {
    return Error(tried, Blame::usage);
}

Error Error::because_of(Error cause) && {
    m_contents->cause = std::move(cause.m_contents);
    return std::move(*this);
}

Error Error::hint(std::string_view text) && {
    m_contents->hint = text;
    return std::move(*this);
}

Error Error::blame(Blame blame) && {
    m_contents->blame = *hint_for(number()) != '\0' ? Blame::host : blame;
    return std::move(*this);
}

Blame Error::blame() const {
    return m_contents->blame;
}

int Error::number() const {
    for (const Contents* error = m_contents.get(); error != nullptr; error = error->cause.get())
        if (error->number != 0)
            return error->number;
    return 0;
}

bool Error::is_limit() const {
    return number() == EAGAIN || *hint_for(number()) != '\0';
}

std::string Error::message() const {
    std::string text;
    std::string hints;
    for (const Contents* error = m_contents.get(); error != nullptr; error = error->cause.get()) {
        if (!text.empty())
            text += ": ";
        text += error->tried;
        if (error->number != 0) {
            text += ": " + describe_errno(error->number);
        }
        if (!error->hint.empty())
            hints += "; " + error->hint;
    }
    const bool of_files = number() == EMFILE || number() == ENFILE;
    return text + (hints.empty() || of_files ? hint_for(number()) : hints);
}

} // namespace casemate
