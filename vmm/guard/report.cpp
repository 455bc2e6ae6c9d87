// SPDX-License-Identifier: Apache-2.0
#include "guard/report.hpp"

#include "guard/paravirtual.hpp"

#include <algorithm>
#include <array>
#include <fmt/core.h>
#include <iterator>
#include <string_view>

namespace casemate {
namespace {

constexpr size_t max_columns = 100;
constexpr size_t label_columns = 14; // with the indentation before and the space behind

const char* words(LockPolicy policy) {
    return policy == LockPolicy::read_only ? "read-only" : "die-on-write";
}

const char* words(LockKind kind) {
    switch (kind) {
    case LockKind::rodata:
        return "read-only data";
    case LockKind::page_table:
        return "page table";
    default:
        return name_of(kind);
    }
}

// Instruction text and symbol names pass through here before they reach a terminal.
std::string printable(std::string_view text) {
    std::string clean;
    for (const char c : text) {
        if (c >= ' ' && c <= '~')
            clean += c;
        else
            fmt::format_to(std::back_inserter(clean), "\\x{:02x}", static_cast<unsigned char>(c));
    }
    return clean;
}

std::string hex_bytes(std::span<const std::byte> bytes, std::string_view between) {
    std::string text;
    for (const std::byte byte : bytes) {
        if (!text.empty())
            text += between;
        fmt::format_to(std::back_inserter(text), "{:02x}", std::to_integer<unsigned>(byte));
    }
    return text;
}

std::string plural(uint64_t count, const char* noun) {
    return fmt::format("{} {}{}", count, noun, count == 1 ? "" : "s");
}

// The privilege level is in SS, also where CS is conforming (SDM Vol. 3C, 25.4.1).
unsigned privilege_level(const CpuState& state) {
    return state.system.ss.dpl;
}

std::optional<std::string> target_symbol(const Violation& violation, const LoadedSymbols& symbols) {
    std::optional<std::string> name;
    if (violation.address)
        name = symbols.at(*violation.address);
    if (!name && violation.linear)
        name = symbols.at(*violation.linear);
    return name;
}

// "gla:0xffffffff81000010, do_syscall_64+0x10"
template <typename Address>
std::string place(Address address, const std::optional<std::string>& symbol, const char* before,
                  const char* behind) {
    return symbol ? to_string(address) + before + printable(*symbol) + behind : to_string(address);
}

std::string register_name(const Violation& violation) {
    const uint32_t index = violation.msr.value_or(0);
    const ParavirtualMsr* const area = find_paravirtual_msr(index);
    const char* const name = area != nullptr ? area->name : msr_name(index);
    return name != nullptr ? name : fmt::format("MSR {:#x}", index);
}

// "gpa:0x116000, writable, supervisor, executable (0x116063)"
std::string entry_words(uint64_t entry) {
    if ((entry & entry_present) == 0)
        return fmt::format("nothing ({:#x})", entry);
    return fmt::format("{}, {}, {}, {}{} ({:#x})", to_string(GuestPhysical{entry & address_field}),
                       (entry & entry_writable) != 0 ? "writable" : "read-only",
                       (entry & entry_user) != 0 ? "user" : "supervisor",
                       (entry & entry_no_execute) != 0 ? "not executable" : "executable",
                       (entry & entry_large) != 0 ? ", large" : "", entry);
}

std::string mode_words(const PagingMode& mode) {
    if (!mode.paging)
        return "no paging";
    if (!mode.long_mode)
        return mode.pae ? "PAE paging" : "32-bit paging";
    return fmt::format("{}-level paging{}", mode.five_levels ? 5 : 4, mode.no_execute ? "" : " without NX");
}

bool has_slot(RootMismatch::Kind kind) {
    return kind == RootMismatch::Kind::slot || kind == RootMismatch::Kind::user_root_slot ||
           kind == RootMismatch::Kind::executable_user;
}

std::string root_summary(const RootMismatch& mismatch) {
    const std::string root = "page-table root " + to_string(mismatch.root);
    switch (mismatch.kind) {
    case RootMismatch::Kind::slot:
    case RootMismatch::Kind::user_root_slot:
        return fmt::format("{}: slot {} is {:#x}, not {:#x}", root, mismatch.slot, mismatch.found,
                           mismatch.expected);
    case RootMismatch::Kind::executable_user:
        return fmt::format("{}: the kernel could execute user memory by slot {}, {:#x}", root, mismatch.slot,
                           mismatch.found);
    case RootMismatch::Kind::outside_ram:
        return root + " is not in RAM";
    case RootMismatch::Kind::outside_arena:
        return root + " is not in the root arena";
    case RootMismatch::Kind::paging_mode:
        break;
    }
    return root + " with another paging mode: " + mode_words(mismatch.mode);
}

std::string heading(const Violation& violation) {
    const std::string lock = violation.lock
                                 ? fmt::format("memory locked as {}, {},", words(violation.lock->kind),
                                               words(violation.lock->policy))
                                 : std::string("locked memory");
    switch (violation.source) {
    case ViolationSource::store:
        return fmt::format("A store to {} was stopped.", lock);
    case ViolationSource::emulated_store:
        return fmt::format("A store to {} was dropped.", lock);
    case ViolationSource::host_write:
        return fmt::format("A write by the monitor for the guest to {} was refused.", lock);
    case ViolationSource::msr_write:
        return fmt::format("A write to {}, which {}, was refused.", register_name(violation),
                           violation.msr == apic_base_msr ? "may not move" : "is pinned since SEAL");
    case ViolationSource::kvm_write:
        return fmt::format("KVM itself was told to write to {} and cannot.", lock);
    case ViolationSource::changed_table:
        return fmt::format("A page table under verification, {}, was changed.",
                           violation.lock ? words(violation.lock->policy) : "not locked");
    case ViolationSource::root:
        if (violation.root && violation.root->mismatch.kind == RootMismatch::Kind::outside_arena)
            return "A page-table root is none of those that the kernel gave to the monitor.";
        return "A page-table root does not have the kernel's half of the address space.";
    case ViolationSource::unattributable:
        break;
    }
    return "A memory fault on a protected page that no operand of an instruction explains.";
}

// "label   text", with the text broken at spaces where a line would get too long.
void add_line(std::string& report, std::string_view label, std::string_view text) {
    constexpr size_t room = max_columns - label_columns;
    do {
        size_t length = std::min(text.size(), room);
        if (text.size() > room)
            if (const size_t space = text.rfind(' ', room); space != std::string_view::npos && space != 0)
                length = space;
        fmt::format_to(std::back_inserter(report), "\n  {:<{}}{}", label, label_columns - 2,
                       text.substr(0, length));
        text.remove_prefix(length);
        text.remove_prefix(std::min(text.find_first_not_of(' '), text.size()));
        label = "";
    } while (!text.empty());
}

void add_registers(std::string& report, const CpuState& state) {
    const kvm_regs& r = state.registers;
    const kvm_sregs& s = state.system;
    struct Register {
        const char* name;
        uint64_t value;
    };
    constexpr size_t columns = 4;
    const std::array<Register, 6 * columns> registers{{
        {"rip", r.rip}, {"rsp", r.rsp}, {"rflags", r.rflags}, {"efer", s.efer}, //
        {"rax", r.rax}, {"rbx", r.rbx}, {"rcx", r.rcx},       {"rdx", r.rdx},   //
        {"rsi", r.rsi}, {"rdi", r.rdi}, {"rbp", r.rbp},       {"r8", r.r8},     //
        {"r9", r.r9},   {"r10", r.r10}, {"r11", r.r11},       {"r12", r.r12},   //
        {"r13", r.r13}, {"r14", r.r14}, {"r15", r.r15},       {"cr0", s.cr0},   //
        {"cr2", s.cr2}, {"cr3", s.cr3}, {"cr4", s.cr4},       {"cr8", s.cr8},   //
    }};
    for (size_t i = 0; i < registers.size(); ++i)
        fmt::format_to(std::back_inserter(report), "{}{:<6} {:016x}", i % columns == 0 ? "\n  " : " ",
                       registers.at(i).name, registers.at(i).value);
    fmt::format_to(std::back_inserter(report),
                   "\n  {:<6} {:04x}, base {:016x}, {} code\n  {:<6} {:04x}, base {:016x}, CPL {}", "cs",
                   s.cs.selector, s.cs.base,
                   uses_64_bit_code(state) ? "64-bit"
                   : s.cs.db != 0          ? "32-bit"
                                           : "16-bit",
                   "ss", s.ss.selector, s.ss.base, privilege_level(state));
}

void add_root(std::string& report, const RootViolation& root) {
    const RootMismatch& mismatch = root.mismatch;
    const bool of_user = mismatch.kind == RootMismatch::Kind::user_root_slot;
    add_line(report, "root", to_string(mismatch.root) + (of_user ? ", which user space runs on" : ""));
    if (has_slot(mismatch.kind)) {
        const bool executable = mismatch.kind == RootMismatch::Kind::executable_user;
        add_line(report, "slot",
                 fmt::format("{}, {}from {}", mismatch.slot,
                             executable ? "user memory that the kernel could execute, " : "",
                             to_string(first_address(mismatch.slot, mismatch.mode))));
        add_line(report, "leads to", entry_words(mismatch.found));
        add_line(report, "reference", entry_words(mismatch.expected));
    } else if (mismatch.kind == RootMismatch::Kind::outside_ram) {
        add_line(report, "reason", "it is not in RAM");
    } else if (mismatch.kind == RootMismatch::Kind::outside_arena) {
        add_line(report, "reason",
                 "it is neither in the root arena nor the reference; its kernel half is right for now");
    } else {
        add_line(report, "reason", "the paging mode is another one: " + mode_words(mismatch.mode));
    }
    add_line(report, "policy", words(root.policy));
}

void add_instruction(std::string& report, const Violation& violation, const LoadedSymbols& symbols) {
    // Once KVM has emulated the store, RIP and what stands there belong to the next instruction.
    const bool behind = violation.source == ViolationSource::emulated_store;
    const std::string bytes = hex_bytes(violation.code, " ");
    if (!violation.instruction.empty())
        add_line(report, behind ? "next" : "instruction", printable(violation.instruction));
    else if (!bytes.empty() && !behind)
        add_line(report, "instruction", "not known to the decoder");
    if (!bytes.empty())
        add_line(report, behind ? "next bytes" : "bytes", bytes);
    if (!violation.state)
        return;
    const GuestLinear address = instruction_address(*violation.state);
    add_line(report, behind ? "behind it" : "at", place(address, symbols.at(address), ", ", ""));
    if (behind)
        add_line(
            report, "imprecise",
            "KVM emulated the instruction: RIP is already behind it, its registers may have changed, and "
            "no exception was raised");
}

// Between what happened and the vCPU.
const char* preposition(ViolationSource source) {
    switch (source) {
    case ViolationSource::unattributable:
        return "on";
    case ViolationSource::kvm_write:
        return "of";
    default:
        return "by";
    }
}

void add_place(EventFields& fields, const std::optional<CpuState>& state, const LoadedSymbols& symbols) {
    if (!state)
        return;
    fields.emplace_back("rip", hex_string(state->registers.rip));
    if (auto symbol = symbols.at(instruction_address(*state)))
        fields.emplace_back("rip_symbol", std::move(*symbol));
    fields.emplace_back("cpl", uint64_t{privilege_level(*state)});
}

// "IDTR", "IDTR by gate 14"
std::string pinned_words(const TranslationDifference& difference) {
    return difference.gate ? fmt::format("{} by gate {}", difference.pinned_by, *difference.gate)
                           : std::string(difference.pinned_by);
}

bool was_started(const AuditDifference& difference) {
    return std::string_view(difference.name) == "start";
}

} // namespace

std::string summary(const Violation& violation, const LoadedSymbols& symbols) {
    std::string line;
    if (violation.root)
        return root_summary(violation.root->mismatch) +
               (violation.vcpu ? fmt::format(", on vCPU {}", *violation.vcpu) : "") +
               (violation.detail.empty() ? "" : "; " + printable(violation.detail));
    if (violation.lock)
        line = fmt::format("{} {}", words(violation.lock->policy), words(violation.lock->kind));
    if (violation.address)
        line += fmt::format("{}{}", line.empty() ? "" : " at ",
                            place(*violation.address, target_symbol(violation, symbols), " (", ")"));
    if (!line.empty())
        line += ": ";
    switch (violation.source) {
    case ViolationSource::store:
        line += violation.bytes != 0 ? "store of " + plural(violation.bytes, "byte") : "store";
        break;
    case ViolationSource::emulated_store:
        line += "emulated store of " + plural(violation.bytes, "byte");
        break;
    case ViolationSource::host_write:
        line += "write of " + plural(violation.bytes, "byte") + " by the monitor";
        break;
    case ViolationSource::msr_write:
        line += fmt::format("write of {:#x} to {}", violation.value.value_or(0), register_name(violation));
        break;
    case ViolationSource::kvm_write:
        line += fmt::format("KVM's write of the {}, by {:#x} in MSR {:#x}", register_name(violation),
                            violation.value.value_or(0), violation.msr.value_or(0));
        break;
    case ViolationSource::changed_table:
        line += fmt::format("entry {:#x} instead of {:#x}, found", violation.value.value_or(0),
                            violation.expected.value_or(0));
        break;
    case ViolationSource::root:
    case ViolationSource::unattributable:
        line += "memory fault that nothing explains";
        break;
    }
    if (violation.vcpu)
        line += fmt::format(" {} vCPU {}", preposition(violation.source), *violation.vcpu);
    if (violation.state) {
        const GuestLinear address = instruction_address(*violation.state);
        line += violation.source == ViolationSource::emulated_store ? " just before " : " at ";
        line += place(address, symbols.at(address), " (", ")");
    }
    if (!violation.instruction.empty() && violation.source != ViolationSource::emulated_store)
        line += ": " + printable(violation.instruction);
    if (!violation.detail.empty())
        line += "; " + printable(violation.detail);
    return line;
}

std::string report(const Violation& violation, const LoadedSymbols& symbols) {
    std::string report = heading(violation);
    if (!violation.detail.empty())
        add_line(report, violation.source == ViolationSource::host_write ? "writer" : "reason",
                 printable(violation.detail));
    if (violation.root)
        add_root(report, *violation.root);
    const auto symbol = target_symbol(violation, symbols);
    if (violation.address)
        add_line(report, "target", place(*violation.address, symbol, ", ", ""));
    if (violation.linear)
        add_line(report, violation.address ? "linear" : "target",
                 violation.address ? to_string(*violation.linear)
                                   : place(*violation.linear, symbol, ", ", ""));
    if (violation.msr)
        add_line(report, "register", fmt::format("{}, MSR {:#x}", register_name(violation), *violation.msr));
    if (violation.bytes != 0)
        add_line(report, "size", plural(violation.bytes, "byte"));
    if (violation.source == ViolationSource::changed_table) {
        add_line(report, "entry", entry_words(violation.value.value_or(0)));
        add_line(report, "expected", entry_words(violation.expected.value_or(0)));
    } else if (violation.value)
        add_line(report, "value",
                 hex_string(*violation.value) +
                     (violation.bytes > 8 && !violation.msr ? ", its first 8 bytes" : ""));
    add_instruction(report, violation, symbols);
    if (violation.lock) {
        const Lock& lock = *violation.lock;
        add_line(report, "lock",
                 fmt::format("{}, {}, {} from {} to {:#x}", words(lock.kind), words(lock.policy),
                             format_bytes(lock.range.bytes()), to_string(lock.range.start()),
                             lock.range.end() - 1));
    }
    if (violation.vcpu)
        add_line(report, "vCPU", std::to_string(*violation.vcpu));
    if (violation.state)
        add_registers(report, *violation.state);
    return report;
}

EventFields event_fields(const Violation& violation, const LoadedSymbols& symbols) {
    EventFields fields;
    const auto add = [&fields](const char* name, EventValue value) {
        fields.emplace_back(name, std::move(value));
    };
    add("source", name_of(violation.source));
    if (const auto policy = violation.policy())
        add("policy", name_of(*policy));
    if (violation.lock)
        add("kind", name_of(violation.lock->kind));
    else if (violation.msr)
        add("kind", "register");
    if (violation.root) {
        const RootMismatch& mismatch = violation.root->mismatch;
        add("mismatch", name_of(mismatch.kind));
        add("root", hex_string(mismatch.root.value));
        if (has_slot(mismatch.kind)) {
            add("slot", uint64_t{mismatch.slot});
            add("value", hex_string(mismatch.found));
            add("expected", hex_string(mismatch.expected));
        }
    }
    if (violation.address)
        add("gpa", hex_string(violation.address->value));
    if (violation.linear)
        add("linear", hex_string(violation.linear->value));
    if (auto symbol = target_symbol(violation, symbols))
        add("target_symbol", std::move(*symbol));
    if (violation.msr) {
        add("register", register_name(violation));
        add("msr", hex_string(*violation.msr));
    }
    if (violation.bytes != 0)
        add("bytes", violation.bytes);
    if (violation.value)
        add("value", hex_string(*violation.value));
    if (violation.expected)
        add("expected", hex_string(*violation.expected));
    if (violation.vcpu)
        add("vcpu", uint64_t{*violation.vcpu});
    add_place(fields, violation.state, symbols);
    if (!violation.instruction.empty())
        add("instruction", violation.instruction);
    if (!violation.code.empty())
        add("code", hex_bytes(violation.code, ""));
    if (violation.lock) {
        add("lock_start", hex_string(violation.lock->range.start().value));
        add("lock_bytes", violation.lock->range.bytes());
    }
    if (!violation.detail.empty())
        add("detail", violation.detail);
    return fields;
}

std::string summary(const AuditDifference& difference, const LoadedSymbols& symbols) {
    std::string line = fmt::format("audit of vCPU {}: ", difference.vcpu);
    if (was_started(difference))
        line += "it did not run at SEAL and has been started since";
    else
        line += fmt::format("{} was {:#x} at SEAL and is {:#x}", difference.name, difference.expected,
                            difference.found);
    if (difference.state) {
        const GuestLinear address = instruction_address(*difference.state);
        line += " at " + place(address, symbols.at(address), " (", ")");
    }
    return line;
}

std::string report(const AuditDifference& difference, const LoadedSymbols& symbols) {
    std::string report = was_started(difference) ? "A vCPU that did not run at SEAL has been started since."
                                                 : "A register that is pinned since SEAL has been changed.";
    if (!was_started(difference)) {
        add_line(report, "register", difference.name);
        add_line(report, "expected", hex_string(difference.expected));
        add_line(report, "found", hex_string(difference.found));
    }
    if (difference.state) {
        const GuestLinear address = instruction_address(*difference.state);
        add_line(report, "at", place(address, symbols.at(address), ", ", ""));
    }
    add_line(report, "vCPU", std::to_string(difference.vcpu));
    if (difference.state) {
        const kvm_dtable& idt = difference.state->system.idt;
        add_line(report, "IDTR", fmt::format("base {:#x}, limit {:#x}", idt.base, idt.limit));
        add_registers(report, *difference.state);
    }
    return report;
}

EventFields event_fields(const AuditDifference& difference, const LoadedSymbols& symbols) {
    EventFields fields{{"vcpu", uint64_t{difference.vcpu}},
                       {"register", std::string(difference.name)},
                       {"expected", hex_string(difference.expected)},
                       {"found", hex_string(difference.found)}};
    add_place(fields, difference.state, symbols);
    return fields;
}

std::string summary(const TranslationDifference& difference, const LoadedSymbols& symbols) {
    std::string line = fmt::format("audit of vCPU {}: {}, pinned by {}, leads elsewhere than at SEAL",
                                   difference.vcpu, to_string(difference.linear), pinned_words(difference));
    if (difference.entry)
        line += fmt::format(": entry {:#x} at {} was {:#x}", difference.found, to_string(*difference.entry),
                            difference.expected);
    if (difference.state) {
        const GuestLinear address = instruction_address(*difference.state);
        line += "; at " + place(address, symbols.at(address), " (", ")");
    }
    return line;
}

std::string report(const TranslationDifference& difference, const LoadedSymbols& symbols) {
    std::string report = "A linear address that is pinned since SEAL leads elsewhere.";
    add_line(report, "register", pinned_words(difference));
    add_line(report, "linear", place(difference.linear, symbols.at(difference.linear), ", ", ""));
    add_line(report, "root", to_string(difference.root));
    if (difference.entry) {
        add_line(report, "entry",
                 fmt::format("{}, in a table of level {}", to_string(*difference.entry), difference.level));
        add_line(report, "expected", entry_words(difference.expected));
        add_line(report, "found", entry_words(difference.found));
    } else {
        add_line(report, "found", "a root that is not in RAM");
    }
    if (difference.state) {
        const GuestLinear address = instruction_address(*difference.state);
        add_line(report, "at", place(address, symbols.at(address), ", ", ""));
    }
    add_line(report, "vCPU", std::to_string(difference.vcpu));
    if (difference.state)
        add_registers(report, *difference.state);
    return report;
}

EventFields event_fields(const TranslationDifference& difference, const LoadedSymbols& symbols) {
    EventFields fields{{"vcpu", uint64_t{difference.vcpu}}, {"register", std::string(difference.pinned_by)}};
    if (difference.gate)
        fields.emplace_back("gate", uint64_t{*difference.gate});
    fields.emplace_back("linear", hex_string(difference.linear.value));
    fields.emplace_back("root", hex_string(difference.root.value));
    if (difference.entry) {
        fields.emplace_back("entry", hex_string(difference.entry->value));
        fields.emplace_back("level", uint64_t{difference.level});
        fields.emplace_back("expected", hex_string(difference.expected));
        fields.emplace_back("found", hex_string(difference.found));
    }
    add_place(fields, difference.state, symbols);
    return fields;
}

} // namespace casemate
