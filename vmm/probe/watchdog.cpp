// SPDX-License-Identifier: Apache-2.0
#include "probe/watchdog.hpp"

#include <algorithm>
#include <condition_variable>
#include <ctime>
#include <memory>
#include <mutex>
#include <pthread.h>
#include <system_error>
#include <thread>

namespace casemate {
namespace {

using std::chrono::milliseconds;

// So many times its limit of CPU time may go by while work waits, for a CPU among other things.
constexpr int patience = 10;

struct Completion {
    std::mutex mutex;
    std::condition_variable changed;
    bool done = false;

    bool wait_for(milliseconds time) {
        std::unique_lock lock(mutex);
        return changed.wait_for(lock, time, [this] { return done; });
    }
    void set() {
        {
            const std::lock_guard lock(mutex);
            done = true;
        }
        changed.notify_one();
    }
};

// A new thread inherits the mask, so no signal can reach it before it is blocked.
Result<std::thread> start_with_signals_blocked(std::function<void()> body) {
    sigset_t all;
    sigset_t previous;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &previous);
    Result<std::thread> result = fail(Error("start a probe thread"));
    try {
        result = std::thread(std::move(body));
    } catch (const std::system_error& error) {
        result = fail(
            Error::system("start a probe thread", error.code().value()).hint("raise the limit on processes"));
    }
    pthread_sigmask(SIG_SETMASK, &previous, nullptr);
    return result;
}

// Zero for a thread that has ended.
milliseconds cpu_time_of(std::thread& thread) {
    clockid_t clock = 0;
    timespec used{};
    if (pthread_getcpuclockid(thread.native_handle(), &clock) != 0 || clock_gettime(clock, &used) != 0)
        return milliseconds(0);
    return std::chrono::duration_cast<milliseconds>(std::chrono::seconds(used.tv_sec) +
                                                    std::chrono::nanoseconds(used.tv_nsec));
}

// Counts what it waits for, not what goes by meanwhile: the process may be stopped, work and all.
bool ends_within(Completion& completion, std::thread& thread, milliseconds limit) {
    milliseconds left = limit;
    for (milliseconds waited(0); left > milliseconds(0) && waited < patience * limit; waited += left) {
        left = std::max(limit - cpu_time_of(thread), milliseconds(0));
        if (completion.wait_for(left))
            return true;
    }
    return false;
}

bool ends_in_grace(Completion& completion, milliseconds grace) {
    constexpr int steps = 4;
    for (int i = 0; i < steps; ++i)
        if (completion.wait_for((grace + milliseconds(steps - 1)) / steps))
            return true;
    return false;
}

} // namespace

sigset_t watchdog_wait_mask() {
    sigset_t mask;
    sigfillset(&mask);
    sigdelset(&mask, watchdog_signal);
    return mask;
}

Result<BoundedEnd> run_bounded(std::function<void()> work, milliseconds limit, milliseconds grace) {
    const auto completion = std::make_shared<Completion>();
    std::thread thread = TRY(start_with_signals_blocked([completion, work = std::move(work)]() mutable {
        pthread_setname_np(pthread_self(), "probe");
        work();
        // What the work owns dies before the caller goes on, so that probes do not pile up.
        work = nullptr;
        completion->set();
    }));
    if (ends_within(*completion, thread, limit)) {
        thread.join();
        return BoundedEnd::finished;
    }
    pthread_kill(thread.native_handle(), watchdog_signal);
    if (ends_in_grace(*completion, grace)) {
        thread.join();
        return BoundedEnd::interrupted;
    }
    thread.detach();
    return BoundedEnd::abandoned;
}

} // namespace casemate
