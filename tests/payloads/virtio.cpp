// SPDX-License-Identifier: Apache-2.0
#include "virtio.hpp"

namespace payload {

bool VirtioFunction::probe(unsigned pci_slot) {
    slot = pci_slot;
    const uint32_t id = load<uint32_t>(config_address(slot, 0));
    if ((id & 0xffff) != 0x1af4 || (id >> 16) < 0x1041 || (id >> 16) > 0x107f)
        return false;
    type = static_cast<uint16_t>((id >> 16) - 0x1040);
    store<uint16_t>(config_address(slot, 4), 0x6); // memory decoding, bus master
    unsigned next = load<uint8_t>(config_address(slot, 0x34));
    for (unsigned seen = 0; next >= 0x40 && seen < 48; ++seen) {
        const uint64_t capability = config_address(slot, next & 0xfc);
        if (load<uint8_t>(capability) == 0x09) {
            const uint8_t kind = load<uint8_t>(capability + 3);
            const uint8_t bar = load<uint8_t>(capability + 4);
            const uint64_t base = load<uint32_t>(config_address(slot, 0x10 + 4 * bar)) & ~15U;
            const uint64_t at = base + load<uint32_t>(capability + 8);
            if (kind == 1)
                common = at;
            if (kind == 2) {
                notify = at;
                notify_multiplier = load<uint32_t>(capability + 16);
            }
            if (kind == 4)
                device = at;
        }
        next = load<uint8_t>(capability + 1);
    }
    return common != 0 && notify != 0;
}

bool VirtioFunction::reset(unsigned patience) const {
    store<uint8_t>(common + device_status, 0);
    for (unsigned i = 0; i < patience; ++i)
        if (status() == 0)
            return true;
    return false;
}

bool VirtioFunction::start(unsigned queue, Rings& rings, uint32_t low_features) const {
    if (!reset())
        return false;
    for (volatile uint16_t& word : rings.available)
        word = 0;
    for (volatile uint32_t& word : rings.used)
        word = 0;
    if (!negotiate(low_features))
        return false;
    set_queue(queue, reinterpret_cast<uint64_t>(rings.descriptors),
              reinterpret_cast<uint64_t>(rings.available), reinterpret_cast<uint64_t>(rings.used));
    go();
    return true;
}

bool VirtioFunction::negotiate(uint32_t low_features) const {
    store<uint8_t>(common + device_status, acknowledge | driver);
    store<uint32_t>(common + device_feature_select, 0);
    const uint32_t offered = load<uint32_t>(common + device_feature);
    store<uint32_t>(common + driver_feature_select, 0);
    store<uint32_t>(common + driver_feature, offered & low_features);
    store<uint32_t>(common + driver_feature_select, 1);
    store<uint32_t>(common + driver_feature, 1); // VERSION_1
    store<uint8_t>(common + device_status, acknowledge | driver | features_ok);
    return (status() & features_ok) != 0;
}

void VirtioFunction::set_queue(unsigned queue, uint64_t descriptors, uint64_t available, uint64_t used,
                               uint16_t entries) const {
    store<uint16_t>(common + queue_select, static_cast<uint16_t>(queue));
    store<uint16_t>(common + queue_size, entries);
    store<uint64_t>(common + queue_desc, descriptors);
    store<uint64_t>(common + queue_driver, available);
    store<uint64_t>(common + queue_device, used);
    store<uint16_t>(common + queue_enable, 1);
}

void VirtioFunction::go() const {
    store<uint8_t>(common + device_status, acknowledge | driver | features_ok | driver_ok);
}

void VirtioFunction::ring_doorbell(unsigned queue) const {
    store<uint16_t>(common + queue_select, static_cast<uint16_t>(queue));
    const uint64_t offset = load<uint16_t>(common + queue_notify_off);
    store<uint16_t>(notify + offset * notify_multiplier, static_cast<uint16_t>(queue));
}

} // namespace payload
