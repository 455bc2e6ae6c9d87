// SPDX-License-Identifier: Apache-2.0
// What a device under test talks to: a transport that counts, and a gate that locks one range.
#pragma once

#include "devices/virtio/device.hpp"
#include "memory/guest_memory.hpp"

#include <string>

namespace casemate::virtio {

struct FakeHost : Host {
    unsigned notified = 0;
    unsigned again = 0;
    std::string broken; // the reason
    void notify_queue(uint16_t /*index*/) override { ++notified; }
    void process_again(uint16_t /*index*/) override { ++again; }
    void notify_config() override {}
    void break_device(std::string_view reason) override { broken = reason; }
};

struct LockedRange : WriteGate {
    GuestRange locked = GuestRange::of(GuestPhysical{0}, 0);
    bool may_write(const GuestRange& range) const override { return !locked.overlaps(range); }
};

} // namespace casemate::virtio
