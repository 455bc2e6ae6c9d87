// SPDX-License-Identifier: Apache-2.0
#include "devices/escape_parser.hpp"

#include <doctest/doctest.h>
#include <string>

namespace casemate {
namespace {

struct Typed {
    std::string to_guest;
    std::string commands;
};
Typed type(std::string_view keys) {
    EscapeParser parser;
    Typed typed;
    for (const char key : keys) {
        const auto step = parser.next(static_cast<std::byte>(key));
        for (size_t i = 0; i < step.count; ++i)
            typed.to_guest.push_back(static_cast<char>(step.characters[i]));
        if (step.command != EscapeCommand::none)
            typed.commands.push_back("-qph"[static_cast<size_t>(step.command)]);
    }
    return typed;
}

TEST_CASE("ordinary keys go to the guest") {
    const Typed typed = type("xcah?\xff\x03");
    CHECK(typed.to_guest == "xcah?\xff\x03");
    CHECK(typed.commands.empty());
}

TEST_CASE("Ctrl-A and a letter is a command and no letter for the guest") {
    const Typed typed = type("1\x01x2\x01"
                             "c3\x01h4\x01?5");
    CHECK(typed.to_guest == "12345");
    CHECK(typed.commands == "qphh");
}

TEST_CASE("Ctrl-A twice, or Ctrl-A a, is one Ctrl-A") {
    CHECK(type("\x01\x01x").to_guest == "\x01x");
    CHECK(type("\x01"
               "ax")
              .to_guest == "\x01x");
    CHECK(type("\x01\x01x\x01"
               "ax")
              .commands.empty());
}

TEST_CASE("an unknown command goes to the guest whole") {
    CHECK(type("\x01zx").to_guest == "\x01zx");
}

} // namespace
} // namespace casemate
