// SPDX-License-Identifier: Apache-2.0
#include "guard/symbols.hpp"

#include "base/mapping.hpp"

#include <algorithm>
#include <array>
#include <cerrno>
#include <charconv>
#include <cstring>
#include <elf.h>
#include <fcntl.h>
#include <fmt/core.h>
#include <span>
#include <string_view>
#include <tuple>
#include <unistd.h>

namespace casemate {
namespace {

// linux v6.12 Documentation/arch/x86/x86_64/mm.rst: the kernel half starts behind the hole, and KASLR keeps
// the image inside 1 GiB (arch/x86/include/asm/page_64_types.h, KERNEL_IMAGE_SIZE).
constexpr uint64_t kernel_half = 0xffff800000000000;
constexpr uint64_t image_area_start = 0xffffffff80000000;
constexpr uint64_t image_area_bytes = 1_GiB;
// The least CONFIG_PHYSICAL_ALIGN: KASLR moves the image by multiples of it.
constexpr uint64_t image_alignment = 2_MiB;
// linux v6.12 include/linux/kallsyms.h: KSYM_NAME_LEN, with the NUL.
constexpr size_t max_name_bytes = 511;
// A vmlinux with a debug kernel's symbols has 20 MiB of them.
constexpr uint64_t max_table_bytes = 256_MiB;

constexpr const char* pass_a_good_file =
    "Pass the System.map or the unstripped vmlinux from the guest kernel's build.";

Error wrong(std::string_view what) {
    return Error::usage(what).hint(pass_a_good_file);
}

struct Symbol {
    uint64_t address = 0;
    std::string_view name; // raw, not empty
    bool weak = false;
};

// A part of the file in memory of our own: a mapped file that shrinks would be a SIGBUS.
Result<Mapping> read_part(int descriptor, uint64_t offset, uint64_t bytes) {
    if (bytes == 0)
        return Mapping();
    if (bytes > max_table_bytes)
        return fail(wrong(fmt::format("has {} bytes of symbols, too many for a kernel", bytes)));
    Mapping part = TRY(Mapping::anonymous(bytes, page_bytes));
    for (uint64_t done = 0; done < bytes;) {
        const ssize_t got =
            pread(descriptor, part.data() + done, bytes - done, static_cast<off_t>(offset + done));
        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0)
            return fail(Error::system(fmt::format("read {} bytes at {}", bytes, offset), errno));
        if (got == 0)
            return fail(wrong(fmt::format("the file ends at byte {}", offset + done)));
        done += static_cast<uint64_t>(got);
    }
    return part;
}

std::string_view text_of(const Mapping& part) {
    return {reinterpret_cast<const char*>(part.data()), part.size()};
}

template <typename T>
T read_struct(const Mapping& part, uint64_t index) {
    T value;
    std::memcpy(&value, part.data() + index * sizeof(T), sizeof(T));
    return value;
}

// A file with its tables in memory for the time of one look. `Visit` takes a Symbol.
class SystemMap {
public:
    // proc(5) and nm(1): "ffffffff81000000 T _text", with "\t[module]" behind it in /proc/kallsyms.
    static Result<SystemMap> read(int descriptor, uint64_t file_bytes) {
        SystemMap map(TRY(read_part(descriptor, 0, file_bytes)));
        uint64_t line_number = 0;
        for (std::string_view rest = text_of(map.m_text); !rest.empty();) {
            ++line_number;
            if (!parse_line(take_line(rest)))
                return fail(line_number == 1
                                ? wrong("is neither a System.map nor an ELF file")
                                : wrong(fmt::format("line {} is not one of a System.map", line_number)));
        }
        return map;
    }

    template <typename Visit>
    void for_each(Visit visit) const {
        for (std::string_view rest = text_of(m_text); !rest.empty();) {
            const auto line = parse_line(take_line(rest));
            if (!line)
                continue;
            const auto& [address, type, name] = *line;
            // Absolute and undefined symbols lie nowhere.
            if (address >= kernel_half && type != 'A' && type != 'a' && type != 'U')
                visit(Symbol{.address = address,
                             .name = name,
                             .weak = type == 'W' || type == 'w' || type == 'V' || type == 'v'});
        }
    }

private:
    explicit SystemMap(Mapping text)
        : m_text(std::move(text)) {}

    static std::string_view take_line(std::string_view& rest) {
        const std::string_view line = rest.substr(0, rest.find('\n'));
        rest.remove_prefix(std::min(rest.size(), line.size() + 1));
        return line;
    }

    static std::optional<std::tuple<uint64_t, char, std::string_view>> parse_line(std::string_view line) {
        uint64_t address = 0;
        const auto [end, failure] = std::from_chars(line.data(), line.data() + line.size(), address, 16);
        if (failure != std::errc{})
            return std::nullopt;
        line.remove_prefix(static_cast<size_t>(end - line.data()));
        if (line.size() < 4 || line[0] != ' ' || line[2] != ' ')
            return std::nullopt;
        const std::string_view name = line.substr(3, line.find_first_of(" \t\r", 3) - 3);
        if (name.empty())
            return std::nullopt;
        return std::tuple{address, line[1], name};
    }

    Mapping m_text;
};

class ElfSymbols {
public:
    static Result<ElfSymbols> read(int descriptor, uint64_t file_bytes) {
        if (file_bytes < sizeof(Elf64_Ehdr))
            return fail(wrong("is an ELF file that ends within its header"));
        const auto header = read_struct<Elf64_Ehdr>(TRY(read_part(descriptor, 0, sizeof(Elf64_Ehdr))), 0);
        if (header.e_ident[EI_CLASS] != ELFCLASS64 || header.e_ident[EI_DATA] != ELFDATA2LSB ||
            header.e_machine != EM_X86_64)
            return fail(wrong("is an ELF file, but not for x86-64"));
        if (header.e_type != ET_EXEC && header.e_type != ET_DYN)
            return fail(wrong("is an ELF file that is not linked, or a core dump"));
        // ELF keeps the number of more than 65,279 sections elsewhere; a kernel has some 50.
        const uint64_t table_bytes = uint64_t{header.e_shnum} * sizeof(Elf64_Shdr);
        if (header.e_shnum == 0)
            return fail(wrong("has no section table, so no symbols"));
        if (header.e_shentsize != sizeof(Elf64_Shdr))
            return fail(wrong(fmt::format("has section headers of {} bytes", header.e_shentsize)));
        if (!holds(file_bytes, header.e_shoff, table_bytes))
            return fail(wrong("ends before its section table"));
        const Mapping sections = TRY(read_part(descriptor, header.e_shoff, table_bytes));
        for (uint64_t i = 0; i < header.e_shnum; ++i) {
            const auto section = read_struct<Elf64_Shdr>(sections, i);
            if (section.sh_type != SHT_SYMTAB)
                continue;
            if (section.sh_entsize != sizeof(Elf64_Sym) || section.sh_link >= header.e_shnum)
                return fail(wrong("has a damaged symbol table"));
            const auto strings = read_struct<Elf64_Shdr>(sections, section.sh_link);
            if (!holds(file_bytes, section.sh_offset, section.sh_size) ||
                !holds(file_bytes, strings.sh_offset, strings.sh_size))
                return fail(wrong("ends before its symbol table"));
            ElfSymbols symbols;
            symbols.m_symbols = TRY(read_part(descriptor, section.sh_offset, section.sh_size));
            symbols.m_strings = TRY(read_part(descriptor, strings.sh_offset, strings.sh_size));
            return symbols;
        }
        return fail(wrong("has no symbol table: it is stripped"));
    }

    template <typename Visit>
    void for_each(Visit visit) const {
        const std::string_view strings = text_of(m_strings);
        for (uint64_t i = 0; i < m_symbols.size() / sizeof(Elf64_Sym); ++i) {
            const auto symbol = read_struct<Elf64_Sym>(m_symbols, i);
            const unsigned type = ELF64_ST_TYPE(symbol.st_info);
            if (symbol.st_value < kernel_half || symbol.st_shndx == SHN_UNDEF || symbol.st_shndx == SHN_ABS ||
                type == STT_SECTION || type == STT_FILE || symbol.st_name >= strings.size())
                continue;
            const std::string_view name = strings.substr(symbol.st_name, max_name_bytes);
            // Local labels, which System.map leaves out (linux v6.12 scripts/mksysmap).
            if (name.starts_with('\0') || name.starts_with(".L"))
                continue;
            visit(Symbol{.address = symbol.st_value,
                         .name = name.substr(0, name.find('\0')),
                         .weak = ELF64_ST_BIND(symbol.st_info) == STB_WEAK});
        }
    }

private:
    static bool holds(uint64_t file_bytes, uint64_t offset, uint64_t bytes) {
        return offset <= file_bytes && bytes <= file_bytes - offset;
    }

    Mapping m_symbols;
    Mapping m_strings;
};

template <typename Use>
Result<void> with_tables(int descriptor, uint64_t file_bytes, Use use) {
    std::array<char, SELFMAG> magic{};
    if (pread(descriptor, magic.data(), magic.size(), 0) == SELFMAG &&
        std::memcmp(magic.data(), ELFMAG, SELFMAG) == 0)
        return use(TRY(ElfSymbols::read(descriptor, file_bytes)));
    return use(TRY(SystemMap::read(descriptor, file_bytes)));
}

// linux v6.12 scripts/kallsyms.c, compare_symbols(): weak names last, then by leading underscores.
auto rank(const Symbol& symbol) {
    const size_t underscores = std::min(symbol.name.find_first_not_of('_'), symbol.name.size());
    return std::pair(symbol.weak, underscores);
}

// The name may be anything that stands in the file, and ends up on a terminal.
std::string printable(std::string_view name) {
    std::string text(name.substr(0, max_name_bytes));
    std::replace_if(text.begin(), text.end(), [](char c) { return c <= ' ' || c > '~'; }, '?');
    return text;
}

Result<Symbols> name_file(const char* path, Result<Symbols> result) {
    if (result)
        return result;
    const Blame blame = result.error().blame();
    return fail(Error(fmt::format("load symbols {}", path), blame).because_of(std::move(result).error()));
}

} // namespace

Result<Symbols> Symbols::load(const char* path) {
    // O_NONBLOCK: a FIFO must not stop the start.
    auto fd = open_file(path, O_RDONLY | O_NONBLOCK);
    if (!fd)
        return name_file(path, fail(std::move(fd).error().blame(Blame::usage)));
    struct stat status{};
    if (fstat(fd->get(), &status) < 0)
        return name_file(path, fail(Error::system("fstat", errno)));
    if (!S_ISREG(status.st_mode))
        return name_file(path, fail(wrong("is not a regular file")));
    if (status.st_size <= 0)
        return name_file(path, fail(wrong("the file is empty")));

    Symbols symbols(std::move(*fd), status);
    const auto find_marks = [&symbols](const auto& tables) -> Result<void> {
        tables.for_each([&symbols](const Symbol& symbol) {
            if (symbol.name == "_text")
                symbols.m_image_start = {symbol.address};
            else if (symbol.name == "_end")
                symbols.m_image_end = {symbol.address};
            else if (symbol.name == "entry_SYSCALL_64")
                symbols.m_system_call_entry = {symbol.address};
        });
        if (symbols.m_image_start.value < image_area_start || symbols.m_image_end <= symbols.m_image_start ||
            symbols.m_system_call_entry < symbols.m_image_start ||
            symbols.m_system_call_entry >= symbols.m_image_end)
            return fail(wrong("does not tell where a 64-bit Linux has _text, _end and entry_SYSCALL_64"));
        return {};
    };
    if (auto found = with_tables(symbols.m_fd.get(), symbols.m_bytes, find_marks); !found)
        return name_file(path, fail(std::move(found).error()));
    return symbols;
}

std::optional<std::string> Symbols::name_at(GuestLinear address) const {
    if (address < m_image_start || address >= m_image_end)
        return std::nullopt;
    struct stat status{};
    if (fstat(m_fd.get(), &status) < 0 || static_cast<uint64_t>(status.st_size) != m_bytes ||
        status.st_mtim.tv_sec != m_modified.tv_sec || status.st_mtim.tv_nsec != m_modified.tv_nsec)
        return std::nullopt;
    const std::lock_guard lock(m_recent->mutex);
    const auto known = std::ranges::find(m_recent->answers, address, &Recent::Answer::address);
    if (known != m_recent->answers.end())
        return known->name;
    Recent::Answer& answer = m_recent->answers.at(m_recent->next++ % m_recent->answers.size());
    answer = {.address = address, .name = read_name_at(address)};
    return answer.name;
}

std::optional<std::string> Symbols::read_name_at(GuestLinear address) const {
    std::string text;
    const auto look_up = [&text, address](const auto& tables) -> Result<void> {
        Symbol best;
        tables.for_each([&best, address](const Symbol& symbol) {
            if (symbol.address > address.value || symbol.address < best.address)
                return;
            if (symbol.address > best.address || rank(symbol) < rank(best))
                best = symbol;
        });
        if (!best.name.empty())
            text = fmt::format("{}+{:#x}", printable(best.name), address.value - best.address);
        return {};
    };
    if (!with_tables(m_fd.get(), m_bytes, look_up) || text.empty())
        return std::nullopt;
    return text;
}

std::optional<std::string> LoadedSymbols::at(GuestLinear run_time) const {
    return symbols == nullptr ? std::nullopt : symbols->name_at({run_time.value - linear_offset});
}

std::optional<std::string> LoadedSymbols::at(GuestPhysical address) const {
    if (symbols == nullptr || address < image_physical || address.value - image_physical.value >= image_bytes)
        return std::nullopt;
    return symbols->name_at({image_start.value + (address.value - image_physical.value)});
}

LoadedSymbols loaded_symbols(const Symbols& symbols, uint64_t lstar,
                             const std::function<std::optional<GuestPhysical>(GuestLinear)>& translate) {
    const GuestLinear start = symbols.image_start();
    const uint64_t bytes = symbols.image_end().value - start.value;
    const uint64_t offset = lstar - symbols.system_call_entry().value;
    const uint64_t run_time_start = start.value + offset;
    const uint64_t into_area = run_time_start - image_area_start; // huge when it starts below
    if (!is_aligned(offset, image_alignment) || into_area > image_area_bytes ||
        bytes > image_area_bytes - into_area)
        return {};
    LoadedSymbols loaded{.symbols = &symbols, .linear_offset = offset, .image_start = start};
    // The image is one piece in RAM; two places that say so are not a coincidence.
    const auto physical = translate({run_time_start});
    const auto entry = translate({lstar});
    if (physical && entry && physical->value + bytes >= bytes &&
        entry->value - physical->value == lstar - run_time_start) {
        loaded.image_physical = *physical;
        loaded.image_bytes = bytes;
    }
    return loaded;
}

} // namespace casemate
