// SPDX-License-Identifier: Apache-2.0
// Attacks 38 and 39: as much work for the monitor as a guest can ask for, by calls and by disks, while it is
// to audit and to end.
#include "attack_locks.hpp"
#include "page_tables.hpp"
#include "virtio.hpp"

namespace payload {
namespace {

constexpr uint64_t first_slot = 256;

uint64_t asked_policy() {
    return policy() == Policy::die_on_write ? CASEMATE_POLICY_DIE_ON_WRITE : CASEMATE_POLICY_READ_ONLY;
}

void print_answer(unsigned number, const char* name, int64_t result, int64_t expected) {
    print("# ");
    print(name);
    print(" got ");
    print_decimal(result);
    print("\n");
    print_other(number, name, result == 0 ? "granted" : result == expected ? "refused" : "WRONG");
}

// --- walks -------------------------------------------------------------------

uint64_t maze;

// Tables that lead to each other and nowhere else, all locked, and a root above them.
void build_maze() {
    if (maze != 0)
        return;
    const uint64_t tables = command_line_number("tables", 32000);
    maze = take_pages(1);
    const uint64_t first = take_pages(tables);
    uint64_t next = 0;
    for (uint64_t at = first; at < first + tables * page_bytes; at += 8) {
        store<uint64_t>(at, (first + next * page_bytes) | writable_page);
        next = next + 1 == tables ? 0 : next + 1;
    }
    for (uint64_t slot = first_slot; slot < 512; ++slot)
        store<uint64_t>(maze + 8 * slot, (first + (slot - first_slot) * page_bytes) | writable_page);
    lock_pages(first, tables);
}

int64_t walk_maze() {
    return casemate_call(maze, 1,
                         casemate_attributes(CASEMATE_CALL_ROOT_REFERENCE, asked_policy(), first_slot));
}

struct Walker {
    volatile uint64_t rounds;
    volatile bool stop;
    volatile uint64_t granted;
    volatile uint64_t done;
};
Walker walker;

void walk_loop(void*) {
    while (!walker.stop && walker.done < walker.rounds) {
        if (walk_maze() != -CASEMATE_E2BIG)
            walker.granted = walker.granted + 1;
        walker.done = walker.done + 1;
    }
}

void attempt_walks_at_once() {
    walker = {.rounds = command_line_number("rounds", 4), .stop = false, .granted = 0, .done = 0};
    if (!start_second_cpu(walk_loop, nullptr))
        return print_skipped(38, "walks_at_once", "no_second_cpu");
    uint64_t granted = 0;
    for (uint64_t i = 0; i < walker.rounds; ++i)
        granted += walk_maze() != -CASEMATE_E2BIG ? 1U : 0U;
    while (!second_cpu_is_done())
        pause();
    print_other(38, "walks_at_once", granted + walker.granted == 0 ? "refused" : "granted");
}

// One call that has to lock what lies between as many locks.
void attempt_pieces() {
    constexpr uint64_t pieces = CASEMATE_LOCK_MAX_PIECES + 1;
    const uint64_t pages = take_pages(2 * pieces);
    for (uint64_t i = 0; i < pieces; ++i)
        lock_pages(pages + (2 * i + 1) * page_bytes, 1);
    const auto over = [pages](uint64_t count) { return lock(pages, count, asked_policy()); };
    const int64_t all = over(2 * pieces);
    const bool some = over(2 * (pieces - 1)) == 0 && over(2 * pieces) == 0;
    print_answer(38, "lock_pieces", some ? all : 1, -CASEMATE_E2BIG);
}

// --- disks -------------------------------------------------------------------

constexpr uint16_t block_type = 2;
constexpr unsigned most_disks = 4;
constexpr unsigned queue_entries = 256; // as many as the device takes, for the largest requests
constexpr unsigned late_request = 94;
constexpr uint32_t block_read = 0, block_write = 1, block_flush = 4;
constexpr uint32_t size_max_and_seg_max = 6, feature_flush = 1U << 9, feature_indirect = 1U << 28;

// Keeps a disk's queue full of the largest requests that it takes.
class BusyDisk {
public:
    // False when it does not come up.
    bool start(const VirtioFunction& function, bool writes) {
        m_function = &function;
        m_descriptors = reinterpret_cast<volatile Descriptor*>(zeroed_page());
        m_available = reinterpret_cast<volatile uint16_t*>(zeroed_page());
        m_used = reinterpret_cast<volatile uint32_t*>(zeroed_page());
        if (!function.reset() || !function.negotiate(size_max_and_seg_max | feature_flush | feature_indirect))
            return false;
        function.set_queue(0, reinterpret_cast<uint64_t>(m_descriptors),
                           reinterpret_cast<uint64_t>(m_available), reinterpret_cast<uint64_t>(m_used),
                           queue_entries);
        const uint64_t segment_bytes = load<uint32_t>(function.device + 8);
        const uint64_t segments_most = load<uint32_t>(function.device + 12);
        const uint64_t capacity = load<uint64_t>(function.device) * 512;
        const uint64_t fitting = capacity / segment_bytes;
        const uint64_t segments = fitting < segments_most ? fitting : segments_most;
        const uint64_t buffer = take_pages(segment_bytes / page_bytes);
        const uint64_t read = request(block_read, buffer, segment_bytes, segments);
        const uint64_t write = request(block_write, buffer, segment_bytes, segments);
        const uint64_t late_read = request(block_read, buffer, segment_bytes, segments);
        m_late_bytes = take_pages(segment_bytes / page_bytes);
        store<uint64_t>(m_late_bytes, 0);
        reinterpret_cast<volatile Descriptor*>(late_read)[1].address = m_late_bytes;
        const uint64_t flush = request(block_flush, buffer, segment_bytes, 0);
        for (unsigned i = 0; i < queue_entries; ++i) {
            const bool flushes = writes && i % 32 == 31;
            const bool stores = writes && i % 2 == 1;
            m_descriptors[i].address = i == late_request ? late_read
                                       : flushes         ? flush
                                       : stores          ? write
                                                         : read;
            m_descriptors[i].length =
                static_cast<uint32_t>((flushes ? 2 : segments + 2) * sizeof(Descriptor));
            m_descriptors[i].flags = is_indirect;
            m_available[2 + i] = static_cast<uint16_t>(i);
        }
        function.go();
        store<uint16_t>(function.common + queue_select, 0);
        m_doorbell = function.notify + uint64_t{load<uint16_t>(function.common + queue_notify_off)} *
                                           function.notify_multiplier;
        return true;
    }
    // Adds as many requests as were answered since, and says how many those are.
    uint16_t refill() {
        const auto answered = static_cast<uint16_t>(m_used[0] >> 16);
        const auto full = static_cast<uint16_t>(answered + queue_entries);
        const auto news = static_cast<uint16_t>(full - m_sent);
        if (news == 0)
            return 0;
        // In the order of their answers, the order does not matter otherwise.
        for (uint16_t i = 0; i < news && m_sent >= queue_entries; ++i) {
            const unsigned slot = static_cast<uint16_t>(answered - news + i) % queue_entries;
            m_available[2 + (m_sent + i) % queue_entries] = static_cast<uint16_t>(m_used[1 + 2 * slot]);
        }
        m_sent = full;
        m_available[1] = full;
        store<uint16_t>(m_doorbell, 0);
        return m_first ? (m_first = false, uint16_t{0}) : news;
    }
    // Whether the first round has come to its late request, answered or not: there the disk's first bytes go
    // where nothing was.
    bool is_far() const { return load<uint64_t>(m_late_bytes) != 0; }
    bool is_broken() const { return (m_function->status() & needs_reset) != 0; }

private:
    static uint64_t zeroed_page() {
        const uint64_t page = take_pages(1);
        memset(reinterpret_cast<void*>(page), 0, page_bytes);
        return page;
    }
    // The indirect table of a request, all of whose data goes to or comes from one buffer.
    static uint64_t request(uint32_t type, uint64_t buffer, uint64_t segment_bytes, uint64_t segments) {
        const uint64_t header = zeroed_page();
        store<uint32_t>(header, type);
        const uint64_t page = zeroed_page();
        auto* const table = reinterpret_cast<volatile Descriptor*>(page);
        const auto put = [table](uint64_t at, uint64_t address, uint64_t bytes, uint16_t flags) {
            table[at].address = address;
            table[at].length = static_cast<uint32_t>(bytes);
            table[at].flags = flags;
            table[at].next = static_cast<uint16_t>(at + 1);
        };
        put(0, header, 16, has_next);
        const auto data = static_cast<uint16_t>(type == block_read ? has_next | device_writes : has_next);
        for (uint64_t i = 1; i <= segments; ++i)
            put(i, buffer, segment_bytes, data);
        put(segments + 1, header + 16, 1, device_writes);
        return page;
    }

    const VirtioFunction* m_function = nullptr;
    volatile Descriptor* m_descriptors = nullptr;
    volatile uint16_t* m_available = nullptr;
    volatile uint32_t* m_used = nullptr;
    uint64_t m_doorbell = 0;
    uint64_t m_late_bytes = 0;
    uint16_t m_sent = 0;
    bool m_first = true;
};

VirtioFunction functions[most_disks];
BusyDisk disks[most_disks];
unsigned disk_count;

// Of all that there are, once.
bool start_disks() {
    for (unsigned slot = 0; slot < 32 && disk_count < most_disks; ++slot)
        if (functions[disk_count].probe(slot) && functions[disk_count].type == block_type &&
            disks[disk_count].start(functions[disk_count], command_line_has("writes")))
            ++disk_count;
    return disk_count != 0;
}

// Goes on until so many requests are answered in all; false: a disk broke down.
template <typename Wanted>
bool keep_busy(Wanted wanted) {
    for (uint64_t answered = 0, rounds = 0; wanted(answered); ++rounds) {
        for (unsigned i = 0; i < disk_count; ++i)
            answered += disks[i].refill();
        let_host_interrupt();
        if (rounds % 4096 == 4095 && disks[rounds / 4096 % disk_count].is_broken())
            return false;
    }
    return true;
}

bool keep_busy_for(uint64_t requests) {
    return keep_busy([requests](uint64_t answered) { return answered < requests; });
}

bool seal_if_asked() {
    return policy() == Policy::none || seal() == 0;
}

} // namespace

void attack_walks() {
    if (policy() == Policy::none || !find_casemate())
        return;
    if (wanted(38, "walk_of_tables")) {
        build_maze();
        print_answer(38, "walk_of_tables", walk_maze(), -CASEMATE_E2BIG);
    }
    if (wanted(38, "walks_at_once")) {
        build_maze();
        attempt_walks_at_once();
    }
    if (wanted(38, "lock_pieces"))
        attempt_pieces();
}

void attack_busy() {
    if (!start_disks())
        return print_skipped(39, "disks", "no_disk");
    // What audits look at stays right: how late they come only the monitor can tell.
    if (wanted(39, "audits_beside_disks")) {
        const bool sealed = seal_if_asked();
        const bool good = keep_busy_for(command_line_number("requests", queue_entries));
        print_other(39, "audits_beside_disks", sealed && good ? "works" : "WRONG");
    }
    if (wanted(39, "audit_behind_disks")) {
        write_cr0(read_cr0() | cr0_wp);
        const bool sealed = seal_if_asked();
        write_cr0(read_cr0() & ~cr0_wp);
        // An audit that waits for a device's turn comes too late.
        const bool good = keep_busy([](uint64_t) { return !disks[0].is_far(); });
        write_cr0(read_cr0() | cr0_wp);
        if (sealed && good)
            print_outcome(39, "audit_behind_disks", Outcome::changed, "the_disk_was_quicker");
        else
            print_other(39, "audit_behind_disks", "WRONG");
    }
    // For the host to end: with walks under way too, where there is a second CPU and a policy.
    if (wanted(39, "ended_while_busy")) {
        if (policy() != Policy::none) {
            build_maze();
            walker = {.rounds = ~uint64_t{0}, .stop = false, .granted = 0, .done = 0};
            (void)start_second_cpu(walk_loop, nullptr);
        }
        (void)keep_busy_for(1);
        print("# busy\n");
        (void)keep_busy([](uint64_t) { return true; });
        print_other(39, "ended_while_busy", "WRONG");
    }
}

} // namespace payload
