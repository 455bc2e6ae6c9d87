// SPDX-License-Identifier: Apache-2.0
#include "devices/virtio/blk.hpp"

#include "base/little_endian.hpp"
#include "devices/virtio/chain_bytes.hpp"
#include "devices/virtio/disk_file.hpp"

#include <algorithm>
#include <bit>
#include <cstring>
#include <fmt/format.h>
#include <utility>

namespace casemate::virtio {
namespace {

// Feature bits, 5.2.3.
constexpr unsigned feature_size_max = 1;
constexpr unsigned feature_seg_max = 2;
constexpr unsigned feature_read_only = 5;
constexpr unsigned feature_blk_size = 6;
constexpr unsigned feature_flush = 9;
constexpr unsigned feature_topology = 10;
constexpr unsigned feature_config_wce = 11;
constexpr unsigned feature_discard = 13;
constexpr unsigned feature_write_zeroes = 14;

// Configuration, 5.2.4.
struct Config {
    Le64 capacity;
    Le32 size_max;
    Le32 seg_max;
    Le16 cylinders;
    uint8_t heads;
    uint8_t sectors;
    Le32 blk_size;
    uint8_t physical_block_exp;
    uint8_t alignment_offset;
    Le16 min_io_size;
    Le32 opt_io_size;
    uint8_t writeback;
    uint8_t unused0;
    Le16 num_queues;
    Le32 max_discard_sectors;
    Le32 max_discard_seg;
    Le32 discard_sector_alignment;
    Le32 max_write_zeroes_sectors;
    Le32 max_write_zeroes_seg;
    uint8_t write_zeroes_may_unmap;
    uint8_t unused1[3];
};
static_assert(sizeof(Config) == 60 && offsetof(Config, blk_size) == 20 && offsetof(Config, writeback) == 32 &&
              offsetof(Config, max_discard_sectors) == 36 &&
              offsetof(Config, max_write_zeroes_sectors) == 48 &&
              offsetof(Config, write_zeroes_may_unmap) == 56 && std::is_trivially_copyable_v<Config>);

// Request header, 5.2.6.
struct Header {
    Le32 type;
    Le32 reserved;
    Le64 sector;
};
static_assert(sizeof(Header) == 16 && offsetof(Header, sector) == 8);

// Body of discards and write zeroes, 5.2.6.
struct RangeBody {
    Le64 sector;
    Le32 num_sectors;
    Le32 flags;
};
static_assert(sizeof(RangeBody) == 16 && offsetof(RangeBody, num_sectors) == 8 &&
              offsetof(RangeBody, flags) == 12);
constexpr uint32_t range_unmap = 1;

constexpr uint32_t type_in = 0;
constexpr uint32_t type_out = 1;
constexpr uint32_t type_flush = 4;
constexpr uint32_t type_get_id = 8;
constexpr uint32_t type_discard = 11;
constexpr uint32_t type_write_zeroes = 13;

constexpr uint8_t status_ok = 0;
constexpr uint8_t status_io_error = 1;
constexpr uint8_t status_unsupported = 2;

constexpr uint64_t sector_bytes = 512;
constexpr size_t identity_bytes = 20;

// The greatest request is what a driver that keeps these two can build. It bounds what a reset or a lock has
// to wait for; without it one request could name all of RAM a hundred times.
constexpr uint32_t max_segments = Blk::queue_size - 2;
constexpr uint32_t max_segment_bytes = 128_KiB;
constexpr uint64_t max_data_bytes = uint64_t{max_segments} * max_segment_bytes;
// Where there is no command for them the zeroes are written out, which takes its time.
constexpr uint64_t max_write_zeroes_bytes = 64_MiB;
constexpr uint64_t max_discard_bytes = 1_GiB;
// One range: whoever has more sends more requests, and each stays bounded.
constexpr uint32_t max_ranges = 1;

const char* describe(uint32_t type) {
    switch (type) {
    case type_in:
        return "read";
    case type_out:
        return "write";
    case type_flush:
        return "flush";
    case type_discard:
        return "discard";
    default:
        return "write of zeroes";
    }
}

uint32_t sectors_of(uint64_t bytes) {
    return static_cast<uint32_t>(bytes / sector_bytes);
}

// In logical blocks, or 0, which is no suggestion, where the field is too small.
template <typename T>
T blocks_of(uint32_t bytes, const DiskProperties& disk) {
    const uint32_t blocks = bytes / disk.logical_block;
    return std::in_range<T>(blocks) ? static_cast<T>(blocks) : T{0};
}

} // namespace

Result<std::unique_ptr<Blk>> Blk::create(const Options& options, const GuestMemory& memory, EventLoop& loop,
                                         const Log& log) {
    auto disk = TRY(DiskFile::create(
        {.path = options.path, .read_only = options.read_only, .depth = queue_size}, loop, log));
    return std::make_unique<Blk>(options.name, std::move(disk), memory, log);
}

Blk::Blk(std::string name, std::unique_ptr<Disk> disk, const GuestMemory& memory, const Log& log)
    : m_name(std::move(name))
    , m_memory(&memory)
    , m_log(&log)
    , m_sectors(disk->properties().size / sector_bytes)
    , m_requests(queue_size)
    , m_disk(std::move(disk)) {
    const DiskProperties& properties = m_disk->properties();
    // A granule is the least that a device can discard.
    const uint64_t most = std::max<uint64_t>(max_discard_bytes, properties.discard_granularity);
    m_max_discard_sectors = sectors_of(std::min(properties.most_discard, most));
    m_max_write_zeroes_sectors = sectors_of(std::min(properties.most_write_zeroes, max_write_zeroes_bytes));
    for (uint32_t tag = queue_size; tag != 0; --tag)
        m_free_tags.push_back(tag - 1);
    m_disk->set_client(*this);
}

uint64_t Blk::features() const {
    uint64_t features = 1ULL << feature_size_max | 1ULL << feature_seg_max | 1ULL << feature_blk_size |
                        1ULL << feature_topology;
    if (m_disk->properties().read_only)
        return features | 1ULL << feature_read_only;
    features |= 1ULL << feature_flush | 1ULL << feature_config_wce;
    if (m_max_discard_sectors != 0)
        features |= 1ULL << feature_discard;
    if (m_max_write_zeroes_sectors != 0)
        features |= 1ULL << feature_write_zeroes;
    return features;
}

std::span<const uint16_t> Blk::queue_sizes() const {
    static constexpr std::array<uint16_t, 1> sizes{queue_size};
    return sizes;
}

void Blk::read_config(uint64_t offset, std::span<std::byte> data) const {
    const DiskProperties& disk = m_disk->properties();
    Config config{};
    config.capacity = m_sectors;
    config.size_max = max_segment_bytes;
    config.seg_max = max_segments;
    config.blk_size = disk.logical_block;
    config.physical_block_exp =
        static_cast<uint8_t>(std::countr_zero(disk.physical_block) - std::countr_zero(disk.logical_block));
    config.alignment_offset = blocks_of<uint8_t>(disk.first_physical_block, disk);
    config.min_io_size = blocks_of<uint16_t>(disk.least_io, disk);
    config.opt_io_size = blocks_of<uint32_t>(disk.best_io, disk);
    config.writeback = m_write_back ? 1 : 0;
    if (m_max_discard_sectors != 0) {
        config.max_discard_sectors = m_max_discard_sectors;
        config.max_discard_seg = max_ranges;
        config.discard_sector_alignment = sectors_of(disk.discard_granularity);
    }
    if (m_max_write_zeroes_sectors != 0) {
        config.max_write_zeroes_sectors = m_max_write_zeroes_sectors;
        config.max_write_zeroes_seg = max_ranges;
        config.write_zeroes_may_unmap = 1;
    }
    const auto bytes = std::as_bytes(std::span(&config, 1));
    std::ranges::fill(data, std::byte{0});
    if (offset < bytes.size())
        std::ranges::copy(bytes.subspan(offset, std::min(data.size(), bytes.size() - offset)), data.begin());
}

void Blk::write_config(uint64_t offset, std::span<const std::byte> data) {
    constexpr uint64_t writeback = offsetof(Config, writeback);
    if (offset > writeback || writeback - offset >= data.size() || !m_may_set_cache)
        return;
    m_write_back = data[writeback - offset] != std::byte{0};
}

void Blk::activate(uint64_t driver_features, std::span<Queue* const> queues, Host& host) {
    m_features = driver_features;
    m_queue = queues.empty() ? nullptr : queues[0];
    m_host = &host;
    // 5.2.5.2: a driver that cannot flush must get write-through, one that only flushes has write-back.
    m_may_set_cache = negotiated(feature_config_wce);
    if (!negotiated(feature_flush))
        m_write_back = false;
    else if (!negotiated(feature_config_wce))
        m_write_back = true;
}

void Blk::reset(std::function<void()> done) {
    m_queue = nullptr;
    m_host = nullptr;
    m_write_back = true;
    m_may_set_cache = true;
    if (m_in_flight == 0)
        done();
    else
        m_reset_done = std::move(done);
}

void Blk::process_queue(uint16_t /*index*/) {
    serve();
}

// Takes what is there, has it done, tells the driver, and looks again: only then is a driver that found a
// request done, and sent the next, asked to ring.
void Blk::serve() {
    Budget budget;
    bool asked = false;
    while (true) {
        const bool taken = take_requests(budget);
        m_disk->start();
        if (m_in_flight == 0 && m_reset_done)
            std::exchange(m_reset_done, nullptr)();
        if (std::exchange(m_used_pushed, false) && m_queue != nullptr)
            m_host->notify_queue(0);
        if (m_queue == nullptr || full())
            return;
        // Requests that complete at once could keep a driver's other vCPU feeding us for ever.
        if (budget.spent())
            return m_host->process_again(0);
        if (taken) {
            asked = false;
            continue;
        }
        if (asked)
            return;
        asked = true;
        if (!m_queue->set_doorbell_wanted(true))
            return break_device("the used ring is not writable");
    }
}

// Whether there were any.
bool Blk::take_requests(Budget& budget) {
    bool taken = false;
    while (m_queue != nullptr && !full() && !budget.spent()) {
        const auto popped = m_queue->pop();
        if (!popped) {
            break_device("malformed descriptor chain");
            break;
        }
        const std::optional<Chain>& chain = *popped;
        if (!chain)
            break;
        taken = true;
        --budget.requests;
        budget.bytes -= std::min(budget.bytes, chain->readable_bytes + chain->writable_bytes);
        begin(*chain);
    }
    return taken;
}

void Blk::begin(const Chain& chain) {
    // Where to answer comes first: without a status byte the driver could never learn what happened.
    if (chain.writable_bytes == 0) {
        break_device("request without a status byte");
        return;
    }
    const uint32_t tag = m_free_tags.back();
    Request& request = m_requests[tag];
    request.head = chain.head;
    // 2.7.8.2: the length counts bytes written from the start of the chain on. When there is room before the
    // status byte that we leave alone, the count ends before that.
    request.failure_length = chain.writable_bytes == 1 ? 1 : 0;
    request.success_length = request.failure_length;
    request.status_address = GuestPhysical{chain.writable.back().end() - 1};
    request.sector = 0;
    request.bytes = 0;
    request.flush_follows = false;
    if (const auto status = execute(chain, request))
        complete(request, *status);
}

std::optional<uint8_t> Blk::execute(const Chain& chain, Request& request) {
    Header header{};
    if (!read_bytes(*m_memory, chain.readable, 0, std::as_writable_bytes(std::span(&header, 1))))
        return status_io_error;
    request.type = header.type;
    request.sector = header.sector;
    switch (request.type) {
    case type_in:
    case type_out:
        return transfer_data(chain, request);
    case type_flush:
        submit(request, {.operation = DiskOperation::flush});
        return std::nullopt;
    case type_get_id:
        return give_identity(chain, request);
    case type_discard:
    case type_write_zeroes:
        return change_range(chain, request);
    default:
        return status_unsupported;
    }
}

std::optional<uint8_t> Blk::transfer_data(const Chain& chain, Request& request) {
    const bool out = request.type == type_out;
    if (out && m_disk->properties().read_only)
        return status_io_error;
    const uint64_t bytes = out ? chain.readable_bytes - sizeof(Header) : chain.writable_bytes - 1;
    if (bytes % sector_bytes != 0 || bytes > max_data_bytes)
        return status_io_error;
    if (request.sector > m_sectors || bytes / sector_bytes > m_sectors - request.sector)
        return status_io_error;
    const auto ranges = out ? slice(chain.readable, sizeof(Header), bytes) : slice(chain.writable, 0, bytes);
    if (!ranges)
        return status_io_error;
    auto transfer = m_memory->begin_transfer(*ranges, out ? GuestMemory::Direction::out_of_ram
                                                          : GuestMemory::Direction::into_ram);
    if (!transfer)
        return status_io_error;
    if (bytes == 0)
        return status_ok;
    if (!out)
        request.success_length = static_cast<uint32_t>(bytes + 1);
    request.transfer = *std::move(transfer);
    request.bytes = bytes;
    m_bytes_in_flight += bytes;
    request.flush_follows = out && !m_write_back;
    submit(request, {.operation = out ? DiskOperation::write : DiskOperation::read,
                     .offset = request.sector * sector_bytes,
                     .bytes = bytes,
                     .vectors = request.transfer.vectors()});
    return std::nullopt;
}

std::optional<uint8_t> Blk::change_range(const Chain& chain, Request& request) {
    const bool discard = request.type == type_discard;
    if (m_disk->properties().read_only)
        return status_io_error;
    if (!negotiated(discard ? feature_discard : feature_write_zeroes))
        return status_unsupported;
    RangeBody body{};
    if (chain.readable_bytes != sizeof(Header) + sizeof(body) ||
        !read_bytes(*m_memory, chain.readable, sizeof(Header), std::as_writable_bytes(std::span(&body, 1))))
        return status_io_error;
    const uint32_t flags = body.flags;
    const uint32_t count = body.num_sectors;
    request.sector = body.sector;
    // 5.2.6.2: unknown flags, and unmap on a discard, are not supported.
    if ((flags & ~range_unmap) != 0 || (discard && flags != 0))
        return status_unsupported;
    if (count > (discard ? m_max_discard_sectors : m_max_write_zeroes_sectors))
        return status_io_error;
    if (request.sector > m_sectors || count > m_sectors - request.sector)
        return status_io_error;
    if (count == 0)
        return status_ok;
    const DiskOperation zeroes = flags == 0 ? DiskOperation::write_zeroes : DiskOperation::write_zeroes_unmap;
    request.flush_follows = !m_write_back;
    submit(request, {.operation = discard ? DiskOperation::discard : zeroes,
                     .offset = request.sector * sector_bytes,
                     .bytes = count * sector_bytes});
    return std::nullopt;
}

uint8_t Blk::give_identity(const Chain& chain, Request& request) const {
    std::array<std::byte, identity_bytes> identity{};
    std::memcpy(identity.data(), m_name.data(), std::min(m_name.size(), identity.size()));
    if (chain.writable_bytes <= identity.size() || !write_bytes(*m_memory, chain.writable, 0, identity))
        return status_io_error;
    request.success_length = identity_bytes + (chain.writable_bytes == identity_bytes + 1 ? 1 : 0);
    return status_ok;
}

void Blk::submit(Request& request, const DiskRequest& disk_request) {
    m_free_tags.pop_back();
    ++m_in_flight;
    m_disk->queue(static_cast<uint32_t>(&request - m_requests.data()), disk_request);
}

void Blk::disk_done(uint32_t tag, int error) {
    Request& request = m_requests[tag];
    request.transfer = Transfer();
    if (error == 0 && request.flush_follows && m_queue != nullptr) {
        request.flush_follows = false;
        m_disk->queue(tag, {.operation = DiskOperation::flush});
        return;
    }
    if (error == disk_shrunk_error)
        m_log->guest(m_failure_site, fmt::format("{}: {} at sector {}: the image was truncated", m_name,
                                                 describe(request.type), request.sector));
    else if (error != 0 && error != EOPNOTSUPP)
        m_log->guest(m_failure_site, fmt::format("{}: {} at sector {}: {}", m_name, describe(request.type),
                                                 request.sector, describe_errno(error)));
    m_free_tags.push_back(tag);
    --m_in_flight;
    m_bytes_in_flight -= request.bytes;
    if (m_queue != nullptr)
        complete(request, error == 0            ? status_ok
                          : error == EOPNOTSUPP ? status_unsupported
                                                : status_io_error);
}

void Blk::disk_batch_done() {
    serve();
}

void Blk::complete(const Request& request, uint8_t status) {
    const uint32_t written = status == status_ok ? request.success_length : request.failure_length;
    if (!m_memory->store(request.status_address, status) || !m_queue->push_used(request.head, written))
        break_device("the status byte or the used ring is not writable");
    else
        m_used_pushed = true;
}

void Blk::break_device(std::string_view reason) {
    m_queue = nullptr;
    m_host->break_device(reason);
}

} // namespace casemate::virtio
