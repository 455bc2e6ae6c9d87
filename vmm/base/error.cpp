// SPDX-License-Identifier: Apache-2.0
#include "base/error.hpp"

#include <cstring>

namespace casemate {

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
    return text + hints;
}

} // namespace casemate
