// SPDX-License-Identifier: Apache-2.0
// Feeds load_kernel with damaged vmlinux files.
#include "damaged_kernel.hpp"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
    using namespace casemate;
    synthetic::Bytes file = synthetic::Elf().file();
    fuzz::patch(std::span(file).first(sizeof(synthetic::Elf)), {data, size});
    fuzz::cut(file, {data, size});
    fuzz::load(file);
    return 0;
}
