// SPDX-License-Identifier: Apache-2.0
// Damaged kernels: a valid image with a few patches from the fuzzer, so that the parsers are entered.
#pragma once

#include "../../unit/boot/synthetic_kernel.hpp"

#include "boot/kernel_image.hpp"
#include "memory/layout.hpp"

#include <algorithm>
#include <cstdlib>

namespace casemate::fuzz {

// Applies patches to `target` as long as the input gives some: where (2 bytes), how long (1 byte), what (1,
// 2, 4 or 8 bytes).
inline void patch(std::span<std::byte> target, std::span<const uint8_t> input) {
    while (input.size() >= 4) {
        const size_t where = (input[0] | size_t{input[1]} << 8) % target.size();
        const size_t length =
            std::min({size_t{1} << (input[2] % 4), input.size() - 3, target.size() - where});
        std::memcpy(&target[where], &input[3], length);
        input = input.subspan(3 + length);
    }
}

// Cuts the file for one input size in four: rare enough to let most images through.
inline void cut(synthetic::Bytes& file, std::span<const uint8_t> input) {
    if (input.size() % 4 == 1)
        file.resize(file.size() - std::min(file.size(), size_t{32} * input.back()));
}

// Loads the file and ends the process when the loader accepted what it must not.
inline void load(const synthetic::Bytes& bytes) {
    static const auto memory = GuestMemory::create(16_MiB);
    static const Fd descriptor = synthetic::file_of({});
    if (ftruncate(descriptor.get(), 0) != 0 ||
        pwrite(descriptor.get(), bytes.data(), bytes.size(), 0) != static_cast<ssize_t>(bytes.size()))
        abort();
    const auto file = ImageFile::open(synthetic::path_of(descriptor).c_str());
    if (!file)
        return;
    const auto kernel = load_kernel(*memory, *file);
    if (!kernel) {
        if (kernel.error().blame() != Blame::usage || kernel.error().message().empty())
            abort();
        return;
    }
    const GuestRange& occupied = kernel->occupied;
    if (!memory->is_ram(occupied) || occupied.start() < layout::kernel.start ||
        !occupied.contains(GuestRange::of(kernel->entry, 1)) || memory->writes_in_flight() != 0)
        abort();
}

} // namespace casemate::fuzz
