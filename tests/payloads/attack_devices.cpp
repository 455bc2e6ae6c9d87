// SPDX-License-Identifier: Apache-2.0
// Attacks 14 and 33: virtio devices that write for the guest, aimed at locked pages, and a disk read that is
// under way while its buffer is locked.
#include "attack_locks.hpp"
#include "virtio.hpp"

namespace payload {
namespace {

constexpr uint16_t net_type = 1;
constexpr uint16_t block_type = 2;
constexpr uint16_t entropy_type = 4;
constexpr uint32_t block_read = 0;
constexpr uint32_t block_identity = 8;
constexpr uint8_t no_status_yet = 0xee;

bool find(uint16_t type, VirtioFunction& found) {
    for (unsigned slot = 0; slot < 32; ++slot)
        if (found.probe(slot) && found.type == type)
            return true;
    return false;
}

// One queue whose used ring may lie anywhere.
class Queue {
public:
    Queue(const VirtioFunction& function, unsigned index)
        : m_function(&function)
        , m_index(index)
        , m_rings(reinterpret_cast<Rings*>(take_pages(sizeof(Rings) / page_bytes)))
        , m_used(reinterpret_cast<volatile uint32_t*>(m_rings->used)) {
        memset(static_cast<void*>(m_rings), 0, sizeof(Rings));
    }
    void put_used_ring(uint64_t address) { m_used = reinterpret_cast<volatile uint32_t*>(address); }
    void set_up() const {
        m_function->set_queue(m_index, reinterpret_cast<uint64_t>(m_rings->descriptors),
                              reinterpret_cast<uint64_t>(m_rings->available),
                              reinterpret_cast<uint64_t>(m_used));
    }
    // Adds to the chain that send() gives the device.
    void add(uint64_t address, uint64_t bytes, bool writes) {
        volatile Descriptor& descriptor = m_rings->descriptors[m_count];
        descriptor.address = address;
        descriptor.length = static_cast<uint32_t>(bytes);
        descriptor.flags = writes ? device_writes : 0;
        descriptor.next = 0;
        if (m_count != 0) {
            volatile Descriptor& before = m_rings->descriptors[m_count - 1];
            before.flags = static_cast<uint16_t>(before.flags | has_next);
            before.next = static_cast<uint16_t>(m_count);
        }
        ++m_count;
    }
    void send() {
        m_rings->available[2 + m_sent % ring_size] = 0;
        m_rings->available[1] = ++m_sent;
        m_count = 0;
        m_function->ring_doorbell(m_index);
    }
    uint16_t used_index() const { return static_cast<uint16_t>(*m_used >> 16); }
    bool is_done() const { return used_index() == m_sent; }
    // Until the device has answered or broken down.
    bool wait(unsigned patience = 20000) const {
        for (unsigned i = 0; i < patience; ++i) {
            if (is_done())
                return true;
            spin(100);
            if (i % 16 == 15 && (m_function->status() & needs_reset) != 0)
                return false;
        }
        return false;
    }

private:
    const VirtioFunction* m_function;
    unsigned m_index;
    Rings* m_rings;
    volatile uint32_t* m_used;
    unsigned m_count = 0;
    uint16_t m_sent = 0;
};

struct BlockHeader {
    uint32_t type;
    uint32_t reserved;
    uint64_t sector;
};
static_assert(sizeof(BlockHeader) == 16);

// The header at the page's start, the status byte behind it.
uint64_t block_page(uint32_t type, uint64_t sector) {
    const uint64_t page = take_pages(1);
    store<uint32_t>(page, type);
    store<uint32_t>(page + 4, 0);
    store<uint64_t>(page + 8, sector);
    store<uint8_t>(page + 16, no_status_yet);
    return page;
}

// "answered status=1" or "broken" or "silent", and whether the page has kept its bytes.
void print_answer(const char* form, bool changed, bool answered, uint8_t device, int status) {
    print("attack 14 ");
    print(form);
    print(changed ? " changed" : " unchanged");
    print(answered ? " answered" : (device & needs_reset) != 0 ? " broken" : " silent");
    if (status >= 0) {
        print(" status=");
        print_decimal(status);
    }
    print("\n");
}

bool kept(uint64_t page) {
    return is_filled(page, page_bytes, page_seed);
}

void attempt_read(const VirtioFunction& disk, const char* form, uint32_t type, uint64_t before_page,
                  uint64_t bytes) {
    if (!wanted(14, form))
        return;
    const uint64_t room = take_pages(1);
    const uint64_t page = locked_pages(); // behind `room`
    const uint64_t header = block_page(type, 0);
    (void)disk.reset();
    Queue queue(disk, 0);
    if (!disk.negotiate(0))
        return print_skipped(14, form, "no_negotiation");
    queue.set_up();
    disk.go();
    queue.add(header, 16, false);
    queue.add(page - before_page, bytes, true);
    queue.add(header + 16, 1, true);
    queue.send();
    const bool answered = queue.wait();
    print_answer(form, !kept(page), answered, disk.status(), load<uint8_t>(header + 16));
    (void)room;
}

void attempt_block(const VirtioFunction& disk) {
    attempt_read(disk, "block_read", block_read, 0, 512);
    attempt_read(disk, "block_read_page", block_read, 0, page_bytes);
    attempt_read(disk, "block_read_into", block_read, 512, 1024); // begins in the page before
    attempt_read(disk, "block_identity", block_identity, 0, 20);
    if (wanted(14, "block_status")) {
        const uint64_t page = locked_pages();
        const uint64_t header = block_page(block_read, 0);
        (void)disk.reset();
        Queue queue(disk, 0);
        if (!disk.negotiate(0))
            return print_skipped(14, "block_status", "no_negotiation");
        queue.set_up();
        disk.go();
        queue.add(header, 16, false);
        queue.add(take_pages(1), 512, true);
        queue.add(page + 5, 1, true);
        queue.send();
        const bool answered = queue.wait();
        print_answer("block_status", !kept(page), answered, disk.status(), -1);
    }
    if (wanted(14, "block_used_ring")) {
        const uint64_t page = take_pages(1);
        fill(page, page_bytes, page_seed);
        lock_pages(page, 1);
        const uint64_t header = block_page(block_read, 0);
        (void)disk.reset();
        Queue queue(disk, 0);
        queue.put_used_ring(page);
        if (!disk.negotiate(0))
            return print_skipped(14, "block_used_ring", "no_negotiation");
        queue.set_up();
        disk.go();
        queue.add(header, 16, false);
        queue.add(take_pages(1), 512, true);
        queue.add(header + 16, 1, true);
        queue.send();
        (void)queue.wait(2000);
        print_answer("block_used_ring", !kept(page), false, disk.status(), load<uint8_t>(header + 16));
    }
    // Works again once it is reset.
    if (wanted(14, "block_afterwards")) {
        const uint64_t page = take_pages(1);
        fill(page, page_bytes, page_seed);
        const uint64_t header = block_page(block_read, 0);
        (void)disk.reset();
        Queue queue(disk, 0);
        const bool ready = disk.negotiate(0);
        queue.set_up();
        disk.go();
        queue.add(header, 16, false);
        queue.add(page, 512, true);
        queue.add(header + 16, 1, true);
        queue.send();
        const bool good = ready && queue.wait() && load<uint8_t>(header + 16) == 0 && !kept(page);
        print_other(14, "block_afterwards", good ? "works" : "WRONG");
    }
}

void attempt_entropy(const VirtioFunction& entropy) {
    struct {
        const char* form;
        uint64_t before;
        uint64_t bytes;
        bool used_ring;
    } const forms[] = {{"entropy", 0, 64, false},
                       {"entropy_into", 64, 256, false},
                       {"entropy_page", 0, page_bytes, false},
                       {"entropy_used_ring", 0, 64, true}};
    for (const auto& form : forms) {
        if (!wanted(14, form.form))
            continue;
        const uint64_t room = take_pages(1);
        const uint64_t page = locked_pages();
        (void)entropy.reset();
        Queue queue(entropy, 0);
        if (form.used_ring)
            queue.put_used_ring(page);
        if (!entropy.negotiate(0)) {
            print_skipped(14, form.form, "no_negotiation");
            continue;
        }
        queue.set_up();
        entropy.go();
        queue.add((form.used_ring ? room : page) - form.before, form.bytes, true);
        queue.send();
        const bool answered = queue.wait(form.used_ring ? 2000 : 20000);
        print_answer(form.form, !kept(page), answered && !form.used_ring, entropy.status(), -1);
    }
}

// Asks the host for its address on the tap's network: the answer is the frame to receive.
uint64_t question_frame(uint32_t target) {
    const uint64_t page = take_pages(1);
    static const uint8_t head[] = {0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x02,
                                   0xca, 0x5e, 0,    0,    1,    0x08, 0x06, // Ethernet: broadcast, ARP
                                   0,    1,    8,    0,    6,    4,    0,
                                   1,    0x02, 0xca, 0x5e, 0,    0,    1, // request, from this address
                                   0,    0,    0,    0,                   // a probe: no address of ours
                                   0,    0,    0,    0,    0,    0};
    memcpy(reinterpret_cast<void*>(page + 12), head, sizeof(head)); // behind virtio_net_hdr
    for (unsigned i = 0; i < 4; ++i)
        store<uint8_t>(page + 12 + sizeof(head) + i, static_cast<uint8_t>(target >> (24 - 8 * i)));
    return page;
}

void attempt_net(const VirtioFunction& net) {
    struct {
        const char* form;
        bool used_ring;
    } const forms[] = {{"net_receive", false}, {"net_receive_used_ring", true}};
    for (const auto& form : forms) {
        if (!wanted(14, form.form))
            continue;
        const uint64_t page = locked_pages();
        const uint64_t room = take_pages(1);
        (void)net.reset();
        Queue receive(net, 0);
        Queue transmit(net, 1);
        if (form.used_ring)
            receive.put_used_ring(page);
        if (!net.negotiate(0)) {
            print_skipped(14, form.form, "no_negotiation");
            continue;
        }
        receive.set_up();
        transmit.set_up();
        net.go();
        receive.add(form.used_ring ? room : page, page_bytes, true);
        receive.send();
        const auto address =
            static_cast<uint32_t>(command_line_number("host_address", 10U << 24 | 77U << 16 | 1));
        transmit.add(question_frame(address), 12 + 42, false);
        transmit.send();
        (void)transmit.wait();
        const bool answered = receive.wait(4000);
        print_answer(form.form, !kept(page), answered && !form.used_ring, net.status(), -1);
    }
}

} // namespace

void attack_devices() {
    VirtioFunction function;
    if (find(block_type, function))
        attempt_block(function);
    else
        print_skipped(14, "block", "no_disk");
    if (find(entropy_type, function))
        attempt_entropy(function);
    else
        print_skipped(14, "entropy", "no_entropy_device");
    if (find(net_type, function))
        attempt_net(function);
    else
        print_skipped(14, "net", "no_net");
}

void attack_transfer() {
    VirtioFunction disk;
    if (!find(block_type, disk))
        return print_skipped(33, "block_read", "no_disk");
    if (!wanted(33, "block_read"))
        return;
    // 8 segments of the largest size that the device takes.
    constexpr unsigned segments = 8;
    const uint64_t segment_bytes = load<uint32_t>(disk.device + 8);
    const uint64_t bytes = segments * segment_bytes;
    const uint64_t capacity = load<uint64_t>(disk.device) * 512;
    if (segment_bytes == 0 || segment_bytes % page_bytes != 0 || segment_bytes > 0x100000 || capacity < bytes)
        return print_skipped(33, "block_read", "disk_too_small");
    const uint64_t pages = bytes / page_bytes;
    const uint64_t room = (ram_end() - take_pages(1)) / bytes;
    uint64_t rounds = command_line_number("rounds", 40);
    if (rounds + 4 > room)
        rounds = room > 4 ? room - 4 : 0;
    Random random(command_line_number("seed", 1));
    (void)disk.reset();
    const uint64_t header = block_page(block_read, 0);
    Queue queue(disk, 0);
    constexpr uint32_t size_max_and_seg_max = 6;
    if (!disk.negotiate(size_max_and_seg_max))
        return print_skipped(33, "block_read", "no_negotiation");
    queue.set_up();
    disk.go();
    // How long a read takes, to lock in the middle of one.
    uint64_t longest = 1;
    uint64_t in_flight = 0;
    uint64_t landed = 0;
    uint64_t changed_rounds = 0;
    uint64_t unanswered = 0;
    for (uint64_t round = 0; round < rounds + 2; ++round) {
        const bool practice = round < 2;
        const uint64_t buffer = take_pages(pages);
        for (uint64_t at = 0; at < bytes; at += 8)
            store<uint64_t>(buffer + at, 0x5ca1ab1e5ca1ab1e);
        store<uint8_t>(header + 16, no_status_yet);
        store<uint64_t>(header + 8, random.below((capacity - bytes) / 512 + 1));
        queue.add(header, 16, false);
        for (unsigned i = 0; i < segments; ++i)
            queue.add(buffer + i * segment_bytes, segment_bytes, true);
        queue.add(header + 16, 1, true);
        queue.send();
        const uint64_t begin = time_stamp();
        if (practice) {
            if (!queue.wait())
                ++unanswered;
            longest = time_stamp() - begin;
            continue;
        }
        // Short delays more often: what lies between the request and its answer is short too.
        const uint64_t delay = random.below((longest >> random.below(6)) + 1);
        while (time_stamp() - begin < delay)
            pause();
        if (!queue.is_done())
            ++in_flight;
        lock_pages(buffer, pages);
        uint64_t sum = 0;
        uint64_t filled = 0;
        for (uint64_t at = 0; at < bytes; at += 8) {
            const auto word = load<uint64_t>(buffer + at);
            sum = (sum << 1 | sum >> 63) ^ word;
            filled += word != 0x5ca1ab1e5ca1ab1e ? 1U : 0U;
        }
        landed += filled != 0 ? 1U : 0U;
        if (!queue.wait())
            ++unanswered;
        spin(20000);
        uint64_t later = 0;
        for (uint64_t at = 0; at < bytes; at += 8)
            later = (later << 1 | later >> 63) ^ load<uint64_t>(buffer + at);
        changed_rounds += later != sum ? 1U : 0U;
        if ((disk.status() & needs_reset) != 0 || unanswered != 0) {
            // A device that broke down at the lock has kept the promise; go on with it reset.
            (void)disk.reset();
            queue = Queue(disk, 0);
            if (!disk.negotiate(size_max_and_seg_max))
                break;
            queue.set_up();
            disk.go();
        }
    }
    print("# rounds ");
    print_decimal(static_cast<int64_t>(rounds));
    print(" in flight at the lock ");
    print_decimal(static_cast<int64_t>(in_flight));
    print(" partly landed before ");
    print_decimal(static_cast<int64_t>(landed));
    print(" changed after ");
    print_decimal(static_cast<int64_t>(changed_rounds));
    print(" unanswered ");
    print_decimal(static_cast<int64_t>(unanswered));
    print("\n");
    if (in_flight == 0)
        return print_skipped(33, "block_read", "never_in_flight");
    print_outcome(33, "block_read", changed_rounds != 0 ? Outcome::changed : Outcome::unchanged);
}

} // namespace payload
