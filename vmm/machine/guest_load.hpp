// SPDX-License-Identifier: Apache-2.0
// GuestLoad: the reading of kernel and initrd into guest RAM, on a thread of its own.
#pragma once

#include "base/error.hpp"
#include "boot/kernel_image.hpp"
#include "memory/guest_memory.hpp"

#include <memory>
#include <optional>
#include <string>
#include <thread>

namespace casemate {

struct LoadedGuest {
    LoadedKernel kernel;
    std::optional<GuestRange> initrd;
};

// One thread begins it, finishes it and destroys it.
class GuestLoad {
public:
    struct Paths {
        std::string kernel;
        std::string initrd; // empty: none
    };
    // `memory` has no write gate yet and outlives this. Fails when no thread can be had.
    static Result<std::unique_ptr<GuestLoad>> begin(const GuestMemory& memory, Paths paths);
    GuestLoad(const GuestLoad&) = delete;
    GuestLoad& operator=(const GuestLoad&) = delete;
    // Waits for what is being read.
    ~GuestLoad();

    // Waits until all is read. Once. Errors in the files are the user's.
    Result<LoadedGuest> finish();

private:
    GuestLoad() = default;

    Result<LoadedGuest> m_loaded =
        fail(Error("the guest was never loaded")); // the thread's, until it is joined
    std::thread m_thread;
};

} // namespace casemate
