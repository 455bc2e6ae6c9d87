// SPDX-License-Identifier: Apache-2.0
// FramePort and TapDevice: where a network device gets and puts Ethernet frames.
#pragma once

#include "base/error.hpp"
#include "base/fd.hpp"

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <sys/types.h>
#include <sys/uio.h>

namespace casemate::virtio {

// What the receiving side of a guest copes with beyond plain frames.
struct Offloads {
    bool checksum = false; // frames whose checksum is still to be filled in
    bool tso4 = false;     // TCP segments above the MTU; all of these need `checksum`
    bool tso6 = false;
    bool ecn = false;
};

// Frames start with a 12-byte virtio_net_hdr (virtio 1.2, 5.1.6), both ways. I/O thread only.
class FramePort {
public:
    FramePort() = default;
    FramePort(const FramePort&) = delete;
    FramePort& operator=(const FramePort&) = delete;
    virtual ~FramePort() = default;

    // To wait on with the EventLoop.
    virtual int descriptor() const = 0;
    // What an Ethernet frame there carries at most, in bytes without its header, as of when it was attached.
    virtual uint16_t mtu() const = 0;
    virtual Result<void> set_offloads(const Offloads& offloads) = 0;
    // One frame; never blocks. Bytes moved, or a negative errno value. A frame longer than the vectors is
    // cut to them.
    virtual ssize_t read(std::span<const iovec> vectors) = 0;
    virtual ssize_t write(std::span<const iovec> vectors) = 0;
};

class TapDevice final : public FramePort {
public:
    // Attaches to a tap interface that exists. One that the monitor made itself would be down, without an
    // address or a bridge, and gone with the monitor: of no use to anybody.
    static Result<std::unique_ptr<TapDevice>> open(const std::string& interface);

    int descriptor() const override { return m_tap.get(); }
    uint16_t mtu() const override { return m_mtu; }
    // Whether the interface was up when it was attached: one that is down loses what the guest sends.
    bool is_up() const { return m_up; }
    Result<void> set_offloads(const Offloads& offloads) override;
    ssize_t read(std::span<const iovec> vectors) override;
    ssize_t write(std::span<const iovec> vectors) override;

private:
    explicit TapDevice(Fd tap)
        : m_tap(std::move(tap)) {}
    Result<void> ask_interface(const std::string& interface);

    Fd m_tap;
    uint16_t m_mtu = 0;
    bool m_up = false;
};

} // namespace casemate::virtio
