// SPDX-License-Identifier: Apache-2.0
// What a Guard is tested with: a vCPU and a protection that are none, and a guest with page tables.
#pragma once

#include "guard/guard.hpp"
#include "synthetic_tables.hpp"

#include <doctest/doctest.h>
#include <vector>

namespace casemate::synthetic {

constexpr GuestPhysical code{0x10000};

inline GuardEnd must_be(const std::optional<GuardEnd>& end) {
    REQUIRE(end);
    return end.value_or(GuardEnd{});
}

// A CPU in protected mode without paging: linear addresses are physical.
class FakeCpu final : public GuestCpu {
public:
    FakeCpu() {
        m_state.system.cr0 = 1;
        m_state.system.apic_base = 0xfee00900;
        m_state.system.cs.db = 1;
        m_state.system.ss.db = 1;
        m_state.registers.rip = code.value;
    }
    kvm_regs& registers() { return m_state.registers; }
    bool delivering = false;
    bool waiting = false;
    ParavirtualValues paravirtual;
    bool refuses_msr_writes = false;
    std::chrono::nanoseconds ran{};
    mutable unsigned injected = 0;

    uint32_t index() const override { return 0; }
    Result<CpuState> state() const override { return m_state; }
    Result<kvm_sregs> system_registers() const override { return m_state.system; }
    kvm_sregs& system() { return m_state.system; }
    Result<bool> is_delivering_event() const override { return delivering; }
    Result<void> inject_general_protection() const override {
        ++injected;
        return {};
    }
    Result<void> set_instruction_pointer(uint64_t rip) const override {
        m_state.registers.rip = rip;
        return {};
    }
    uint64_t tsc = 0;
    Result<uint64_t> time_stamp() const override { return tsc; }
    Result<uint64_t> syscall_entry() const override { return 0; }
    Result<AuditedState> audited_state() const override { return AuditedState{.system = m_state.system}; }
    Result<ParavirtualValues> paravirtual_values() const override { return paravirtual; }
    Result<bool> waits_for_start() const override { return waiting; }
    Result<void> write_msr(uint32_t, uint64_t) const override {
        return refuses_msr_writes ? fail(Error("KVM_SET_MSRS")) : Result<void>();
    }
    std::chrono::nanoseconds run_time() const override { return ran; }

private:
    mutable CpuState m_state;
};

// Locks are only noted; replaced pages are replaced.
class FakeProtection final : public Protection {
public:
    explicit FakeProtection(GuestMemory& memory)
        : m_memory(memory) {}
    std::vector<GuestRange> ranges;
    bool fails = false;
    std::function<void()> before = [] {};

    Result<void> protect(std::span<const GuestRange> more) override {
        before();
        if (fails)
            return fail(Error("protect"));
        ranges.insert(ranges.end(), more.begin(), more.end());
        return {};
    }
    Result<std::span<std::byte>> replace(const GuestRange& range, const Fill& fill) override {
        before();
        if (fails)
            return fail(Error("replace"));
        m_view = TRY(m_memory.replace_pages(range, fill, GuestMemory::Sealing::never));
        return m_view.bytes();
    }
    std::string name() const override { return "fake"; }

private:
    GuestMemory& m_memory;
    Mapping m_view;
};

inline const auto check_call = casemate_attributes(CASEMATE_CALL_ROOT_CHECK, 0, 0);

struct RootFixture : SyntheticTables {
    explicit RootFixture(bool enforced, Guard::Options options = {}, bool isolation = false)
        : SyntheticTables({.pair = isolation, .ram_bytes = 64_MiB})
        , guard({.memory = memory,
                 .protection = protection,
                 .log = log,
                 .events = events,
                 .symbols = nullptr,
                 .tables_tolerated = enforced,
                 .shadows_tables = [this] { return shadows; },
                 .drop_shadow_pages = [this]() -> Result<void> {
                     ++drops;
                     return drop_fails ? fail(Error("drop")) : Result<void>();
                 },
                 .end = [this](GuardEnd end) { ended = std::move(end); },
                 .ending = ending.get_token()},
                options) {
        memory.set_write_gate(&guard);
        cpu.system().cr0 |= 1ULL << 31U;
        cpu.system().cr4 = 1ULL << 5U;
        cpu.system().efer = 1ULL << 10U | 1ULL << 11U;
        cpu.system().cr3 = process_root | 0x801;
    }
    int64_t call(uint64_t attributes, uint64_t address = 0, uint64_t pages = 1) {
        Guard::Answer answer =
            guard.hypercall(cpu, {.address = address, .pages = pages, .attributes = attributes});
        ended = std::move(answer.end);
        return static_cast<int64_t>(answer.result);
    }
    int64_t lock(uint64_t address, uint64_t pages, uint64_t kind,
                 uint64_t policy = CASEMATE_POLICY_READ_ONLY) {
        return call(casemate_attributes(CASEMATE_CALL_LOCK, policy, kind), address, pages);
    }
    void lock_all(uint64_t policy = CASEMATE_POLICY_READ_ONLY) {
        CHECK(lock(text_start, text_bytes / page_bytes, CASEMATE_KIND_TEXT, policy) == 0);
        for (const uint64_t table : required())
            CHECK(lock(table, 1, CASEMATE_KIND_PAGE_TABLE, policy) == 0);
    }
    int64_t refer(uint64_t policy = CASEMATE_POLICY_READ_ONLY, uint64_t slot = 273) {
        return call(casemate_attributes(CASEMATE_CALL_ROOT_REFERENCE, policy, slot), reference_root,
                    pair ? 2 : 1);
    }
    int64_t check(uint64_t next = 0) { return call(check_call, next); }
    // As a vCPU's store does, which no gate asks.
    void forge(uint64_t table, uint64_t index, uint64_t entry) const {
        REQUIRE(memory.restore({table + 8 * index}, entry));
    }

    Log log{-1};
    EventLog events;
    bool shadows = true;
    bool drop_fails = false;
    unsigned drops = 0;
    FakeProtection protection{memory};
    std::optional<GuardEnd> ended;
    std::stop_source ending;
    Guard guard;
    FakeCpu cpu;
};

} // namespace casemate::synthetic
