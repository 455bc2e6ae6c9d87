// SPDX-License-Identifier: Apache-2.0
#include "devices/virtio/rng.hpp"

#include <algorithm>
#include <cerrno>
#include <sys/random.h>

namespace casemate::virtio {
namespace {

// Served before other devices get their turn; of bytes, and one request.
constexpr unsigned requests_per_turn = 16;
constexpr uint64_t bytes_per_turn = 16_KiB;

// How many bytes of `buffer` are random now. Waits only while the host's pool has never been seeded.
size_t get_random(std::span<std::byte> buffer) {
    ssize_t got = 0;
    do
        got = getrandom(buffer.data(), buffer.size(), 0);
    while (got < 0 && errno == EINTR);
    return got < 0 ? 0 : static_cast<size_t>(got);
}

} // namespace

void Rng::read_config(uint64_t, std::span<std::byte> data) const {
    std::ranges::fill(data, std::byte{0});
}

void Rng::activate(uint64_t, std::span<Queue* const> queues, Host& host) {
    m_queue = queues.front();
    m_host = &host;
}

void Rng::reset(std::function<void()> done) {
    m_queue = nullptr;
    m_host = nullptr;
    done();
}

void Rng::process_queue(uint16_t) {
    if (m_queue == nullptr)
        return;
    if (const auto served = serve_some(); !served)
        return m_host->break_device(served.error() == GuestFault::locked ? "request for locked memory"
                                                                         : "bad request");
    m_host->notify_queue(0);
}

GuestResult<void> Rng::serve_some() {
    TRY(m_queue->set_doorbell_wanted(false));
    uint64_t bytes = 0;
    for (unsigned served = 0; served < requests_per_turn && bytes < bytes_per_turn; ++served) {
        auto chain = TRY(m_queue->pop());
        if (!chain) {
            TRY(m_queue->set_doorbell_wanted(true));
            chain = TRY(m_queue->pop());
        }
        if (!chain)
            return {};
        const uint32_t written = TRY(fill(*chain));
        TRY(m_queue->push_used(chain->head, written));
        bytes += written;
    }
    m_host->process_again(0);
    return {};
}

// How many bytes were written. 5.4.6.1: the driver gives only buffers to write.
GuestResult<uint32_t> Rng::fill(const Chain& chain) const {
    if (!chain.readable.empty() || chain.writable.empty())
        return std::unexpected(GuestFault::malformed);
    std::array<std::byte, 4096> bytes;
    uint64_t done = 0;
    for (const GuestRange& buffer : chain.writable) {
        const uint64_t wanted = std::min(buffer.bytes(), max_request_bytes - done);
        for (uint64_t offset = 0; offset < wanted;) {
            const size_t got = get_random(std::span(bytes).first(std::min(wanted - offset, bytes.size())));
            if (got == 0)
                return static_cast<uint32_t>(done);
            const GuestPhysical place = TRY(buffer.part(offset, got)).start();
            TRY(m_memory.write(place, std::span(bytes).first(got)));
            offset += got;
            done += got;
        }
    }
    return static_cast<uint32_t>(done);
}

} // namespace casemate::virtio
