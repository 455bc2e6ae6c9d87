// SPDX-License-Identifier: Apache-2.0
// Symbols: names of the guest kernel's functions and variables, from a System.map or a vmlinux.
#pragma once

#include "base/error.hpp"
#include "base/units.hpp"

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace casemate {

class Symbols {
public:
    // Tells the two formats apart by content. The file is the user's: a wrong one is a usage error that says
    // what is wrong with it. Only symbols of the kernel half are kept (per-CPU offsets and absolutes are
    // not).
    static Result<Symbols> load(const char* path);

    // The link-time address of a symbol.
    std::optional<GuestLinear> address_of(std::string_view name) const;
    // "do_syscall_64+0x1a" for a link-time address inside the image; empty when no symbol is at or below it,
    // or the address is behind the last one's page.
    std::optional<std::string> name_at(GuestLinear address) const;
    size_t count() const;

private:
};

// Symbols of a running kernel: what KASLR added. Set once, when text is locked, while the guest may still be
// believed.
struct LoadedSymbols {
    const Symbols* symbols = nullptr; // not owned; null: none given
    uint64_t linear_offset = 0;       // run-time minus link-time address, modulo 2^64
    // Where the image lies in RAM: `image_start` (link-time) is at `image_physical`, `image_bytes` long.
    GuestLinear image_start;
    GuestPhysical image_physical;
    uint64_t image_bytes = 0;

    std::optional<std::string> at(GuestLinear run_time) const;
    std::optional<std::string> at(GuestPhysical address) const;
};

} // namespace casemate
