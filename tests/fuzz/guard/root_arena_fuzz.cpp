// SPDX-License-Identifier: Apache-2.0
// ROOT_ARENA, ROOT_WRITE, ROOT_CLEAR and LOCK in any order: the kernel half of each root is the reference's,
// each user entry is 0 or leads to RAM that was not locked then, in the documented form, and shadow pages are
// dropped before a table is reached that was linked where another was.
#include "../expect.hpp"
#include "guard/guard.hpp"
#include "guard/mapping_protection.hpp"

#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <map>
#include <utility>

namespace casemate {
namespace {

constexpr uint64_t ram_bytes = 1_MiB;
constexpr uint64_t reference_root = 0x10000; // two pages
constexpr uint64_t direct_pud = 0x12000, direct_pmd = 0x13000, user_pud = 0x14000;
constexpr uint64_t first_slot = 273;
constexpr uint64_t table_entry = entry_present | entry_writable | entry_accessed | entry_dirty;

class LongModeCpu final : public GuestCpu {
public:
    explicit LongModeCpu(bool no_execute) {
        m_system.cr0 = 1ULL << 31U;
        m_system.cr4 = 1ULL << 5U;
        m_system.efer = 1ULL << 10U | (no_execute ? 1ULL << 11U : 0);
        m_system.cr3 = reference_root;
    }
    uint32_t index() const override { return 0; }
    Result<CpuState> state() const override { return CpuState{.system = m_system}; }
    Result<kvm_sregs> system_registers() const override { return m_system; }
    Result<bool> is_delivering_event() const override { return false; }
    Result<void> set_instruction_pointer(uint64_t) const override { return {}; }
    Result<void> inject_general_protection() const override { return {}; }
    Result<uint64_t> time_stamp() const override { return 0; }
    Result<uint64_t> syscall_entry() const override { return 0; }
    Result<AuditedState> audited_state() const override { return AuditedState{.system = m_system}; }
    Result<ParavirtualValues> paravirtual_values() const override { return ParavirtualValues{}; }
    Result<bool> waits_for_start() const override { return false; }
    Result<void> write_msr(uint32_t, uint64_t) const override { return {}; }
    std::chrono::nanoseconds run_time() const override { return {}; }
    void load_root(uint64_t root) { m_system.cr3 = root; }

private:
    kvm_sregs m_system{};
};

// What four bytes of input ask for.
struct Step {
    uint8_t call;
    uint8_t root;
    uint8_t slot;
    uint8_t page;
};

class Run {
public:
    explicit Run(uint8_t shape)
        : m_pair((shape & 1) != 0)
        , m_no_execute((shape & 2) != 0)
        , m_shadows((shape & 4) != 0)
        , m_memory(GuestMemory::create(ram_bytes).value())
        , m_protection(m_memory, GuestMemory::Sealing::never)
        , m_guard({.memory = m_memory,
                   .protection = m_protection,
                   .log = m_log,
                   .events = m_events,
                   .symbols = nullptr,
                   .tables_tolerated = (shape & 8) == 0,
                   .shadows_tables = [this] { return m_shadows; },
                   .drop_shadow_pages =
                       [this] {
                           m_shadow.clear();
                           return Result<void>();
                       },
                   .end = [](const GuardEnd&) { std::abort(); }},
                  {})
        , m_cpu(m_no_execute) {
        put(reference_root, first_slot, direct_pud | table_entry);
        put(direct_pud, 0, direct_pmd | table_entry);
        put(direct_pmd, 0, entry_large | table_entry);
        if (m_pair)
            put(reference_root + page_bytes, 511, user_pud | table_entry);
        m_memory.set_write_gate(&m_guard);
    }
    ~Run() { m_memory.set_write_gate(nullptr); }
    Run(const Run&) = delete;
    Run& operator=(const Run&) = delete;

    void prepare() {
        for (const uint64_t page : {direct_pud, direct_pmd, reference_root, reference_root + page_bytes})
            call(casemate_attributes(CASEMATE_CALL_LOCK, 0, CASEMATE_KIND_PAGE_TABLE), page, 1);
        call(casemate_attributes(CASEMATE_CALL_ROOT_REFERENCE, 0, first_slot), reference_root,
             m_pair ? 2 : 1);
    }
    void make_arena() { arena(0x40000, 16); }
    // Few roots and slots, so that they are used again and again; some that are none.
    void take(const Step& bytes) {
        const Step step{.call = bytes.call,
                        .root = static_cast<uint8_t>(bytes.root >= 0xf0 ? bytes.root : bytes.root % 4),
                        .slot = static_cast<uint8_t>(bytes.slot >= 0xf0 ? bytes.slot : bytes.slot % 4),
                        .page = bytes.page};
        const uint64_t page = step.page * page_bytes;
        switch (step.call % 16) {
        case 0:
            prepare();
            break;
        case 1:
            arena(page, bytes.root);
            break;
        case 2: {
            const bool was_free = m_guard.may_write(GuestRange::of({page}, page_bytes));
            const auto done =
                call(casemate_attributes(CASEMATE_CALL_LOCK, bytes.root % 2, bytes.slot % 4), page, 1);
            expect(done <= 0 && (was_free || !m_guard.may_write(GuestRange::of({page}, page_bytes))));
            break;
        }
        case 3:
        case 4:
        case 5:
            clear(step.root);
            break;
        case 6:
            write(step.root, step.slot + uint64_t{256}, page);
            break;
        case 7: // as the CPU walks
            walk(step.root, step.slot);
            break;
        case 8:
            write(step.root, step.slot, 0);
            break;
        default:
            write(step.root, step.slot, page);
        }
        check();
    }

private:
    struct Arena {
        uint64_t start = 0;
        uint64_t pages = 0;
    };

    uint64_t at(uint64_t page, uint64_t slot) const {
        return m_memory.fetch<uint64_t>({page + 8 * slot}).value();
    }
    void put(uint64_t page, uint64_t slot, uint64_t entry) {
        expect(m_memory.store(GuestPhysical{page + 8 * slot}, entry).has_value());
    }
    int64_t call(uint64_t attributes, uint64_t address, uint64_t pages) {
        const auto answer =
            m_guard.hypercall(m_cpu, {.address = address, .pages = pages, .attributes = attributes});
        expect(!answer.end || answer.end->reason != GuardEnd::Reason::host_failure);
        return static_cast<int64_t>(answer.result);
    }
    uint64_t step_pages() const { return m_pair ? 2 : 1; }
    uint64_t page_of(uint64_t root) const { return m_arena.start + root * step_pages() * page_bytes; }
    bool is_root(uint64_t root) const { return root < m_arena.pages / step_pages(); }

    void arena(uint64_t address, uint64_t pages) {
        const auto range = GuestRange::of({address}, pages * page_bytes);
        const bool was_free = pages != 0 && m_guard.may_write(range) && m_memory.is_ram(range);
        if (call(casemate_attributes(CASEMATE_CALL_ROOT_ARENA, 0, 0), address, pages) != 0)
            return;
        expect(was_free && m_arena.pages == 0 && pages % step_pages() == 0);
        expect(m_shadow.empty());
        m_arena = {.start = address, .pages = pages};
    }
    void write(uint64_t root, uint64_t slot, uint64_t table) {
        const auto page = GuestRange::of({table}, page_bytes);
        const auto before = m_linked.find({root, slot});
        const uint64_t linked = before == m_linked.end() ? 0 : before->second;
        const bool may_link =
            m_memory.is_ram(page) && m_guard.may_write(page) && (linked == 0 || linked == table);
        const bool allowed = is_root(root) && slot < 256 && (table == 0 || may_link);
        const auto done =
            call(casemate_attributes(CASEMATE_CALL_ROOT_WRITE, 0, CASEMATE_ROOT_ENTRY(root, slot)), table, 1);
        expect((done == 0) == allowed);
        if (!allowed)
            return;
        if (table == 0)
            m_linked.erase({root, slot});
        else
            m_linked[{root, slot}] = table;
        // Under shadow paging a walk goes where its shadow leads. Where nothing was linked since the root was
        // cleared there is nothing to take out; the next link drops what is left.
        if (table == 0 && linked != 0)
            expect(!m_shadow.contains({root, slot}));
        walk(root, slot);
    }
    void clear(uint64_t root) {
        const auto done =
            call(casemate_attributes(CASEMATE_CALL_ROOT_CLEAR, 0, CASEMATE_ROOT_ENTRY(root, 0)), 0, 1);
        expect((done == 0) == is_root(root));
        std::erase_if(m_linked, [root](const auto& entry) { return entry.first.first == root; });
    }
    // A root that was cleared is not loaded before something is linked.
    void walk(uint64_t root, uint64_t slot) {
        if (!is_root(root) || !m_shadows)
            return;
        const auto linked = m_linked.find({root, slot});
        if (linked == m_linked.end())
            return;
        const auto [shadow, is_new] = m_shadow.try_emplace({root, slot}, linked->second);
        expect(shadow->second == linked->second);
    }
    void check() const {
        for (uint64_t page = 0; page < m_arena.pages; ++page) {
            const bool of_user = m_pair && page % 2 == 1;
            const uint64_t address = m_arena.start + page * page_bytes;
            TableEntries entries;
            expect(m_memory.read_words({address}, entries).has_value());
            for (uint64_t slot = 256; slot < table_entries; ++slot) {
                const bool present = of_user ? slot == 511 : slot == first_slot;
                const uint64_t entry = (of_user ? user_pud : direct_pud) | table_entry;
                expect(entries.at(slot) == (present ? entry : 0));
            }
            for (uint64_t slot = 0; slot < 256; ++slot) {
                const auto linked = m_linked.find({page / step_pages(), slot});
                const uint64_t nx = m_pair && !of_user && m_no_execute ? entry_no_execute : 0;
                expect(entries.at(slot) ==
                       (linked == m_linked.end() ? 0 : linked->second | table_entry | entry_user | nx));
            }
            expect(!m_guard.may_write(GuestRange::of({address}, page_bytes)));
        }
    }

    bool m_pair, m_no_execute, m_shadows;
    Log m_log{-1};
    EventLog m_events;
    GuestMemory m_memory;
    MappingProtection m_protection;
    Guard m_guard;
    LongModeCpu m_cpu;
    Arena m_arena;
    std::map<std::pair<uint64_t, uint64_t>, uint64_t> m_linked; // root and slot: table
    std::map<std::pair<uint64_t, uint64_t>, uint64_t> m_shadow; // as KVM would have it
};

} // namespace
} // namespace casemate

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size);
extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
    using namespace casemate;
    if (size == 0)
        return 0;
    Run run(data[0]);
    if ((data[0] & 16) == 0)
        run.prepare();
    if ((data[0] & 32) == 0)
        run.make_arena();
    ++data;
    --size;
    for (Step step; size >= sizeof(step); data += sizeof(step), size -= sizeof(step)) {
        std::memcpy(&step, data, sizeof(step));
        run.take(step);
    }
    return 0;
}
