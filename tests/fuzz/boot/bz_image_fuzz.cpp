// SPDX-License-Identifier: Apache-2.0
// Feeds load_kernel with damaged bzImage files.
#include "damaged_kernel.hpp"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
    using namespace casemate;
    synthetic::BzImage image;
    fuzz::patch(std::as_writable_bytes(std::span(&image.header, 1)), {data, size});
    synthetic::Bytes file = image.file();
    fuzz::cut(file, {data, size});
    fuzz::load(file);
    return 0;
}
