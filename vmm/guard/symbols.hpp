// SPDX-License-Identifier: Apache-2.0
// Symbols: names of the guest kernel's functions and variables, from a System.map or a vmlinux.
#pragma once

#include "base/error.hpp"
#include "base/fd.hpp"
#include "base/units.hpp"

#include <array>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <sys/stat.h>

namespace casemate {

// Keeps the file open instead of its contents: names are wanted for a report now and then, and a kernel has
// some 100,000. Any thread.
class Symbols {
public:
    // Tells the two formats apart by content and reads the file through once. The file is the user's: a wrong
    // one is a usage error that says what is wrong with it.
    [[gnu::cold]] static Result<Symbols> load(const char* path);

    // Link-time addresses: _text, _end and entry_SYSCALL_64.
    GuestLinear image_start() const { return m_image_start; }
    GuestLinear image_end() const { return m_image_end; }
    GuestLinear system_call_entry() const { return m_system_call_entry; }

    // "do_syscall_64+0x1a" for a link-time address inside the image, in printable ASCII; of several names the
    // one that the kernel's own messages use. Reads the whole file, some milliseconds, unless it is one of
    // the last few addresses: for what is reported, not for what is counted. Empty too when the file has
    // changed since.
    [[gnu::cold]] std::optional<std::string> name_at(GuestLinear address) const;

private:
    explicit Symbols(Fd fd, const struct stat& status)
        : m_fd(std::move(fd))
        , m_bytes(static_cast<uint64_t>(status.st_size))
        , m_modified(status.st_mtim)
        , m_recent(std::make_unique<Recent>()) {}

    [[gnu::cold]] std::optional<std::string> read_name_at(GuestLinear address) const;

    // A store that is refused is tried again, and each time would cost a guest its turn.
    struct Recent {
        struct Answer {
            GuestLinear address;
            std::optional<std::string> name;
        };
        std::mutex mutex;
        std::array<Answer, 8> answers; // of address 0: none yet
        size_t next = 0;
    };

    Fd m_fd;
    uint64_t m_bytes;
    timespec m_modified;
    GuestLinear m_image_start;
    GuestLinear m_image_end;
    GuestLinear m_system_call_entry;
    std::unique_ptr<Recent> m_recent;
};

// Symbols of a running kernel: what KASLR added. Set once, when text is locked, while the guest may still be
// believed.
struct LoadedSymbols {
    const Symbols* symbols = nullptr; // not owned; null: none given, or they do not fit
    uint64_t linear_offset = 0;       // run-time minus link-time address, modulo 2^64
    // Where the image lies in RAM: `image_start` (link-time) is at `image_physical`, `image_bytes` long; 0
    // when that is not known.
    GuestLinear image_start;
    GuestPhysical image_physical;
    uint64_t image_bytes = 0;

    [[gnu::cold]] std::optional<std::string> at(GuestLinear run_time) const;
    // Also for text that was reached through another mapping of the same memory.
    [[gnu::cold]] std::optional<std::string> at(GuestPhysical address) const;
};

// `lstar` is MSR_LSTAR, where Linux keeps the address of entry_SYSCALL_64; `translate` walks the guest's
// tables. A value that no kernel has, or tables that contradict it, give fewer symbols, never wrong ranges.
[[gnu::cold]] LoadedSymbols
loaded_symbols(const Symbols& symbols, uint64_t lstar,
               const std::function<std::optional<GuestPhysical>(GuestLinear)>& translate);

} // namespace casemate
