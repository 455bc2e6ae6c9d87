// SPDX-License-Identifier: Apache-2.0
// Feeds Symbols with damaged System.map and vmlinux files.
#include "../../unit/guard/synthetic_symbols.hpp"

#include "guard/symbols.hpp"

#include <algorithm>
#include <cstdlib>

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
    using namespace casemate;
    if (size == 0)
        return 0;
    std::string text;
    if (data[0] % 4 == 0) {
        text.assign(reinterpret_cast<const char*>(data + 1), size - 1);
    } else {
        text = data[0] % 4 == 1 ? synthetic::system_map() : synthetic::SymbolElf().file();
        // Patches: where (2 bytes), what (1, 2, 4 or 8 bytes).
        for (size_t at = 1; at + 4 <= size;) {
            const size_t where = (data[at] | size_t{data[at + 1]} << 8) % text.size();
            const size_t length =
                std::min({size_t{1} << (data[at + 2] % 4), size - at - 3, text.size() - where});
            std::copy_n(data + at + 3, length, text.begin() + static_cast<std::ptrdiff_t>(where));
            at += 3 + length;
        }
        if (size % 4 == 1)
            text.resize(text.size() - std::min<size_t>(text.size(), data[size - 1]));
    }
    static const synthetic::SymbolFile file("");
    file.overwrite(text);
    const auto symbols = Symbols::load(file.path().c_str());
    if (!symbols) {
        if (symbols.error().blame() != Blame::usage || symbols.error().message().empty())
            abort();
        return 0;
    }
    const uint64_t start = symbols->image_start().value;
    const uint64_t end = symbols->image_end().value;
    if (start >= end || symbols->name_at(GuestLinear{end}) || symbols->name_at(GuestLinear{start - 1}))
        abort();
    for (const uint64_t address : {start, start + 0x1001, end - 1}) {
        const auto name = symbols->name_at(GuestLinear{address});
        if (name && std::any_of(name->begin(), name->end(), [](char c) { return c <= ' ' || c > '~'; }))
            abort();
    }
    return 0;
}
