// SPDX-License-Identifier: Apache-2.0
#include "guard/report.hpp"

#include "synthetic_symbols.hpp"

#include <algorithm>
#include <cstdlib>
#include <doctest/doctest.h>

namespace casemate {
namespace {

using namespace synthetic;

constexpr uint64_t kaslr_offset = 0x1e00000;
constexpr uint64_t image_physical = 0x5000000;

struct Fixture {
    SymbolFile file{system_map()};
    Result<Symbols> symbols = Symbols::load(file.path().c_str());
    LoadedSymbols loaded{.symbols = &*symbols,
                         .linear_offset = kaslr_offset,
                         .image_start = {text_start},
                         .image_physical = {image_physical},
                         .image_bytes = image_end - text_start};
};

CpuState kernel_state() {
    CpuState state;
    state.registers = {.rax = 0xffff888005002010,
                       .rbx = 0x4141414141414141,
                       .rcx = 0x1000,
                       .rsp = 0xffffc90000013e50,
                       .rip = system_call_entry + kaslr_offset + 0x1a,
                       .rflags = 0x10246};
    state.system.cr0 = 0x80050033;
    state.system.cr2 = 0x7f0012345678;
    state.system.cr3 = 0x2a34000;
    state.system.cr4 = 0x3706f0;
    state.system.efer = 0xd01;
    state.system.cs.selector = 0x10;
    state.system.cs.l = 1;
    state.system.cs.base = 0x7777; // does not count in 64-bit code
    state.system.ss.selector = 0x18;
    return state;
}

// Through the direct map, into text.
Violation store(const CpuState& state = kernel_state()) {
    return {.source = ViolationSource::store,
            .lock = Lock{.range = GuestRange::of({image_physical}, 4_MiB),
                         .policy = LockPolicy::die_on_write,
                         .kind = LockKind::text},
            .address = GuestPhysical{image_physical + 0x2010},
            .linear = GuestLinear{0xffff888005002010},
            .bytes = 8,
            .value = 0x4141414141414141,
            .vcpu = 3,
            .state = state,
            .instruction = "mov qword ptr [rax], rbx",
            .code = {std::byte{0x48}, std::byte{0x89}, std::byte{0x18}},
            .detail = ""};
}

Violation emulated_store() {
    Violation violation = store();
    violation.source = ViolationSource::emulated_store;
    violation.lock = Lock{.range = GuestRange::of({image_physical}, 4_MiB),
                          .policy = LockPolicy::read_only,
                          .kind = LockKind::page_table};
    violation.linear.reset();
    violation.instruction.clear();
    return violation;
}

Violation host_write() {
    return {.source = ViolationSource::host_write,
            .lock = Lock{.range = GuestRange::of({0x9000}, 0x1000),
                         .policy = LockPolicy::read_only,
                         .kind = LockKind::data},
            .address = GuestPhysical{0x9000},
            .bytes = 1,
            .detail = "virtio-blk 0"};
}

Violation unattributable() {
    CpuState state = kernel_state();
    state.system.ss.dpl = 3;
    return {.source = ViolationSource::unattributable,
            .vcpu = 0,
            .state = state,
            .code = {std::byte{0x0f}, std::byte{0x38}, std::byte{0xf9}},
            .detail = "the decoder does not know the instruction"};
}

// As casemate::synthetic tables would be forged.
Violation root(RootMismatch::Kind kind) {
    return {.source = ViolationSource::root,
            .root = RootViolation{.mismatch = {.kind = kind,
                                               .root = {0x200000},
                                               .slot = 511,
                                               .expected = 0x116063,
                                               .found = 0x8000000000700067,
                                               .mode = {.paging = true, .long_mode = true}},
                                  .policy = LockPolicy::die_on_write},
            .vcpu = 1,
            .detail = ""};
}

Violation changed_table() {
    return {.source = ViolationSource::changed_table,
            .lock = Lock{.range = GuestRange::of({0x117000}, 0x1000),
                         .policy = LockPolicy::read_only,
                         .kind = LockKind::page_table},
            .address = GuestPhysical{0x117040},
            .bytes = 8,
            .value = 0x8000e3,
            .expected = 0,
            .vcpu = 1,
            .detail = "2 of the table's entries differ, written back"};
}

std::string json_of(const EventFields& fields) {
    const Fd file(memfd_create("events", MFD_CLOEXEC));
    auto log = EventLog::open(("/proc/self/fd/" + std::to_string(file.get())).c_str());
    REQUIRE(log);
    log->write("violation", fields);
    std::string text(4096, '\0');
    const ssize_t got = read(file.get(), text.data(), text.size());
    text.resize(got < 0 ? 0 : static_cast<size_t>(got));
    return text.substr(text.find(",\"source\""));
}

TEST_CASE_FIXTURE(Fixture, "a store") {
    CHECK(summary(store(), loaded) ==
          "die-on-write text at gpa:0x5002010 (do_one_thing+0x10): store of 8 bytes by vCPU 3 at "
          "gla:0xffffffff8300009a (entry_SYSCALL_64+0x1a): mov qword ptr [rax], rbx");
    CHECK(report(store(), loaded) == R"(A store to memory locked as text, die-on-write, was stopped.
  target      gpa:0x5002010, do_one_thing+0x10
  linear      gla:0xffff888005002010
  size        8 bytes
  value       0x4141414141414141
  instruction mov qword ptr [rax], rbx
  bytes       48 89 18
  at          gla:0xffffffff8300009a, entry_SYSCALL_64+0x1a
  lock        text, die-on-write, 4 MiB from gpa:0x5000000 to 0x53fffff
  vCPU        3
  rip    ffffffff8300009a rsp    ffffc90000013e50 rflags 0000000000010246 efer   0000000000000d01
  rax    ffff888005002010 rbx    4141414141414141 rcx    0000000000001000 rdx    0000000000000000
  rsi    0000000000000000 rdi    0000000000000000 rbp    0000000000000000 r8     0000000000000000
  r9     0000000000000000 r10    0000000000000000 r11    0000000000000000 r12    0000000000000000
  r13    0000000000000000 r14    0000000000000000 r15    0000000000000000 cr0    0000000080050033
  cr2    00007f0012345678 cr3    0000000002a34000 cr4    00000000003706f0 cr8    0000000000000000
  cs     0010, base 0000000000007777, 64-bit code
  ss     0018, base 0000000000000000, CPL 0)");
    CHECK(
        json_of(event_fields(store(), loaded)) ==
        R"(,"source":"store","policy":"die_on_write","kind":"text","gpa":"0x5002010","linear":"0xffff888005002010",)"
        R"("target_symbol":"do_one_thing+0x10","bytes":8,"value":"0x4141414141414141","vcpu":3,"rip":"0xffffffff8300009a",)"
        R"("rip_symbol":"entry_SYSCALL_64+0x1a","cpl":0,"instruction":"mov qword ptr [rax], rbx","code":"488918",)"
        R"("lock_start":"0x5000000","lock_bytes":4194304})"
        "\n");
}

TEST_CASE_FIXTURE(Fixture, "a store that KVM emulated") {
    CHECK(summary(emulated_store(), loaded) ==
          "read-only page table at gpa:0x5002010 (do_one_thing+0x10): emulated store of 8 bytes by vCPU 3 "
          "just before gla:0xffffffff8300009a (entry_SYSCALL_64+0x1a)");
    CHECK(report(emulated_store(), loaded) ==
          R"(A store to memory locked as page table, read-only, was dropped.
  target      gpa:0x5002010, do_one_thing+0x10
  size        8 bytes
  value       0x4141414141414141
  next bytes  48 89 18
  behind it   gla:0xffffffff8300009a, entry_SYSCALL_64+0x1a
  imprecise   KVM emulated the instruction: RIP is already behind it, its registers may have
              changed, and no exception was raised
  lock        page table, read-only, 4 MiB from gpa:0x5000000 to 0x53fffff
  vCPU        3
  rip    ffffffff8300009a rsp    ffffc90000013e50 rflags 0000000000010246 efer   0000000000000d01
  rax    ffff888005002010 rbx    4141414141414141 rcx    0000000000001000 rdx    0000000000000000
  rsi    0000000000000000 rdi    0000000000000000 rbp    0000000000000000 r8     0000000000000000
  r9     0000000000000000 r10    0000000000000000 r11    0000000000000000 r12    0000000000000000
  r13    0000000000000000 r14    0000000000000000 r15    0000000000000000 cr0    0000000080050033
  cr2    00007f0012345678 cr3    0000000002a34000 cr4    00000000003706f0 cr8    0000000000000000
  cs     0010, base 0000000000007777, 64-bit code
  ss     0018, base 0000000000000000, CPL 0)");
    CHECK(
        json_of(event_fields(emulated_store(), loaded)) ==
        R"(,"source":"emulated_store","policy":"read_only","kind":"page_table","gpa":"0x5002010",)"
        R"("target_symbol":"do_one_thing+0x10","bytes":8,"value":"0x4141414141414141","vcpu":3,"rip":"0xffffffff8300009a",)"
        R"("rip_symbol":"entry_SYSCALL_64+0x1a","cpl":0,"code":"488918","lock_start":"0x5000000","lock_bytes":4194304})"
        "\n");
}

TEST_CASE_FIXTURE(Fixture, "a device's write") {
    CHECK(summary(host_write(), loaded) ==
          "read-only data at gpa:0x9000: write of 1 byte by the monitor; virtio-blk 0");
    CHECK(report(host_write(), loaded) ==
          R"(A write by the monitor for the guest to memory locked as data, read-only, was refused.
  writer      virtio-blk 0
  target      gpa:0x9000
  size        1 byte
  lock        data, read-only, 4 KiB from gpa:0x9000 to 0x9fff)");
    CHECK(
        json_of(event_fields(host_write(), loaded)) ==
        R"(,"source":"host_write","policy":"read_only","kind":"data","gpa":"0x9000","bytes":1,"lock_start":"0x9000",)"
        R"("lock_bytes":4096,"detail":"virtio-blk 0"})"
        "\n");
}

TEST_CASE_FIXTURE(Fixture, "a fault that nothing explains") {
    CHECK(summary(unattributable(), loaded) ==
          "memory fault that nothing explains on vCPU 0 at gla:0xffffffff8300009a (entry_SYSCALL_64+0x1a); "
          "the decoder does not know the instruction");
    CHECK(report(unattributable(), loaded) ==
          R"(A memory fault on a protected page that no operand of an instruction explains.
  reason      the decoder does not know the instruction
  instruction not known to the decoder
  bytes       0f 38 f9
  at          gla:0xffffffff8300009a, entry_SYSCALL_64+0x1a
  vCPU        0
  rip    ffffffff8300009a rsp    ffffc90000013e50 rflags 0000000000010246 efer   0000000000000d01
  rax    ffff888005002010 rbx    4141414141414141 rcx    0000000000001000 rdx    0000000000000000
  rsi    0000000000000000 rdi    0000000000000000 rbp    0000000000000000 r8     0000000000000000
  r9     0000000000000000 r10    0000000000000000 r11    0000000000000000 r12    0000000000000000
  r13    0000000000000000 r14    0000000000000000 r15    0000000000000000 cr0    0000000080050033
  cr2    00007f0012345678 cr3    0000000002a34000 cr4    00000000003706f0 cr8    0000000000000000
  cs     0010, base 0000000000007777, 64-bit code
  ss     0018, base 0000000000000000, CPL 3)");
    CHECK(
        json_of(event_fields(unattributable(), loaded)) ==
        R"(,"source":"unattributable","vcpu":0,"rip":"0xffffffff8300009a","rip_symbol":"entry_SYSCALL_64+0x1a","cpl":3,)"
        R"("code":"0f38f9","detail":"the decoder does not know the instruction"})"
        "\n");
}

bool is_printable(std::string_view text) {
    return std::all_of(text.begin(), text.end(), [](char c) { return c >= ' ' && c <= '~'; });
}

std::vector<std::string> lines_of(const std::string& text) {
    std::vector<std::string> lines(1);
    for (const char c : text)
        if (c == '\n')
            lines.emplace_back();
        else
            lines.back() += c;
    return lines;
}

TEST_CASE_FIXTURE(Fixture, "hostile and long text is escaped, and broken into lines of 100 columns") {
    for (const std::string& text : {std::string("\x1b[2J\n\x9b\x80\xff"), std::string(500, 'a'),
                                    std::string(500, ' '), std::string(500, '\x1b')}) {
        Violation violation = store();
        violation.instruction = text;
        violation.detail = text;
        violation.code.assign(longest_instruction, std::byte{0xff});
        CHECK(is_printable(summary(violation, loaded)));
        for (const std::string& line : lines_of(report(violation, loaded))) {
            CAPTURE(line);
            CHECK(is_printable(line));
            CHECK(line.size() <= 100);
        }
    }
    Violation violation = store();
    violation.detail = "\x1b[2J";
    CHECK(report(violation, loaded).find("reason      \\x1b[2J\n") != std::string::npos);
    violation.detail = std::string(85, 'a') + " next";
    CHECK(report(violation, loaded).find("a\n              next\n") != std::string::npos);
}

TEST_CASE_FIXTURE(Fixture, "without symbols there are addresses, and nothing is made up") {
    const std::string text = report(store(), LoadedSymbols{});
    CHECK(text.find("target      gpa:0x5002010\n") != std::string::npos);
    CHECK(text.find("at          gla:0xffffffff8300009a\n") != std::string::npos);
    for (const auto& [name, value] : event_fields(store(), LoadedSymbols{}))
        CHECK(name.find("symbol") == std::string::npos);
    for (const ViolationSource source : {ViolationSource::store, ViolationSource::emulated_store,
                                         ViolationSource::host_write, ViolationSource::unattributable}) {
        const Violation bare{.source = source};
        CHECK(lines_of(report(bare, loaded)).size() == 1);
        CHECK(event_fields(bare, loaded).size() == 1);
        CHECK_FALSE(summary(bare, loaded).empty());
    }
}

TEST_CASE_FIXTURE(Fixture, "the base of CS counts outside of 64-bit code, and addresses wrap at 4 GiB") {
    CpuState state = kernel_state();
    state.system.cs.l = 0;
    state.system.cs.base = 0xffff0000;
    state.registers.rip = 0x1fff0;
    CHECK(report(store(state), loaded).find("at          gla:0xfff0\n") != std::string::npos);
    CHECK(report(store(state), loaded).find("16-bit code") != std::string::npos);
    state.system.cs.l = 1;
    CHECK(report(store(state), loaded).find("at          gla:0x1fff0\n") != std::string::npos);
    state.system.efer = 0; // then L is not there
    CHECK(report(store(state), loaded).find("at          gla:0xfff0\n") != std::string::npos);
}

TEST_CASE_FIXTURE(Fixture, "a store behind no mapping of the image is named by its linear address") {
    Violation violation = store();
    violation.address.reset();
    violation.linear = GuestLinear{text_start + kaslr_offset + 0x2004};
    CHECK(report(violation, loaded).find("target      gla:0xffffffff82e02004, do_one_thing+0x4\n") !=
          std::string::npos);
    violation.bytes = 64;
    CHECK(report(violation, loaded).find("value       0x4141414141414141, its first 8 bytes\n") !=
          std::string::npos);
}

TEST_CASE_FIXTURE(Fixture, "a root's slot") {
    const Violation violation = root(RootMismatch::Kind::slot);
    CHECK(summary(violation, loaded) == "page-table root gpa:0x200000: slot 511 is 0x8000000000700067, not "
                                        "0x116063, on vCPU 1");
    CHECK(report(violation, loaded) ==
          R"(A page-table root does not have the kernel's half of the address space.
  root        gpa:0x200000
  slot        511, from gla:0xffffff8000000000
  leads to    gpa:0x700000, writable, user, not executable (0x8000000000700067)
  reference   gpa:0x116000, writable, supervisor, executable (0x116063)
  policy      die-on-write
  vCPU        1)");
    CHECK(json_of(event_fields(violation, loaded)) ==
          R"(,"source":"root","policy":"die_on_write","mismatch":"slot","root":"0x200000","slot":511,)"
          R"("value":"0x8000000000700067","expected":"0x116063","vcpu":1})"
          "\n");
}

TEST_CASE_FIXTURE(Fixture, "other mismatches of roots") {
    using Kind = RootMismatch::Kind;
    CHECK(report(root(Kind::user_root_slot), loaded).find("gpa:0x200000, which user space runs on") !=
          std::string::npos);
    CHECK(summary(root(Kind::executable_user), loaded) ==
          "page-table root gpa:0x200000: the kernel could execute user memory by slot 511, "
          "0x8000000000700067, on vCPU 1");
    CHECK(summary(root(Kind::outside_ram), loaded) ==
          "page-table root gpa:0x200000 is not in RAM, on vCPU 1");
    CHECK(report(root(Kind::outside_ram), loaded).find("slot") == std::string::npos);
    CHECK(summary(root(Kind::outside_arena), loaded) ==
          "page-table root gpa:0x200000 is not in the root arena, on vCPU 1");
    CHECK(report(root(Kind::outside_arena), loaded).find("slot") == std::string::npos);
    CHECK(json_of(event_fields(root(Kind::outside_arena), loaded)).find("\"outside_arena\"") !=
          std::string::npos);
    Violation mode = root(Kind::paging_mode);
    CHECK(summary(mode, loaded) == "page-table root gpa:0x200000 with another paging mode: 4-level paging "
                                   "without NX, on vCPU 1");
    mode.root->mismatch.mode = {.paging = true, .long_mode = true, .five_levels = true, .no_execute = true};
    CHECK(report(mode, loaded).find("the paging mode is another one: 5-level paging\n") != std::string::npos);
    mode.root->mismatch.mode = {};
    mode.detail = "about to be loaded";
    CHECK(summary(mode, loaded).ends_with("no paging, on vCPU 1; about to be loaded"));
    CHECK(json_of(event_fields(mode, loaded)).find("\"slot\"") == std::string::npos);
}

TEST_CASE_FIXTURE(Fixture, "a changed table") {
    const Violation violation = changed_table();
    CHECK(summary(violation, loaded) ==
          "read-only page table at gpa:0x117040: entry 0x8000e3 instead of 0x0, found by vCPU 1; 2 of the "
          "table's entries differ, written back");
    CHECK(report(violation, loaded) == R"(A page table under verification, read-only, was changed.
  reason      2 of the table's entries differ, written back
  target      gpa:0x117040
  size        8 bytes
  entry       gpa:0x800000, writable, supervisor, executable, large (0x8000e3)
  expected    nothing (0x0)
  lock        page table, read-only, 4 KiB from gpa:0x117000 to 0x117fff
  vCPU        1)");
}

} // namespace
} // namespace casemate
