// SPDX-License-Identifier: Apache-2.0
#include "devices/virtio/net.hpp"

#include "base/little_endian.hpp"
#include "devices/virtio/chain_bytes.hpp"

#include <algorithm>
#include <climits>
#include <cstring>
#include <fmt/format.h>
#include <sys/epoll.h>
#include <sys/random.h>

namespace casemate::virtio {
namespace {

// Feature bits, 5.1.3.
constexpr unsigned feature_checksum = 0;
constexpr unsigned feature_guest_checksum = 1;
constexpr unsigned feature_mtu = 3;
constexpr unsigned feature_mac = 5;
constexpr unsigned feature_guest_tso4 = 7;
constexpr unsigned feature_guest_tso6 = 8;
constexpr unsigned feature_guest_ecn = 9;
constexpr unsigned feature_host_tso4 = 11;
constexpr unsigned feature_host_tso6 = 12;
constexpr unsigned feature_host_ecn = 13;
constexpr unsigned feature_mergeable_buffers = 15;

// 5.1.6. With VERSION_1 num_buffers is always there.
struct Header {
    uint8_t flags;
    uint8_t gso_type;
    Le16 header_length;
    Le16 gso_size;
    Le16 checksum_start;
    Le16 checksum_offset;
    Le16 num_buffers;
};
static_assert(sizeof(Header) == 12 && offsetof(Header, num_buffers) == 10 &&
              std::is_trivially_copyable_v<Header>);

// 5.1.6: the kind of segmentation, of which none leaves the frame as long as it is; and a flag beside it.
constexpr uint8_t gso_none = 0;
constexpr uint8_t gso_ecn = 0x80;

// 5.1.4, up to the last field of a feature that is offered.
struct Config {
    MacAddress mac;
    Le16 status;
    Le16 max_queue_pairs;
    Le16 mtu;
};
static_assert(sizeof(Config) == 12 && offsetof(Config, mtu) == 10 && std::is_trivially_copyable_v<Config>);

// Of Ethernet, with a VLAN tag: IEEE 802.3, 3.2.7.
constexpr uint64_t link_header_bytes = 14 + 4;

// In one go each way, so that one device leaves the I/O thread to the others.
constexpr unsigned batch_frames = 64;
constexpr uint64_t batch_descriptors = 4096;
// What a frame without segmentation offload has at most on an ordinary Ethernet, and the header.
constexpr uint64_t short_frame = 2048;
// A port that fails this often in a row will not recover, and would keep the I/O thread spinning.
constexpr unsigned max_failed_reads = 64;

constexpr std::string_view describe(GuestFault fault) {
    return fault == GuestFault::locked ? "receive buffer in locked memory" : "receive buffer outside RAM";
}

} // namespace

Result<std::unique_ptr<Net>> Net::create(const Options& options, const GuestMemory& memory, EventLoop& loop,
                                         const Log& log) {
    auto tap = TRY(TapDevice::open(options.interface));
    if (!tap->is_up())
        log.host(fmt::format("{}: {} is down, and loses what the guest sends; ip link set {} up",
                             options.name, options.interface, options.interface));
    return create(options, std::move(tap), memory, loop, log);
}

Result<std::unique_ptr<Net>> Net::create(const Options& options, std::unique_ptr<FramePort> port,
                                         const GuestMemory& memory, EventLoop& loop, const Log& log) {
    const uint16_t mtu = options.mtu.value_or(port->mtu());
    if (options.mtu && mtu < min_mtu)
        return fail(Error::usage(fmt::format("MTU {} of {} is less than {}", mtu, options.name, min_mtu)));
    if (mtu > port->mtu())
        return fail(Error::usage(fmt::format("MTU {} of {} is more than the {} of {}", mtu, options.name,
                                             port->mtu(), options.interface))
                        .hint(fmt::format("ip link set {} mtu {}", options.interface, mtu)));
    MacAddress mac{};
    if (options.mac) {
        mac = *options.mac;
        if ((mac[0] & 1) != 0)
            return fail(Error::usage(fmt::format("MAC address {:02x} of {} is a multicast address",
                                                 fmt::join(mac, ":"), options.name))
                            .hint("make the first byte even"));
    } else {
        if (getrandom(mac.data(), mac.size(), 0) != static_cast<ssize_t>(mac.size()))
            return fail(Error::system("getrandom", errno));
        mac[0] = static_cast<uint8_t>((mac[0] & ~1U) | 2U); // unicast, locally administered: IEEE 802, 8.4
    }
    return std::unique_ptr<Net>(new Net(options, mac, mtu, std::move(port), memory, loop, log));
}

Net::Net(const Options& options, const MacAddress& mac, uint16_t mtu, std::unique_ptr<FramePort> port,
         const GuestMemory& memory, EventLoop& loop, const Log& log)
    : m_name(options.name)
    , m_mac(mac)
    , m_mtu(mtu)
    , m_port(std::move(port))
    , m_memory(&memory)
    , m_loop(&loop)
    , m_log(&log) {}

Net::~Net() {
    if (m_port_watched)
        m_loop->remove(m_port->descriptor());
}

uint64_t Net::features() const {
    return 1ULL << feature_checksum | 1ULL << feature_guest_checksum | 1ULL << feature_mac |
           1ULL << feature_guest_tso4 | 1ULL << feature_guest_tso6 | 1ULL << feature_guest_ecn |
           1ULL << feature_host_tso4 | 1ULL << feature_host_tso6 | 1ULL << feature_host_ecn |
           1ULL << feature_mergeable_buffers |
           // 5.1.4.1: not with less than the least.
           (m_mtu >= min_mtu ? 1ULL << feature_mtu : 0);
}

std::span<const uint16_t> Net::queue_sizes() const {
    static constexpr std::array<uint16_t, 2> sizes{queue_size, queue_size};
    return sizes;
}

// The MTU stays what it was at the start: 5.1.4.1 forbids to change it.
void Net::read_config(uint64_t offset, std::span<std::byte> data) const {
    const Config config{.mac = m_mac, .status = {}, .max_queue_pairs = {}, .mtu = m_mtu};
    const auto bytes = std::as_bytes(std::span(&config, 1));
    std::ranges::fill(data, std::byte{0});
    for (size_t i = 0; i < data.size() && offset < bytes.size(); ++i, ++offset)
        data[i] = bytes[offset];
}

void Net::activate(uint64_t driver_features, std::span<Queue* const> queues, Host& host) {
    m_features = driver_features;
    m_host = &host;
    m_receive = !queues.empty() ? queues[receive_queue] : nullptr;
    m_transmit = queues.size() > 1 ? queues[transmit_queue] : nullptr;
    if (const auto set = m_port->set_offloads({.checksum = negotiated(feature_guest_checksum),
                                               .tso4 = negotiated(feature_guest_tso4),
                                               .tso6 = negotiated(feature_guest_tso6),
                                               .ecn = negotiated(feature_guest_ecn)});
        !set)
        m_log->guest(m_port_site, fmt::format("{}: {}", m_name, set.error().message()));
    const auto watched =
        m_loop->add(m_port->descriptor(), 0, [this](uint32_t events) { handle_port(events); });
    if (!watched) {
        m_log->guest(m_port_site, fmt::format("{}: {}", m_name, watched.error().message()));
        return;
    }
    m_port_watched = true;
    m_waited_for = 0;
    m_failed_reads = 0;
    if (m_receive != nullptr)
        wait_for(EPOLLIN);
}

void Net::reset(std::function<void()> done) {
    m_receive = nullptr;
    m_transmit = nullptr;
    m_host = nullptr;
    m_buffers.clear();
    m_buffer_bytes = 0;
    m_most_buffer_bytes = 0;
    m_last_frame = 0;
    m_held = 0;
    m_held_room = 0;
    if (std::exchange(m_port_watched, false))
        m_loop->remove(m_port->descriptor());
    done();
}

void Net::process_queue(uint16_t index) {
    if (index == receive_queue)
        receive();
    else
        transmit();
}

void Net::handle_port(uint32_t events) {
    // Reported whether asked for or not, so a port without an interface must not be watched any longer.
    if ((events & (EPOLLERR | EPOLLHUP)) != 0) {
        unplug("the network interface is gone");
        return;
    }
    if ((events & EPOLLOUT) != 0) {
        wait_for(m_waited_for & ~uint32_t{EPOLLOUT});
        transmit();
    }
    if ((events & EPOLLIN) != 0)
        receive();
}

// `queue` becomes null when the device breaks.
template <typename Step>
Net::Outcome Net::take_turn(Queue* const& queue, Step step) {
    Outcome outcome = Outcome::progress;
    const uint64_t begin = queue != nullptr ? queue->descriptors_read() : 0;
    for (unsigned i = 0; i < batch_frames && queue != nullptr && outcome == Outcome::progress &&
                         queue->descriptors_read() - begin < batch_descriptors;
         ++i)
        outcome = step();
    return outcome;
}

void Net::receive() {
    if (!m_port_watched)
        return;
    const auto outcome = take_turn(m_receive, [this] { return receive_one(); });
    if (m_receive == nullptr)
        return;
    // Without buffers the port's queue holds the frames; the driver's next doorbell resumes.
    if (outcome == Outcome::stopped)
        wait_for(m_waited_for & ~uint32_t{EPOLLIN});
    else
        wait_for(m_waited_for | EPOLLIN);
    m_host->notify_queue(receive_queue);
}

// Collects buffers for the longest frame, because a read takes a frame off the port whatever fits. False when
// they are shorter than `needed`, which is not 0, or the device broke; unless all of the queue is in hand the
// driver's next buffer rings then.
bool Net::collect_buffers(uint64_t needed) {
    const bool merge = negotiated(feature_mergeable_buffers);
    bool asked = false;
    while (merge ? m_buffer_bytes < max_frame_bytes && m_buffers.size() < m_receive->size()
                 : m_buffers.empty()) {
        auto popped = m_receive->pop();
        if (!popped) {
            break_device("malformed receive chain");
            return false;
        }
        std::optional<Chain>& chain = *popped;
        if (!chain) {
            if (asked || m_buffer_bytes >= needed)
                break;
            asked = true;
            if (!m_receive->set_doorbell_wanted(true)) {
                break_device("the receive ring is not writable");
                return false;
            }
            continue;
        }
        if (chain->writable_bytes < sizeof(Header)) {
            break_device("receive buffer without room for the header");
            return false;
        }
        m_buffer_bytes += chain->writable_bytes;
        m_buffers.push_back(*std::move(chain));
        asked = false; // with the event index, asking covers only the buffer that was next
    }
    m_most_buffer_bytes = std::max(m_most_buffer_bytes, m_buffer_bytes);
    return m_buffer_bytes >= needed;
}

Net::Outcome Net::receive_one() {
    if (m_held != 0)
        return finish_held();
    if (!collect_buffers(1))
        return Outcome::stopped;
    // After a short frame comes another: acknowledgements, pings. Each buffer costs a look at the lock table
    // and the kernel's copy of its vector, and a longer frame's rest is only copied once more.
    const uint64_t wanted = m_last_frame <= short_frame ? short_frame : max_frame_bytes;
    m_ranges.clear();
    uint64_t room = 0;
    for (const Chain& chain : m_buffers) {
        // One vector is for the tail below.
        if (room >= wanted || m_ranges.size() + chain.writable.size() >= IOV_MAX)
            break;
        m_ranges.insert(m_ranges.end(), chain.writable.begin(), chain.writable.end());
        room += chain.writable_bytes;
    }
    ssize_t result = 0;
    {
        const auto transfer = m_memory->begin_transfer(m_ranges, GuestMemory::Direction::into_ram);
        if (!transfer) {
            break_device(describe(transfer.error()));
            return Outcome::stopped;
        }
        // What does not fit must go somewhere: the port does not give it twice.
        m_vectors.assign(transfer->vectors().begin(), transfer->vectors().end());
        m_vectors.push_back({m_tail.get(), max_frame_bytes});
        result = m_port->read(m_vectors);
    }
    if (result == -EAGAIN)
        return Outcome::idle;
    if (result < static_cast<ssize_t>(sizeof(Header))) {
        if (++m_failed_reads >= max_failed_reads) {
            unplug("the network interface keeps failing");
            return Outcome::stopped;
        }
        return Outcome::progress;
    }
    m_failed_reads = 0;
    const auto bytes = static_cast<uint64_t>(result);
    m_last_frame = bytes;
    if (exceeds_mtu(bytes)) {
        m_log->guest(m_drop_site,
                     fmt::format("{}: received frame of {} bytes dropped: longer than its MTU of {}", m_name,
                                 bytes - sizeof(Header), m_mtu));
        return Outcome::progress;
    }
    if (bytes <= room)
        return deliver(bytes) ? Outcome::progress : Outcome::stopped;
    // One cut even so has filled the tail, and is longer than this.
    if (!negotiated(feature_mergeable_buffers) || bytes > max_frame_bytes) {
        log_too_long(room);
        return Outcome::progress;
    }
    m_held = bytes;
    m_held_room = room;
    return finish_held();
}

// Delivers the held frame once the buffers suffice. Dropped when the driver never had room for it or all of
// the queue is in hand: waiting for more would stop a driver with few buffers for ever.
Net::Outcome Net::finish_held() {
    if (!collect_buffers(m_held)) {
        if (m_receive == nullptr)
            return Outcome::stopped;
        if (m_buffers.size() < m_receive->size() && m_held <= m_most_buffer_bytes)
            return Outcome::stopped;
        m_held = 0;
        log_too_long(m_buffer_bytes);
        return Outcome::progress;
    }
    const uint64_t bytes = std::exchange(m_held, 0);
    std::span<const std::byte> tail(m_tail.get(), bytes - m_held_room);
    uint64_t filled = m_held_room; // by the read: whole chains
    for (const Chain& chain : m_buffers) {
        if (filled != 0) {
            filled -= chain.writable_bytes;
            continue;
        }
        const auto part = tail.first(std::min<uint64_t>(tail.size(), chain.writable_bytes));
        if (const auto done = write_bytes(*m_memory, chain.writable, 0, part); !done) {
            break_device(describe(done.error()));
            return Outcome::stopped;
        }
        tail = tail.subspan(part.size());
        if (tail.empty())
            break;
    }
    return deliver(bytes) ? Outcome::progress : Outcome::stopped;
}

// 5.1.4.1, of a frame that was read into m_buffers. Its header is in the guest's hands already, but what the
// guest writes there decides on what it gets, no more.
bool Net::exceeds_mtu(uint64_t bytes) const {
    if (!negotiated(feature_mtu) || bytes <= sizeof(Header) + link_header_bytes + m_mtu)
        return false;
    uint8_t gso_type = gso_none;
    const auto read = read_bytes(*m_memory, m_buffers.front().writable, offsetof(Header, gso_type),
                                 std::as_writable_bytes(std::span(&gso_type, 1)));
    return !read || (gso_type & ~gso_ecn) == gso_none;
}

void Net::log_too_long(uint64_t room) {
    m_log->guest(m_drop_site, fmt::format("{}: received frame dropped: longer than the {} bytes of the "
                                          "driver's buffers",
                                          m_name, room));
}

// The first `bytes` bytes of m_buffers hold a frame. False when the device broke.
bool Net::deliver(uint64_t bytes) {
    uint16_t count = 0;
    for (uint64_t held = 0; held < bytes; ++count)
        held += m_buffers[count].writable_bytes;
    // 5.1.6.4.1: num_buffers is 1 also when buffers are not mergeable; the port leaves it alone.
    const Le16 num_buffers = count;
    if (!write_bytes(*m_memory, m_buffers.front().writable, offsetof(Header, num_buffers),
                     std::as_bytes(std::span(&num_buffers, 1)))) {
        break_device("receive buffer in locked memory");
        return false;
    }
    for (; bytes != 0; m_buffers.pop_front()) {
        const Chain& chain = m_buffers.front();
        const uint64_t part = std::min(bytes, chain.writable_bytes);
        bytes -= part;
        m_buffer_bytes -= chain.writable_bytes;
        m_receive->stage_used(chain.head, static_cast<uint32_t>(part));
    }
    if (!m_receive->publish_staged()) {
        break_device("the receive ring is not writable");
        return false;
    }
    return true;
}

void Net::transmit() {
    // While the port is full its EPOLLOUT resumes, not the driver.
    if ((m_waited_for & EPOLLOUT) != 0)
        return;
    const auto outcome = take_turn(m_transmit, [this] { return transmit_one(); });
    if (m_transmit == nullptr)
        return;
    if (outcome == Outcome::progress)
        m_host->process_again(transmit_queue);
    m_host->notify_queue(transmit_queue);
}

Net::Outcome Net::transmit_one() {
    auto popped = m_transmit->pop();
    if (popped && !*popped) {
        if (!m_transmit->set_doorbell_wanted(true)) {
            break_device("the transmit ring is not writable");
            return Outcome::stopped;
        }
        popped = m_transmit->pop();
    }
    if (!popped) {
        break_device("malformed transmit chain");
        return Outcome::stopped;
    }
    const std::optional<Chain>& found = *popped;
    if (!found)
        return Outcome::idle;
    const Chain& chain = *found;
    // What the kernel finds wrong with a frame or its header is the sender's loss alone.
    ssize_t result = -EINVAL;
    if (chain.readable_bytes > sizeof(Header) && chain.readable_bytes <= max_frame_bytes && m_port_watched) {
        const auto transfer = m_memory->begin_transfer(chain.readable, GuestMemory::Direction::out_of_ram);
        if (transfer)
            result = m_port->write(transfer->vectors());
    }
    if (result == -EAGAIN) {
        m_transmit->undo_pop();
        wait_for(m_waited_for | EPOLLOUT);
        return Outcome::stopped;
    }
    if (result < 0)
        m_log->guest(m_drop_site,
                     fmt::format("{}: frame of {} bytes not sent: {}", m_name, chain.readable_bytes,
                                 describe_errno(static_cast<int>(-result))));
    if (!m_transmit->push_used(chain.head, 0)) {
        break_device("the transmit ring is not writable");
        return Outcome::stopped;
    }
    return Outcome::progress;
}

void Net::wait_for(uint32_t events) {
    if (!m_port_watched || events == m_waited_for)
        return;
    if (const auto changed = m_loop->modify(m_port->descriptor(), events); !changed) {
        m_log->guest(m_port_site, fmt::format("{}: {}", m_name, changed.error().message()));
        return;
    }
    m_waited_for = events;
}

void Net::unplug(std::string_view reason) {
    m_log->guest(m_port_site, fmt::format("{}: {}", m_name, reason));
    if (std::exchange(m_port_watched, false))
        m_loop->remove(m_port->descriptor());
    m_waited_for = 0;
    // What waited for the port to become writable is dropped now.
    transmit();
}

void Net::break_device(std::string_view reason) {
    m_receive = nullptr;
    m_transmit = nullptr;
    wait_for(0);
    m_host->break_device(reason);
}

} // namespace casemate::virtio
