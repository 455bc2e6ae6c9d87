// SPDX-License-Identifier: Apache-2.0
#include "devices/escape_parser.hpp"

namespace casemate {
namespace {

constexpr std::byte control_a{0x01};

} // namespace

EscapeParser::Step EscapeParser::next(std::byte typed) {
    if (!m_escaped) {
        m_escaped = typed == control_a;
        return m_escaped ? Step{} : Step{.characters = {typed}, .count = 1};
    }
    m_escaped = false;
    switch (std::to_integer<char>(typed)) {
    case 'x':
        return {.command = EscapeCommand::quit};
    case 'c':
        return {.command = EscapeCommand::power_button};
    case 'h':
    case '?':
        return {.command = EscapeCommand::help};
    case 'a':
    case '\x01':
        return {.characters = {control_a}, .count = 1};
    default:
        return {.characters = {control_a, typed}, .count = 2};
    }
}

} // namespace casemate
