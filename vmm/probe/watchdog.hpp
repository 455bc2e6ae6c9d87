// SPDX-License-Identifier: Apache-2.0
// Watchdog: runs work that may never return, such as KVM_RUN on a KVM with a bug, for a bounded time.
#pragma once

#include "base/error.hpp"

#include <chrono>
#include <csignal>
#include <functional>

namespace casemate {

// The signal that interrupts bounded work. It is blocked on the work's thread, so it needs no handler and
// changes nothing process-wide: the work unblocks it where it waits (KVM_SET_SIGNAL_MASK, ppoll), and it
// stays pending, which makes every later wait of the work return at once too.
constexpr int watchdog_signal = SIGUSR1;
// All signals but watchdog_signal: the mask for such a wait.
sigset_t watchdog_wait_mask();

// For KVM_RUN to return after the signal, on a busy host too.
constexpr std::chrono::milliseconds interrupt_grace{5000};

enum class BoundedEnd {
    finished,    // returned by itself
    interrupted, // returned after the signal
    abandoned,   // did not return after the signal either: its thread was left behind
};

// Runs `work` on a thread of its own: for `limit` of CPU time, or ten times that of waiting, so that a busy
// host does not pass for one that hangs; then signals it, then waits for `grace` and leaves it behind. `work`
// must own what it uses, for it may outlive the call. Fails when no thread can be had.
Result<BoundedEnd> run_bounded(std::function<void()> work, std::chrono::milliseconds limit,
                               std::chrono::milliseconds grace);

} // namespace casemate
