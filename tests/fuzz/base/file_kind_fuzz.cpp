// SPDX-License-Identifier: Apache-2.0
// Feeds file_kind with bytes.
#include "../expect.hpp"

#include "base/file_kind.hpp"

#include <algorithm>
#include <string_view>
#include <vector>

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
    using namespace casemate;
    // Of their own, so that a look past the end is found.
    const size_t volume_bytes = std::min(size, file_kind_volume_bytes);
    const std::vector<uint8_t> volume(data, data + volume_bytes);
    const std::vector<uint8_t> start(data + volume_bytes, data + size);
    const auto kind = file_kind(std::as_bytes(std::span(start)), std::as_bytes(std::span(volume)));
    if (kind)
        expect(!std::string_view(kind->what).empty());
    return 0;
}
