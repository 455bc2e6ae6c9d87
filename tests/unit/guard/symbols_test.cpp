// SPDX-License-Identifier: Apache-2.0
#include "guard/symbols.hpp"

#include "synthetic_symbols.hpp"

#include <array>
#include <cstdlib>
#include <doctest/doctest.h>
#include <map>
#include <string>
#include <vector>

namespace casemate {
namespace {

using namespace synthetic;

std::string refusal(std::string_view text) {
    const SymbolFile file(text);
    const auto symbols = Symbols::load(file.path().c_str());
    if (symbols)
        return "";
    CHECK(symbols.error().blame() == Blame::usage);
    const std::string message = symbols.error().message();
    CHECK(message.find(file.path()) != std::string::npos);
    CHECK(message.find('\n') == std::string::npos);
    return message;
}

bool has(const std::string& text, std::string_view part) {
    return text.find(part) != std::string::npos;
}

TEST_CASE("a System.map and a vmlinux name the same places") {
    for (const std::string& text : {system_map(), SymbolElf().file()}) {
        CAPTURE(text.substr(0, 4));
        const SymbolFile file(text);
        const auto symbols = Symbols::load(file.path().c_str());
        REQUIRE(symbols);
        CHECK(symbols->image_start().value == text_start);
        CHECK(symbols->image_end().value == image_end);
        CHECK(symbols->system_call_entry().value == system_call_entry);
        const auto name = [&symbols](uint64_t address) {
            return symbols->name_at(GuestLinear{address}).value_or("none");
        };
        CHECK(name(text_start) == "startup_64+0x0");
        CHECK(name(text_start + 0xfff) == "startup_64+0xfff");
        CHECK(name(text_start + 0x1000) == "_real+0x0"); // neither the weak one nor more underscores
        CHECK(name(text_start + 0x2345) == "do_one_thing+0x345");
        CHECK(name(text_start + 0x300008) == "entry_SYSCALL_64+0xfff88"); // not the absolute one
        CHECK(name(image_end - 1) == "sys_call_table+0x3fffff");
        for (const uint64_t outside :
             {uint64_t{0}, uint64_t{0x1000}, text_start - 1, image_end, ~uint64_t{0}})
            CHECK(name(outside) == "none");
    }
}

TEST_CASE("a System.map may be unsorted, name modules, and end without a newline") {
    const std::string text = "ffffffffc0000000 t late\t[a_module]\nffffffff80800000 t below\n" +
                             system_map() + "ffffffff81000800 T inserted\t[another]\r";
    const SymbolFile file(text);
    const auto symbols = Symbols::load(file.path().c_str());
    REQUIRE(symbols);
    CHECK(symbols->name_at(GuestLinear{text_start + 0x801}) == "inserted+0x1");
    CHECK_FALSE(symbols->name_at(GuestLinear{0xffffffff80800000}));
    CHECK_FALSE(symbols->name_at(GuestLinear{0xffffffffc0000000}));
}

TEST_CASE("names with control characters come out printable") {
    auto lines = kernel_symbols();
    lines.push_back({text_start + 0x5000, 'T', "a\x1b[2J\x9b\xff"});
    for (const std::string& text : {system_map(lines), SymbolElf(lines).file()}) {
        const SymbolFile file(text);
        const auto symbols = Symbols::load(file.path().c_str());
        REQUIRE(symbols);
        CHECK(symbols->name_at(GuestLinear{text_start + 0x5000}) == "a?[2J??+0x0");
    }
}

TEST_CASE("a file of a wrong kind is a usage error that says so") {
    CHECK(has(refusal(""), "empty"));
    CHECK(has(refusal("not a map\n"), "neither"));
    CHECK(has(refusal(std::string(5000, '\0')), "neither"));
    CHECK(has(refusal(std::string(5000, 'f')), "neither"));
    CHECK(has(refusal(system_map() + "nonsense\n"), "line 13"));
    CHECK(has(refusal(system_map() + "\n"), "line 13"));
    CHECK(has(refusal(system_map() + "ffffffff81000000 T "), "line 13"));
    CHECK(has(refusal(system_map() + "fffffffff81000000 T many_digits\n"), "line 13"));
    CHECK(has(refusal("0000000000000000 T _text\n0000000000000000 T _end\n"), "_text"));
    for (const char* gone : {"_text", "_end", "entry_SYSCALL_64"}) {
        auto lines = kernel_symbols();
        std::erase_if(lines, [gone](const SymbolLine& line) { return line.name == gone; });
        CAPTURE(gone);
        CHECK(has(refusal(system_map(lines)), "_end and entry_SYSCALL_64"));
        CHECK(has(refusal(SymbolElf(lines).file()), "_end and entry_SYSCALL_64"));
    }
    for (const char* path : {"/nowhere/System.map", "/tmp", "/dev/null", "/proc/self/mem"}) {
        CAPTURE(path);
        const auto symbols = Symbols::load(path);
        REQUIRE_FALSE(symbols);
        CHECK(symbols.error().blame() == Blame::usage);
        CHECK(has(symbols.error().message(), path));
    }
}

TEST_CASE("a damaged vmlinux is a usage error that says what is wrong") {
    const auto damaged = [](auto damage) {
        SymbolElf elf;
        damage(elf);
        return refusal(elf.file());
    };
    CHECK(has(damaged([](SymbolElf& e) { e.header.e_ident[EI_CLASS] = ELFCLASS32; }), "x86-64"));
    CHECK(has(damaged([](SymbolElf& e) { e.header.e_machine = EM_AARCH64; }), "x86-64"));
    CHECK(has(damaged([](SymbolElf& e) { e.header.e_type = ET_REL; }), "not linked"));
    CHECK(has(damaged([](SymbolElf& e) { e.header.e_shnum = 0; }), "no section table"));
    CHECK(has(damaged([](SymbolElf& e) { e.header.e_shentsize = 63; }), "63"));
    CHECK(has(damaged([](SymbolElf& e) { e.header.e_shoff = ~uint64_t{0}; }), "section table"));
    CHECK(has(damaged([](SymbolElf& e) { e.sections[1].sh_type = SHT_NULL; }), "stripped"));
    CHECK(has(damaged([](SymbolElf& e) { e.sections[1].sh_link = 3; }), "damaged"));
    CHECK(has(damaged([](SymbolElf& e) { e.sections[1].sh_entsize = 16; }), "damaged"));
    CHECK(has(damaged([](SymbolElf& e) { e.sections[1].sh_offset = ~uint64_t{0} - 8; }), "symbol table"));
    CHECK(has(damaged([](SymbolElf& e) { e.sections[1].sh_size = uint64_t{1} << 63; }), "symbol table"));
    CHECK(has(damaged([](SymbolElf& e) { e.sections[2].sh_size += 1; }), "symbol table"));
    CHECK(has(damaged([](SymbolElf& e) { e.sections[2].sh_size = 0; }), "_end and entry_SYSCALL_64"));
    CHECK(has(damaged([](SymbolElf& e) {
                  for (Elf64_Sym& symbol : e.symbols)
                      symbol.st_name = ~0U;
              }),
              "_end and entry_SYSCALL_64"));
    const std::string whole = SymbolElf().file();
    for (size_t bytes = 1; bytes < whole.size(); ++bytes)
        CHECK(refusal(std::string_view(whole).substr(0, bytes)) != "");
}

TEST_CASE("names asked for again are the same, however many were in between") {
    const SymbolFile file(system_map());
    const auto symbols = Symbols::load(file.path().c_str());
    REQUIRE(symbols);
    std::vector<std::string> first;
    for (uint64_t at = 0; at < 0x3000; at += 0x100)
        first.push_back(symbols->name_at(GuestLinear{text_start + at}).value_or("none"));
    for (const uint64_t step : {1U, 5U, 47U})
        for (uint64_t i = 0; i < first.size(); ++i) {
            const uint64_t at = i * step % first.size();
            CHECK(symbols->name_at(GuestLinear{text_start + at * 0x100}).value_or("none") == first[at]);
            CHECK(symbols->name_at(GuestLinear{text_start + at * 0x100}).value_or("none") == first[at]);
        }
}

TEST_CASE("a file that changes under a running machine gives no names, and no crash") {
    const SymbolFile file(system_map());
    const auto symbols = Symbols::load(file.path().c_str());
    REQUIRE(symbols);
    CHECK(symbols->name_at(GuestLinear{text_start}));
    file.overwrite(system_map() + "ffffffff81000001 T new_name\n");
    CHECK_FALSE(symbols->name_at(GuestLinear{text_start + 1}));
    file.overwrite("short");
    CHECK_FALSE(symbols->name_at(GuestLinear{text_start}));
}

// The tables of a guest whose image lies at `physical` and runs at `start`.
auto image_at(uint64_t start, uint64_t physical) {
    return [start, physical](GuestLinear address) -> std::optional<GuestPhysical> {
        if (address.value < start || address.value - start >= image_end - text_start)
            return std::nullopt;
        return GuestPhysical{physical + (address.value - start)};
    };
}

TEST_CASE("KASLR's offset comes from LSTAR, and names reach through every mapping") {
    const SymbolFile file(system_map());
    const auto symbols = Symbols::load(file.path().c_str());
    REQUIRE(symbols);
    for (const uint64_t offset : {uint64_t{0}, uint64_t{0x13200000}}) {
        const LoadedSymbols loaded =
            loaded_symbols(*symbols, system_call_entry + offset, image_at(text_start + offset, 0x7400000));
        CHECK(loaded.linear_offset == offset);
        CHECK(loaded.at(GuestLinear{text_start + offset + 0x2001}) == "do_one_thing+0x1");
        CHECK_FALSE(loaded.at(GuestLinear{0xffff888007402001}));
        CHECK(loaded.at(GuestPhysical{0x7402001}) == "do_one_thing+0x1");
        CHECK(loaded.at(GuestPhysical{0x7400000}) == "startup_64+0x0");
        CHECK_FALSE(loaded.at(GuestPhysical{0x73fffff}));
        CHECK_FALSE(loaded.at(GuestPhysical{0x7400000 + image_end - text_start}));
    }
}

TEST_CASE("an LSTAR that no kernel has gives no symbols") {
    const SymbolFile file(system_map());
    const auto symbols = Symbols::load(file.path().c_str());
    REQUIRE(symbols);
    const auto everywhere = [](GuestLinear address) { return std::optional(GuestPhysical{address.value}); };
    for (const uint64_t lstar : {uint64_t{0}, ~uint64_t{0}, system_call_entry + 1, system_call_entry + 0x1000,
                                 system_call_entry - 0x1200000, system_call_entry + 0x3f000000,
                                 uint64_t{0x200080}, uint64_t{0x7fffffe00080}}) {
        CAPTURE(lstar);
        const LoadedSymbols loaded = loaded_symbols(*symbols, lstar, everywhere);
        CHECK(loaded.symbols == nullptr);
        CHECK_FALSE(loaded.at(GuestLinear{lstar}));
        CHECK_FALSE(loaded.at(GuestPhysical{0}));
    }
    CHECK_FALSE(LoadedSymbols{}.at(GuestLinear{text_start}));
}

TEST_CASE("tables that contradict LSTAR leave linear names only") {
    const SymbolFile file(system_map());
    const auto symbols = Symbols::load(file.path().c_str());
    REQUIRE(symbols);
    const auto loaded_with = [&symbols](std::map<uint64_t, uint64_t> pages) {
        return loaded_symbols(*symbols, system_call_entry,
                              [&pages](GuestLinear address) -> std::optional<GuestPhysical> {
                                  const auto found = pages.find(address.value);
                                  if (found == pages.end())
                                      return std::nullopt;
                                  return GuestPhysical{found->second};
                              });
    };
    for (const auto& pages : std::vector<std::map<uint64_t, uint64_t>>{
             {},
             {{text_start, 0x1000000}},
             {{system_call_entry, 0x1200080}},
             {{text_start, 0x1000000}, {system_call_entry, 0x1300080}},
             // Modulo 2^64 these two lie as far apart as they should.
             {{text_start, ~uint64_t{0xfff}}, {system_call_entry, 0x1ff080}}}) {
        const LoadedSymbols loaded = loaded_with(pages);
        CHECK(loaded.image_bytes == 0);
        CHECK(loaded.at(GuestLinear{text_start}) == "startup_64+0x0");
        CHECK_FALSE(loaded.at(GuestPhysical{0x1000000}));
        CHECK_FALSE(loaded.at(GuestPhysical{0}));
    }
    CHECK(loaded_with({{text_start, 0x1000000}, {system_call_entry, 0x1200080}}).image_bytes != 0);
}

} // namespace
} // namespace casemate
