// SPDX-License-Identifier: Apache-2.0
// EndRequests: what the signals that ask for the guest's end come to.
//
// The first one presses the power button, and a second one ends the guest at once. A hang-up (SIGHUP) comes
// in numbers, from the kernel and from a shell, when a terminal is closed: so many of them count as one, and
// the guest, whom nobody can ask any more, has a time to power off.
#pragma once

#include <chrono>
#include <csignal>
#include <optional>

namespace casemate {

// One thread; no clock of its own.
class EndRequests {
public:
    using Clock = std::chrono::steady_clock;
    // systemd gives a service 90 s to stop.
    static constexpr std::chrono::seconds hang_up_time{120};

    enum class Step { none, press_power_button, end };
    // `signal` is SIGINT, SIGTERM or SIGHUP.
    Step take(int signal, Clock::time_point now) {
        const bool hang_up = signal == SIGHUP;
        if (hang_up && !m_hung_up)
            m_hung_up = now;
        else if (hang_up)
            return Step::none;
        if (!m_asked) {
            m_asked = true;
            return Step::press_power_button;
        }
        return hang_up ? Step::none : Step::end;
    }
    // How long to wait for the next signal; none: for ever. Zero: end the guest.
    std::optional<std::chrono::milliseconds> patience(Clock::time_point now) const {
        using std::chrono::milliseconds;
        if (!m_hung_up)
            return std::nullopt;
        const auto left = std::chrono::ceil<milliseconds>(*m_hung_up + hang_up_time - now);
        return left > milliseconds(0) ? left : milliseconds(0);
    }

private:
    bool m_asked = false;
    std::optional<Clock::time_point> m_hung_up;
};

} // namespace casemate
