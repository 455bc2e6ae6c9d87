// SPDX-License-Identifier: Apache-2.0
// EscapeParser: finds the monitor's own commands, Ctrl-A and a letter, in what the user types.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>

namespace casemate {

enum class EscapeCommand : uint8_t { none, quit, power_button, help };

class EscapeParser {
public:
    static constexpr std::string_view help = "Ctrl-A x ends the guest, Ctrl-A c presses its power button, "
                                             "Ctrl-A a sends Ctrl-A, Ctrl-A h shows this";

    struct Step {
        EscapeCommand command = EscapeCommand::none;
        // What the guest gets. An unknown command goes to it whole: nothing typed is lost.
        std::byte characters[2] = {};
        size_t count = 0;
    };

    Step next(std::byte typed);

private:
    bool m_escaped = false; // the last character was Ctrl-A
};

} // namespace casemate
