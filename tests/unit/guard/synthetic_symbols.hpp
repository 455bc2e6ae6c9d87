// SPDX-License-Identifier: Apache-2.0
// Synthetic symbols: a small kernel's System.map and the symbol table of its vmlinux, for tests to damage.
#pragma once

#include "base/fd.hpp"

#include <cstdint>
#include <cstring>
#include <elf.h>
#include <string>
#include <string_view>
#include <sys/mman.h>
#include <unistd.h>
#include <vector>

namespace casemate::synthetic {

constexpr uint64_t text_start = 0xffffffff81000000;
constexpr uint64_t system_call_entry = 0xffffffff81200080;
constexpr uint64_t image_end = 0xffffffff81800000;

struct SymbolLine {
    uint64_t address;
    char type; // as nm(1) prints it
    std::string_view name;
};

inline const std::vector<SymbolLine>& kernel_symbols() {
    static const std::vector<SymbolLine> lines{
        {0x1000, 'D', "cpu_debug_store"},
        {text_start, 'T', "_stext"},
        {text_start, 'T', "_text"},
        {text_start, 'T', "startup_64"},
        {text_start + 0x1000, 'W', "alias_weak"},
        {text_start + 0x1000, 't', "__real"},
        {text_start + 0x1000, 'T', "_real"},
        {text_start + 0x2000, 't', "do_one_thing"},
        {system_call_entry, 'T', "entry_SYSCALL_64"},
        {text_start + 0x300000, 'A', "absolute"},
        {text_start + 0x400000, 'D', "sys_call_table"},
        {image_end, 'B', "_end"},
    };
    return lines;
}

inline std::string system_map(const std::vector<SymbolLine>& lines = kernel_symbols()) {
    std::string text;
    for (const SymbolLine& line : lines) {
        std::string digits(16, '0');
        for (size_t i = 0; i < digits.size(); ++i)
            digits[i] = "0123456789abcdef"[line.address >> (60 - 4 * i) & 15];
        text += digits + ' ' + line.type + ' ' + std::string(line.name) + '\n';
    }
    return text;
}

// A vmlinux's header, section table, .symtab and .strtab; the symbols in reverse, as no linker sorts them.
struct SymbolElf {
    Elf64_Ehdr header{};
    Elf64_Shdr sections[3]{};
    std::vector<Elf64_Sym> symbols{Elf64_Sym{}};
    std::string strings = std::string(1, '\0');

    explicit SymbolElf(const std::vector<SymbolLine>& lines = kernel_symbols()) {
        std::memcpy(header.e_ident, ELFMAG, SELFMAG);
        header.e_ident[EI_CLASS] = ELFCLASS64;
        header.e_ident[EI_DATA] = ELFDATA2LSB;
        header.e_ident[EI_VERSION] = EV_CURRENT;
        header.e_type = ET_EXEC;
        header.e_machine = EM_X86_64;
        header.e_shoff = sizeof(header);
        header.e_shentsize = sizeof(Elf64_Shdr);
        header.e_shnum = 3;
        for (auto line = lines.rbegin(); line != lines.rend(); ++line) {
            const unsigned binding = line->type == 'W' ? STB_WEAK : STB_GLOBAL;
            symbols.push_back({.st_name = static_cast<Elf64_Word>(strings.size()),
                               .st_info = static_cast<unsigned char>(ELF64_ST_INFO(binding, STT_FUNC)),
                               .st_other = 0,
                               .st_shndx = static_cast<Elf64_Section>(line->type == 'A' ? SHN_ABS : 1),
                               .st_value = line->address,
                               .st_size = 0});
            strings += std::string(line->name) + '\0';
        }
        sections[1] = {.sh_type = SHT_SYMTAB,
                       .sh_offset = sizeof(header) + sizeof(sections),
                       .sh_size = symbols.size() * sizeof(Elf64_Sym),
                       .sh_link = 2,
                       .sh_entsize = sizeof(Elf64_Sym)};
        sections[2] = {.sh_type = SHT_STRTAB,
                       .sh_offset = sections[1].sh_offset + sections[1].sh_size,
                       .sh_size = strings.size()};
    }

    std::string file() const {
        const auto bytes = [](const auto& value) {
            return std::string(reinterpret_cast<const char*>(&value), sizeof(value));
        };
        std::string text = bytes(header) + bytes(sections);
        for (const Elf64_Sym& symbol : symbols)
            text += bytes(symbol);
        return text + strings;
    }
};

// A file without a name in any directory.
class SymbolFile {
public:
    explicit SymbolFile(std::string_view text)
        : m_fd(memfd_create("symbols", MFD_CLOEXEC)) {
        overwrite(text);
    }
    void overwrite(std::string_view text) const {
        if (ftruncate(m_fd.get(), 0) != 0 ||
            pwrite(m_fd.get(), text.data(), text.size(), 0) != static_cast<ssize_t>(text.size()))
            abort();
    }
    std::string path() const { return "/proc/self/fd/" + std::to_string(m_fd.get()); }

private:
    Fd m_fd;
};

} // namespace casemate::synthetic
