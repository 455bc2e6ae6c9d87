// SPDX-License-Identifier: Apache-2.0
// Attack 40: interrupts that start a CPU over or take it out of the guest's sight, after SEAL: SMI by every
// way there is, INIT and start-up in any order, and windows in which a CPU that starts is not compared with
// its pins.
#include "attack_locks.hpp"
#include "virtio.hpp"

namespace payload {
namespace {

constexpr uint64_t interrupt_command = local_apic + 0x300;
constexpr uint64_t io_apic = 0xfec00000;
constexpr uint32_t assert_level = 0x4000;
constexpr uint32_t deliver_smi = 0x200;
constexpr uint32_t deliver_init = 0x500;
constexpr uint32_t deliver_start = 0x600;
constexpr uint16_t entropy_type = 4;
// Vectors of start-up IPIs are page numbers: that of start_second_cpu(), and one in which a CPU stays.
constexpr uint32_t second_cpu_page = 8;
constexpr uint32_t parking_page = 0x10;
constexpr uint8_t msix_capability = 0x11;

void send(uint32_t apic_id, uint32_t command) {
    store<uint32_t>(interrupt_command + 0x10, apic_id << 24);
    store<uint32_t>(interrupt_command, assert_level | command);
}

// An interrupt that ends the machine does so soon. The patience is in time-stamp counts.
void wait_for_end() {
    constexpr uint64_t patience = uint64_t{1} << 35;
    const uint64_t begin = time_stamp();
    while (time_stamp() - begin < patience)
        pause();
}

// --- the second CPU: whatever it does, it was as it is now when the guest sealed ---

volatile uint64_t alive;
volatile bool keep_away;     // from the pinned state, as long as this is set
volatile uint64_t came_back; // how often it was as it was pinned

void second_cpu_loop(void*) {
    for (;;) {
        while (keep_away)
            pause();
        write_cr0(read_cr0() | cr0_wp); // the only difference to how it starts
        came_back = came_back + 1;
        while (!keep_away) {
            alive = alive + 1;
            pause();
        }
    }
}

bool begin() {
    keep_away = false;
    came_back = 0;
    if (!start_second_cpu(second_cpu_loop, nullptr))
        return false;
    while (came_back == 0)
        pause();
    locked_pages();
    return policy() == Policy::none || seal() == 0;
}

// A function that gives a message-signalled interrupt for each used buffer.
bool send_message(uint64_t address, uint32_t data) {
    VirtioFunction device;
    for (unsigned slot = 0; slot < 32 && device.type != entropy_type; ++slot)
        if (!device.probe(slot))
            device.type = 0;
    if (device.type != entropy_type)
        return false;
    unsigned next = load<uint8_t>(config_address(device.slot, 0x34));
    for (unsigned seen = 0; next >= 0x40 && seen < 48; ++seen) {
        if (load<uint8_t>(config_address(device.slot, next)) == msix_capability)
            break;
        next = load<uint8_t>(config_address(device.slot, next + 1));
    }
    const uint64_t table = (device.notify & ~(page_bytes - 1)) + page_bytes;
    static Rings rings;
    static uint8_t buffer[64];
    if (!device.reset() || !device.negotiate(0))
        return false;
    store<uint16_t>(config_address(device.slot, next + 2), 0x8000); // enabled
    store<uint32_t>(table, static_cast<uint32_t>(address));
    store<uint32_t>(table + 4, static_cast<uint32_t>(address >> 32));
    store<uint32_t>(table + 8, data);
    store<uint32_t>(table + 12, 0);
    device.set_queue(0, reinterpret_cast<uint64_t>(rings.descriptors),
                     reinterpret_cast<uint64_t>(rings.available), reinterpret_cast<uint64_t>(rings.used));
    store<uint16_t>(device.common + queue_select, 0);
    store<uint16_t>(device.common + queue_msix_vector, 0);
    device.go();
    rings.descriptors[0].address = reinterpret_cast<uint64_t>(buffer);
    rings.descriptors[0].length = sizeof(buffer);
    rings.descriptors[0].flags = device_writes;
    rings.available[2] = 0;
    rings.available[1] = 1;
    device.ring_doorbell(0);
    while ((rings.used[0] >> 16) != 1)
        pause();
    return true;
}

void send_by_io_apic(uint32_t delivery) {
    constexpr uint32_t pin = 4; // COM1's
    store<uint32_t>(io_apic, 0x10 + 2 * pin + 1);
    store<uint32_t>(io_apic + 0x10, 0); // to APIC id 0
    store<uint32_t>(io_apic, 0x10 + 2 * pin);
    store<uint32_t>(io_apic + 0x10, delivery);
    out8(com1 + 4, 8); // OUT2
    out8(com1 + 1, 2); // an interrupt when the transmitter is empty
    spin(1000);
    out8(com1 + 1, 0);
}

struct Single {
    const char* name;
    void (*run)();
};
// Each ends the machine.
constexpr Single singles[] = {
    {"smi_self", [] { send(0, deliver_smi); }},
    {"smi_other", [] { send(1, deliver_smi); }},
    {"smi_io_apic", [] { send_by_io_apic(deliver_smi); }},
    {"init_boot_cpu", [] { send(0, deliver_init); }},
};

void attempt_single(const Single& form) {
    if (!wanted(40, form.name))
        return;
    if (!begin())
        return print_skipped(40, form.name, "no_second_cpu");
    form.run();
    wait_for_end();
    print_other(40, form.name, "granted");
}

// Messages of a device may only interrupt.
void attempt_messages() {
    constexpr struct {
        const char* name;
        uint64_t address;
        uint32_t data;
    } forms[] = {
        {"message_smi", local_apic, deliver_smi},
        {"message_init", local_apic | 1 << 12, deliver_init},
        {"message_start", local_apic | 1 << 12, deliver_start | 8},
        {"message_ext_int", local_apic, 0x700},
        {"message_reserved", local_apic, 0x300 | 0x40},
        {"message_elsewhere", 0x1000000, 0x40},
    };
    for (const auto& form : forms) {
        if (!wanted(40, form.name))
            continue;
        if (!begin())
            return print_skipped(40, form.name, "no_second_cpu");
        if (!send_message(form.address, form.data))
            return print_skipped(40, form.name, "no_entropy_device");
        spin(1000000);
        const uint64_t seen = alive;
        spin(1000000);
        print_other(40, form.name, alive != seen && came_back == 1 ? "works" : "WRONG");
    }
}

// CPU 1 starts again and again, each time stays as it must not be for a while, and then is seen as it was.
void attempt_windows() {
    if (!wanted(40, "init_again"))
        return;
    if (!begin())
        return print_skipped(40, "init_again", "no_second_cpu");
    constexpr uint64_t away = uint64_t{1} << 30; // time-stamp counts: several audits
    constexpr uint64_t back = uint64_t{1} << 29;
    const uint64_t rounds = command_line_number("rounds", 24);
    for (uint64_t round = 0; round < rounds; ++round) {
        keep_away = true;
        if (!start_second_cpu(second_cpu_loop, nullptr))
            return print_skipped(40, "init_again", "no_second_cpu");
        for (const uint64_t start = time_stamp(); time_stamp() - start < away;)
            pause();
        const uint64_t seen = came_back;
        keep_away = false;
        while (came_back == seen)
            pause();
        for (const uint64_t start = time_stamp(); time_stamp() - start < back;)
            pause();
        print("# window ");
        print_decimal(static_cast<int64_t>(round));
        print("\n");
    }
    print_outcome(40, "init_again", Outcome::changed);
}

void attempt_random() {
    if (!wanted(40, "random"))
        return;
    if (!begin())
        return print_skipped(40, "random", "no_second_cpu");
    store<uint32_t>(parking_page * page_bytes, 0xfdebf4); // HLT, and again
    Random random(command_line_number("seed", 1));
    const uint64_t rounds = command_line_number("rounds", 300);
    for (uint64_t round = 0; round < rounds; ++round) {
        switch (random.below(8)) {
        case 0:
            send(1, deliver_init);
            break;
        case 1: // de-assert, which only synchronises
            store<uint32_t>(interrupt_command + 0x10, 1U << 24);
            store<uint32_t>(interrupt_command, 0x8000 | deliver_init);
            break;
        case 2:
            send(1, deliver_start | second_cpu_page);
            break;
        case 3:
            send(1, deliver_start | parking_page);
            break;
        case 4:
            if (random.one_in(4))
                (void)start_second_cpu(second_cpu_loop, nullptr);
            break;
        default:
            spin(random.below(2000));
        }
    }
    send(static_cast<uint32_t>(random.below(2)), deliver_smi);
    wait_for_end();
    print_other(40, "random", "granted");
}

} // namespace

void attack_starts() {
    for (const Single& form : singles)
        attempt_single(form);
    attempt_messages();
    attempt_windows();
    attempt_random();
}

} // namespace payload
