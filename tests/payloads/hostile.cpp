// SPDX-License-Identifier: Apache-2.0
// A guest that means harm: every port, every device address, wild PCI programming, wild virtqueues. It
// reports what still works afterwards; the runner watches that the monitor lives, ends and does not grow.
#include "virtio.hpp"

namespace payload {
namespace {

constexpr uint64_t ram_probe = 0x900000; // RAM no other part of the payload uses

// Ports whose writes end the machine, as they should.
bool ends_machine(uint16_t port) {
    return port == 0x64 || port == 0x505 || port == 0x600 || port == 0x601 || port == 0xcf9 ||
           // wider writes reach the ports behind
           (port >= 0x61 && port <= 0x63) || (port >= 0x502 && port <= 0x504) ||
           (port >= 0x5fd && port <= 0x5ff) || (port >= 0xcf6 && port <= 0xcf8);
}

void attack_ports(Random& random, uint64_t stride) {
    static uint8_t string[64];
    for (uint32_t port = 0; port < 0x10000; port += static_cast<uint32_t>(port < 0x1000 ? 1 : stride)) {
        const auto at = static_cast<uint16_t>(port);
        (void)in8(at);
        (void)in16(at);
        (void)in32(at);
        const void* source = string;
        void* destination = string;
        uint64_t count = 1 + random.below(16);
        asm volatile("rep insb" : "+D"(destination), "+c"(count) : "d"(at) : "memory");
        if (ends_machine(at) || (at >= com1 && at < com1 + 8) || (at >= com1 - 3 && at < com1))
            continue;
        out8(at, static_cast<uint8_t>(random.next()));
        out16(at, static_cast<uint16_t>(random.next()));
        out32(at, static_cast<uint32_t>(random.next()));
        count = 1 + random.below(16);
        asm volatile("rep outsl" : "+S"(source), "+c"(count) : "d"(at) : "memory");
    }
    report(true, "every port, every width");
}

void touch(Random& random, uint64_t address) {
    switch (random.below(8)) {
    case 0:
        return (void)load<uint8_t>(address);
    case 1:
        return (void)load<uint16_t>(address);
    case 2:
        return (void)load<uint32_t>(address);
    case 3:
        return (void)load<uint64_t>(address);
    case 4:
        return store<uint8_t>(address, static_cast<uint8_t>(random.next()));
    case 5:
        return store<uint16_t>(address, static_cast<uint16_t>(random.next()));
    case 6:
        return store<uint32_t>(address, static_cast<uint32_t>(random.next()));
    default:
        return store<uint64_t>(address, random.next());
    }
}

// The I/O APIC and local APIC are KVM's, not the monitor's, and writing them at random can start interrupts
// that a payload without handlers does not survive.
bool is_interrupt_controller(uint64_t address) {
    return (address >= 0xfec00000 && address < 0xfec01000) || (address >= 0xfee00000 && address < 0xfef00000);
}

void attack_memory_addresses(Random& random, uint64_t stride) {
    for (uint64_t page = pci_window; page < 0x100000000; page += stride * 4096) {
        if (is_interrupt_controller(page))
            continue;
        touch(random, page + random.below(4088));
        touch(random, page + 4092 + random.below(4)); // into the next page
    }
    report(true, "every device page");
    for (unsigned slot = 0; slot < 4; ++slot)
        for (unsigned offset = 0; offset < 0x104; ++offset) {
            touch(random, config_address(slot, offset));
            touch(random, config_address(slot, static_cast<unsigned>(random.below(4096))));
        }
    report(true, "configuration space, every width and offset");
}

uint32_t wild_bar(Random& random) {
    switch (random.below(8)) {
    case 0:
        return 0; // over RAM
    case 1:
        return 0x100000;
    case 2:
        return static_cast<uint32_t>(ram_probe);
    case 3:
        return static_cast<uint32_t>(ecam);
    case 4:
        return 0xfee00000;
    case 5:
        return 0xffffffff; // sizing
    case 6:
        return static_cast<uint32_t>(pci_window + random.below(16) * 0x1000);
    default:
        return static_cast<uint32_t>(random.next());
    }
}

// The capability that turns reads of config space into reads of registers; 0: there is none.
unsigned window_capability(unsigned slot) {
    for (unsigned at = load<uint8_t>(config_address(slot, 0x34)); at != 0;
         at = load<uint8_t>(config_address(slot, at + 1)))
        if (load<uint8_t>(config_address(slot, at)) == 9 && load<uint8_t>(config_address(slot, at + 3)) == 5)
            return at;
    return 0;
}

// Reads may be served by memory: they must give what was written last, by whatever instruction, and still
// when they come to have effects.
void attack_config_reads(Random& random, unsigned rounds) {
    constexpr unsigned line = 0x3c; // the interrupt line: a byte that a function only stores
    constexpr unsigned status = 20;
    constexpr uint8_t statuses[] = {0, 1, 3, 0};
    bool read_back = true;
    bool others_absent = true;
    bool by_window = true;
    const auto round = [&](unsigned slot) {
        const bool present = load<uint16_t>(config_address(slot, 0)) != 0xffff;
        const auto value = static_cast<uint8_t>(random.next());
        auto* const byte = reinterpret_cast<volatile uint8_t*>(config_address(slot, line));
        if (random.one_in(2)) {
            store<uint8_t>(config_address(slot, line), value);
        } else {
            const uint8_t before = *byte;
            asm volatile("xorb %1, %0" : "+m"(*byte) : "r"(static_cast<uint8_t>(before ^ value)) : "memory");
        }
        read_back &= *byte == (present ? value : 0xff);
        others_absent &= load<uint32_t>(config_address(slot, 0x1000 + line)) == 0xffffffff;
    };
    for (unsigned i = 0; i < rounds; ++i)
        round(static_cast<unsigned>(random.below(8)));
    for (unsigned slot = 0; slot < 32; ++slot) {
        const unsigned window =
            load<uint16_t>(config_address(slot, 0)) == 0x1af4 ? window_capability(slot) : 0;
        if (window == 0)
            continue;
        const uint64_t bar = load<uint32_t>(config_address(slot, 0x10));
        store<uint32_t>(config_address(slot, window + 8), status);
        store<uint32_t>(config_address(slot, window + 12), 1);
        for (const uint8_t value : statuses) {
            store<uint8_t>(bar + status, value);
            by_window &= load<uint8_t>(config_address(slot, window + 16)) == value;
        }
    }
    for (unsigned i = 0; i < rounds; ++i)
        round(static_cast<unsigned>(random.below(8)));
    report(read_back, "configuration space reads as it was written");
    report(others_absent, "absent functions read as all-ones");
    report(by_window, "reads by the configuration window have their effects");
}

void attack_bars(Random& random, unsigned rounds) {
    uint32_t original[32];
    for (unsigned slot = 0; slot < 32; ++slot)
        original[slot] = load<uint32_t>(config_address(slot, 0x10));
    store<uint64_t>(ram_probe, 0x5afe5afe5afe5afe);
    bool ram_is_ram = true;
    for (unsigned i = 0; i < rounds; ++i) {
        const auto slot = static_cast<unsigned>(random.below(8));
        const auto bar = static_cast<unsigned>(random.below(6));
        const uint64_t address = config_address(slot, 0x10 + 4 * bar);
        const uint32_t value = wild_bar(random);
        if (random.one_in(4))
            store<uint16_t>(address + random.below(3), static_cast<uint16_t>(value));
        else
            store<uint32_t>(address, value);
        store<uint16_t>(config_address(slot, 4), static_cast<uint16_t>(random.one_in(4) ? random.next() : 6));
        touch(random, pci_window + random.below(0x20000));
        ram_is_ram &= load<uint64_t>(ram_probe) == 0x5afe5afe5afe5afe;
    }
    report(ram_is_ram, "no BAR covers RAM");
    for (unsigned slot = 0; slot < 32; ++slot) {
        store<uint16_t>(config_address(slot, 4), 0);
        for (unsigned bar = 0; bar < 6; ++bar)
            store<uint32_t>(config_address(slot, 0x10 + 4 * bar), bar == 0 ? original[slot] : 0);
    }
    for (unsigned slot = 0; slot < 32; ++slot)
        store<uint16_t>(config_address(slot, 4), 6);
    attack_config_reads(random, rounds);
}

alignas(4096) Rings rings;
alignas(4096) uint8_t buffer[16384];
alignas(16) volatile Descriptor indirect_table[64];

uint64_t wild_address(Random& random) {
    switch (random.below(8)) {
    case 0:
        return random.next();
    case 1:
        return ~random.below(4096);
    case 2:
        return pci_window + random.below(pci_window_bytes);
    case 3:
        return reinterpret_cast<uint64_t>(&rings) +
               random.below(sizeof(rings)); // the device rewrites its own ring
    case 4:
        return 0xbffff000 + random.below(8192);
    default:
        return reinterpret_cast<uint64_t>(buffer) + random.below(sizeof(buffer));
    }
}

uint32_t wild_length(Random& random) {
    switch (random.below(4)) {
    case 0:
        return static_cast<uint32_t>(random.next());
    case 1:
        return 0;
    default:
        return static_cast<uint32_t>(random.below(8192));
    }
}

void wild_descriptor(Random& random, volatile Descriptor& descriptor) {
    descriptor.address = random.one_in(8) ? reinterpret_cast<uint64_t>(indirect_table) : wild_address(random);
    descriptor.length = random.one_in(8) ? static_cast<uint32_t>(16 * random.below(64)) : wild_length(random);
    descriptor.flags = static_cast<uint16_t>(random.one_in(6) ? random.next() : random.below(4));
    descriptor.next = static_cast<uint16_t>(random.one_in(6) ? random.next() : random.below(ring_size));
}

void attack_queue(Random& random, const VirtioFunction& function, unsigned rounds) {
    bool comes_back = true;
    for (unsigned round = 0; round < rounds && comes_back; ++round) {
        const auto queue = static_cast<unsigned>(random.below(2));
        const auto features = static_cast<uint32_t>(random.next());
        comes_back = function.start(queue, rings, features);
        if (random.one_in(8)) {
            // Queue addresses that are no RAM, or the device's own window.
            store<uint64_t>(function.common + queue_desc + 8 * random.below(3), wild_address(random));
            store<uint16_t>(function.common + queue_size, static_cast<uint16_t>(random.next()));
            store<uint16_t>(function.common + queue_enable, 1);
        }
        for (volatile Descriptor& descriptor : rings.descriptors)
            wild_descriptor(random, descriptor);
        for (volatile Descriptor& descriptor : indirect_table)
            wild_descriptor(random, descriptor);
        for (unsigned kick = 0; kick < 4; ++kick) {
            for (unsigned i = 2; i < 2 + ring_size; ++i)
                rings.available[i] =
                    static_cast<uint16_t>(random.one_in(8) ? random.next() : random.below(ring_size));
            rings.available[1] = static_cast<uint16_t>(
                random.one_in(4) ? random.next() : rings.available[1] + random.below(ring_size + 1));
            function.ring_doorbell(queue);
            // The doorbell returns at once: the device reads while these change.
            for (unsigned i = 0; i < 64; ++i)
                wild_descriptor(random, rings.descriptors[random.below(ring_size)]);
            if (random.one_in(16))
                store<uint16_t>(function.notify + random.below(4096), static_cast<uint16_t>(random.next()));
        }
        (void)function.status();
    }
    report(comes_back && function.reset(), "the device resets after wild queues");
}

// A request that must work when all is over: random bytes for an empty buffer.
bool entropy_works(const VirtioFunction& function) {
    if (!function.start(0, rings, 0))
        return false;
    for (uint8_t& byte : buffer)
        byte = 0;
    rings.descriptors[0].address = reinterpret_cast<uint64_t>(buffer);
    rings.descriptors[0].length = 64;
    rings.descriptors[0].flags = device_writes;
    rings.descriptors[0].next = 0;
    rings.available[2] = 0;
    rings.available[1] = 1;
    function.ring_doorbell(0);
    while ((rings.used[0] >> 16) != 1) {
        pause();
        if ((function.status() & needs_reset) != 0)
            return false;
    }
    uint8_t any = 0;
    for (unsigned at = 0; at < 64; ++at)
        any = static_cast<uint8_t>(any | static_cast<volatile uint8_t*>(buffer)[at]);
    return any != 0 && rings.used[2] == 64;
}

} // namespace
} // namespace payload

void payload_main() {
    using namespace payload;
    Random random(command_line_number("seed", 1));
    const uint64_t stride = command_line_number("stride", 16);
    const auto rounds = static_cast<unsigned>(command_line_number("rounds", 300));

    if (command_line_has("ports"))
        attack_ports(random, stride);
    if (command_line_has("memory"))
        attack_memory_addresses(random, stride);
    if (command_line_has("bars"))
        attack_bars(random, 10 * rounds);
    VirtioFunction entropy;
    for (unsigned slot = 0; slot < 32; ++slot) {
        VirtioFunction function;
        if (!function.probe(slot))
            continue;
        if (function.type == 4)
            entropy = function;
        if (command_line_has("queues"))
            attack_queue(random, function, rounds);
    }
    if (!command_line_has("memory")) // which may have moved every BAR away for good
        report(entropy.common != 0 && entropy_works(entropy), "entropy device works afterwards");
    print("payload done\n");
    power_off();
}
