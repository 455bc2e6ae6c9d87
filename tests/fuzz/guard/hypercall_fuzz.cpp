// SPDX-License-Identifier: Apache-2.0
// Any series of hypercalls: what was granted stays granted, what was refused changed nothing.
#include "guard/guard.hpp"

#include <cstdlib>
#include <cstring>
#include <set>

using namespace casemate;

namespace {

constexpr uint64_t ram_pages = 16_MiB / page_bytes;

class NoCpu final : public GuestCpu {
public:
    uint32_t index() const override { return 0; }
    Result<CpuState> state() const override { return CpuState{.system = registers}; }
    Result<kvm_sregs> system_registers() const override { return registers; }
    kvm_sregs registers{};
    Result<bool> is_delivering_event() const override { return false; }
    Result<void> set_instruction_pointer(uint64_t) const override { return {}; }
    Result<void> inject_general_protection() const override { return {}; }
    Result<uint64_t> time_stamp() const override { return 0; }
    Result<uint64_t> syscall_entry() const override { return 0; }
    Result<AuditedState> audited_state() const override { return AuditedState{}; }
    Result<ParavirtualValues> paravirtual_values() const override { return ParavirtualValues{}; }
    Result<bool> waits_for_start() const override { return false; }
    Result<void> write_msr(uint32_t, uint64_t) const override { return {}; }
    std::chrono::nanoseconds run_time() const override { return {}; }
};

class Recorder final : public Protection {
public:
    std::set<uint64_t> pages;
    bool fails = false;
    Result<void> protect(std::span<const GuestRange> ranges) override {
        if (fails)
            return fail(Error("protect"));
        for (const GuestRange& range : ranges)
            for (uint64_t at = range.start().value; at < range.end(); at += page_bytes)
                if (at >= 16_MiB || !pages.insert(at).second)
                    std::abort(); // outside RAM, or twice
        return {};
    }
    Result<std::span<std::byte>> replace(const GuestRange&, const Fill&) override {
        return fail(Error("replace"));
    }
    std::string name() const override { return "recorder"; }
};

struct Call {
    uint64_t address, pages, attributes;
    uint8_t shape; // biases the numbers towards what gets far
};

HypercallRegisters shaped(const Call& call) {
    HypercallRegisters registers{call.address, call.pages, call.attributes};
    if ((call.shape & 1) != 0)
        registers.address = (call.address % (ram_pages + 4)) * page_bytes;
    if ((call.shape & 2) != 0)
        registers.pages = call.pages % (ram_pages + 4);
    if ((call.shape & 4) != 0)
        registers.attributes = casemate_attributes(call.attributes % 12, (call.attributes >> 8) % 3,
                                                   (call.attributes >> 16) % 5);
    if ((call.shape & 8) != 0)
        registers.attributes =
            casemate_attributes(CASEMATE_CALL_LOCK, call.attributes % 2, (call.attributes >> 8) % 4);
    if ((call.shape & 0xc0) == 0xc0) {
        registers.attributes = casemate_attributes(CASEMATE_CALL_ROOT_REFERENCE, call.attributes % 2,
                                                   256 + (call.attributes >> 8) % 256);
        registers.pages = 1 + call.pages % 2;
    } else if ((call.shape & 0xc0) == 0x80) {
        registers.attributes = casemate_attributes(CASEMATE_CALL_ROOT_CHECK, 0, 0);
    }
    return registers;
}

} // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
    static const GuestMemory memory = *GuestMemory::create(16_MiB);
    // Roots and tables in the first pages.
    for (uint64_t address = 0; address < 16 * page_bytes; address += 64 * 8)
        if (!memory.store(GuestPhysical{address}, (address * 5 % 65536 & ~0xfffULL) | 1))
            std::abort();
    NoCpu cpu;
    cpu.registers.cr0 = 1ULL << 31U;
    cpu.registers.cr4 = 1ULL << 5U;
    cpu.registers.efer = 1ULL << 10U;
    const Log log(-1);
    EventLog events;
    Recorder protection;
    Guard guard({.memory = memory,
                 .protection = protection,
                 .log = log,
                 .events = events,
                 .symbols = nullptr,
                 .tables_tolerated = size != 0 && (data[0] & 1) != 0,
                 .end = [](const GuardEnd&) { std::abort(); }}, // nothing here writes
                {});
    for (Call call; size >= sizeof(call); data += sizeof(call), size -= sizeof(call)) {
        std::memcpy(&call, data, sizeof(call));
        protection.fails = (call.shape & 0x30) == 0x30;
        const auto before = protection.pages;
        cpu.registers.cr3 = call.attributes % 32 * page_bytes;
        const uint64_t verified = guard.counts().verified_tables;
        const auto result = static_cast<int64_t>(guard.hypercall(cpu, shaped(call)).result);
        if (result < 0 && (result < -CASEMATE_ENOSYS || protection.pages != before ||
                           guard.counts().verified_tables != verified))
            std::abort();
        if (guard.counts().locked_bytes !=
            (protection.pages.size() + guard.counts().verified_tables) * page_bytes)
            std::abort();
        for (const uint64_t at : protection.pages)
            if (guard.may_write(GuestRange::of({at}, 1)) && at >= 16_MiB)
                std::abort();
    }
    uint64_t verified = 0;
    for (uint64_t at = 0; at < 16_MiB; at += page_bytes) {
        const bool writable = guard.may_write(GuestRange::of({at}, page_bytes));
        if (writable && protection.pages.contains(at))
            std::abort();
        verified += !writable && !protection.pages.contains(at) ? 1U : 0U;
    }
    if (verified != guard.counts().verified_tables)
        std::abort();
    return 0;
}
