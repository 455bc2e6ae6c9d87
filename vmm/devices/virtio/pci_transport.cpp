// SPDX-License-Identifier: Apache-2.0
#include "devices/virtio/pci_transport.hpp"

#include "base/little_endian.hpp"

#include <algorithm>
#include <bit>
#include <fmt/core.h>
#include <sys/epoll.h>
#include <utility>

namespace casemate::virtio {
namespace {

// virtio 1.2, 4.1.2.1: revision 1 and a device number from 0x1040 say that there is no legacy interface.
constexpr uint16_t virtio_vendor = 0x1af4;
constexpr uint16_t first_device_number = 0x1040;
constexpr uint8_t modern_revision = 1;

// virtio 1.2, 4.1.4.3.
struct CommonConfig {
    Le32 device_feature_select;
    Le32 device_feature;
    Le32 driver_feature_select;
    Le32 driver_feature;
    Le16 config_msix_vector;
    Le16 num_queues;
    uint8_t device_status;
    uint8_t config_generation;
    Le16 queue_select;
    Le16 queue_size;
    Le16 queue_msix_vector;
    Le16 queue_enable;
    Le16 queue_notify_off;
    std::array<Le64, 3> queue_areas; // queue_desc, queue_driver, queue_device
    Le16 queue_notify_data;
    Le16 queue_reset;
};
static_assert(sizeof(CommonConfig) == 60 && offsetof(CommonConfig, driver_feature) == 12 &&
              offsetof(CommonConfig, config_msix_vector) == 16 &&
              offsetof(CommonConfig, device_status) == 20 && offsetof(CommonConfig, queue_select) == 22 &&
              offsetof(CommonConfig, queue_size) == 24 && offsetof(CommonConfig, queue_msix_vector) == 26 &&
              offsetof(CommonConfig, queue_enable) == 28 && offsetof(CommonConfig, queue_areas) == 32 &&
              offsetof(CommonConfig, queue_reset) == 58);

constexpr uint16_t no_vector = 0xffff; // 4.1.5.1.2.1

// 2.1. The driver may set all but NEEDS_RESET.
constexpr uint8_t status_acknowledge = 1;
constexpr uint8_t status_driver = 2;
constexpr uint8_t status_driver_ok = 4;
constexpr uint8_t status_features_ok = 8;
constexpr uint8_t status_needs_reset = 64;
constexpr uint8_t status_failed = 128;

// 6.
constexpr uint64_t feature_indirect = 1ULL << 28;
constexpr uint64_t feature_event_index = 1ULL << 29;
constexpr uint64_t feature_version_1 = 1ULL << 32;

// 4.1.4.5.
constexpr uint8_t interrupt_queue = 1;
constexpr uint8_t interrupt_config = 2;

// 4.1.4. Body of the vendor capabilities: all but the id and next bytes.
constexpr uint8_t vendor_capability_id = 9;
struct Capability {
    uint8_t length; // with id and next
    uint8_t type;
    uint8_t bar;
    uint8_t id;
    uint8_t padding[2];
    Le32 offset;
    Le32 bytes;
};
static_assert(sizeof(Capability) == 14 && offsetof(Capability, offset) == 6);
enum CapabilityType : uint8_t {
    common_config = 1,
    notification,
    interrupt_status,
    device_config,
    pci_window
};
struct NotifyCapability {
    Capability capability;
    Le32 multiplier;
};
static_assert(sizeof(NotifyCapability) == 18);
struct WindowCapability {
    Capability capability;
    std::array<std::byte, 4> data;
};
static_assert(sizeof(WindowCapability) == 18 && offsetof(WindowCapability, data) == 14);

// PCI 3.0, 6.8.2: body of the MSI-X capability.
struct MsixCapability {
    Le16 control;
    Le32 table;
    Le32 pending;
};
static_assert(sizeof(MsixCapability) == 10);

constexpr uint8_t body_offset = 2; // of a capability, behind id and next

// The BAR, one region to a page: MSI-X wants the table apart from other registers (PCI 3.0, 6.8.2).
constexpr uint32_t bar_bytes = 32_KiB;
constexpr uint32_t region_bytes = 4_KiB;
enum Region : uint32_t {
    common_region = 0,
    interrupt_region = 0x1000,
    device_region = 0x2000,
    notify_region = 0x3000,
    msix_table_region = 0x4000,
    msix_pending_region = 0x5000,
};
constexpr uint32_t doorbell_stride = 4;
constexpr size_t max_queues = region_bytes / doorbell_stride;
static_assert(Msix::max_vectors * 16U <= region_bytes);

// PCI 3.0, appendix D. Class codes help people who read lspci; drivers match the ids.
uint32_t class_code(DeviceType type) {
    switch (type) {
    case DeviceType::net:
        return 0x020000;
    case DeviceType::block:
        return 0x018000;
    case DeviceType::entropy:
        return 0xff0000;
    }
    return 0xff0000;
}

PciIdentity identity(DeviceType type) {
    const auto number = static_cast<uint16_t>(first_device_number + static_cast<uint16_t>(type));
    return {.vendor = virtio_vendor,
            .device = number,
            .revision = modern_revision,
            .class_code = class_code(type),
            .subsystem_vendor = virtio_vendor,
            .subsystem = number};
}

template <typename T>
std::span<const std::byte> bytes_of(const T& value) {
    return std::as_bytes(std::span(&value, 1));
}

constexpr Capability capability(CapabilityType type, uint32_t offset, uint32_t bytes,
                                size_t body_bytes = sizeof(Capability)) {
    return {.length = static_cast<uint8_t>(body_offset + body_bytes),
            .type = type,
            .offset = offset,
            .bytes = bytes};
}

bool overlaps(uint32_t offset, size_t bytes, uint32_t other, size_t other_bytes) {
    return offset < other + other_bytes && other < offset + bytes;
}

} // namespace

PciTransport::PciTransport(VirtioDevice& device, const GuestMemory& memory, EventLoop& io,
                           MessageInterrupts& interrupts, DoorbellRegistry& doorbells, const Log& log)
    : PciFunction(identity(device.type()))
    , m_device(device)
    , m_memory(memory)
    , m_io(io)
    , m_doorbells(doorbells)
    , m_log(log)
    , m_msix(interrupts)
    , m_offered_features(device.features() | feature_version_1 | feature_event_index | feature_indirect)
    , m_queues(device.queue_sizes().size()) {
    m_config.add_bar(0, bar_bytes);
    const auto add = [this](const auto& body) {
        return m_config.add_capability(vendor_capability_id, bytes_of(body));
    };
    add(capability(common_config, common_region, sizeof(CommonConfig)));
    add(capability(interrupt_status, interrupt_region, 1));
    add(capability(device_config, device_region, region_bytes));
    add(NotifyCapability{capability(notification, notify_region, region_bytes, sizeof(NotifyCapability)),
                         doorbell_stride});

    const WindowCapability body{capability(pci_window, 0, 0, sizeof(WindowCapability)), {}};
    WindowCapability writable{};
    writable.capability.bar = 0xff;
    writable.capability.offset = ~0U;
    writable.capability.bytes = ~0U;
    writable.data.fill(std::byte{0xff});
    m_window_capability = m_config.add_capability(vendor_capability_id, bytes_of(body), bytes_of(writable));

    if (m_msix.vectors() != 0) {
        const auto last_vector = static_cast<uint16_t>(m_msix.vectors() - 1);
        const MsixCapability msix{last_vector, msix_table_region, msix_pending_region};
        const Le16 msix_writable = uint16_t{Msix::control_enable | Msix::control_mask};
        m_msix_capability =
            m_config.add_capability(Msix::capability_id, bytes_of(msix), bytes_of(msix_writable));
    }
    clear_registers();
}

Result<std::unique_ptr<PciTransport>> PciTransport::create(VirtioDevice& device, const GuestMemory& memory,
                                                           EventLoop& io, MessageInterrupts& interrupts,
                                                           DoorbellRegistry& doorbells, const Log& log) {
    if (device.queue_sizes().size() > max_queues)
        return fail(Error(fmt::format("create {}: more than {} queues", device.name(), max_queues)));
    std::unique_ptr<PciTransport> transport(new PciTransport(device, memory, io, interrupts, doorbells, log));
    PciTransport* const self = transport.get();
    // Edge triggered: each signal is an edge, so there is no need to reset the count, which takes a system
    // call for each request of a guest.
    const auto watch = [self](Fd& event, auto handler) -> Result<void> {
        event = TRY(create_event());
        return self->m_io.add(event.get(), EPOLLIN | EPOLLET, [handler](uint32_t) { handler(); });
    };
    TRY(watch(self->m_work, [self] { self->do_work(); }));
    for (size_t i = 0; i < self->m_queues.size(); ++i)
        TRY(watch(self->m_queues[i].doorbell, [self, i] { self->process_queue(static_cast<uint16_t>(i)); }));
    return transport;
}

PciTransport::~PciTransport() {
    detach_doorbells();
    for (const QueueState& state : m_queues)
        if (state.doorbell)
            m_io.remove(state.doorbell.get());
    if (m_work)
        m_io.remove(m_work.get());
}

// Config space.

std::optional<PciTransport::Window> PciTransport::window() const {
    WindowCapability body;
    m_config.read(m_window_capability + body_offset, std::as_writable_bytes(std::span(&body, 1)));
    const uint32_t offset = body.capability.offset;
    const uint32_t bytes = body.capability.bytes;
    if (body.capability.bar != 0 || (bytes != 1 && bytes != 2 && bytes != 4) || !is_aligned(offset, bytes) ||
        offset >= bar_bytes)
        return std::nullopt;
    return Window{offset, bytes};
}

void PciTransport::read_config(uint32_t offset, std::span<std::byte> data) {
    const uint32_t place = m_window_capability + body_offset + uint32_t{offsetof(WindowCapability, data)};
    std::array<std::byte, 4> value{};
    if (overlaps(offset, data.size(), place, value.size()))
        if (const auto target = window()) {
            read(target->offset, std::span(value).first(target->bytes));
            m_config.set(place, std::span(value).first(target->bytes));
        }
    m_config.read(offset, data);
}

void PciTransport::write_config(uint32_t offset, std::span<const std::byte> data) {
    m_config.write(offset, data);
    m_window_written = m_window_written || overlaps(offset, data.size(), m_window_capability,
                                                    body_offset + sizeof(WindowCapability));
    const uint32_t place = m_window_capability + body_offset + uint32_t{offsetof(WindowCapability, data)};
    std::array<std::byte, 4> value{};
    if (overlaps(offset, data.size(), place, value.size()))
        if (const auto target = window()) {
            m_config.read(place, value);
            write(target->offset, std::span(value).first(target->bytes));
        }
    if (m_msix_capability != 0) {
        Le16 control;
        m_config.read(m_msix_capability + body_offset, std::as_writable_bytes(std::span(&control, 1)));
        m_msix.set_control(control);
    }
}

void PciTransport::bar_moved(unsigned, std::optional<GuestPhysical> start) {
    const std::lock_guard lock(m_mutex);
    detach_doorbells();
    m_bar = start;
    attach_doorbells();
}

void PciTransport::attach_doorbells() {
    if (!m_bar || (m_phase != Phase::activating && m_phase != Phase::active) ||
        (m_status & status_needs_reset) != 0)
        return;
    for (size_t i = 0; i < m_queues.size(); ++i) {
        QueueState& state = m_queues[i];
        if (!state.queue || state.attached)
            continue;
        const GuestPhysical address{m_bar->value + notify_region + i * doorbell_stride};
        if (const auto done = m_doorbells.attach(address.value, state.doorbell.get()); done)
            state.attached = address;
        else // The guest still gets there, by an exit each.
            m_log.guest(m_log_site, fmt::format("{}: {}", name(), done.error().message()));
    }
}

void PciTransport::detach_doorbells() {
    for (QueueState& state : m_queues)
        if (state.attached) {
            m_doorbells.detach(state.attached->value, state.doorbell.get());
            state.attached.reset();
        }
}

// The BAR.

void PciTransport::read(uint64_t offset, std::span<std::byte> data) {
    const uint64_t inside = offset % region_bytes;
    std::ranges::fill(data, std::byte{0});
    if (inside + data.size() > region_bytes)
        return;
    switch (offset - inside) {
    case common_region:
        return read_common(inside, data);
    case interrupt_region:
        if (inside == 0) {
            const std::lock_guard lock(m_mutex);
            put_value(data, std::exchange(m_interrupt_status, uint8_t{0})); // 4.1.4.5: reading clears it
        }
        return;
    case device_region: {
        const std::lock_guard lock(m_mutex);
        return m_device.read_config(inside, data);
    }
    case msix_table_region:
        return m_msix.read_table(inside, data);
    case msix_pending_region:
        return m_msix.read_pending(inside, data);
    default:
        return;
    }
}

void PciTransport::write(uint64_t offset, std::span<const std::byte> data) {
    const uint64_t inside = offset % region_bytes;
    if (inside + data.size() > region_bytes)
        return;
    switch (offset - inside) {
    case common_region:
        return write_common(inside, data);
    case device_region: {
        const std::lock_guard lock(m_mutex);
        return m_device.write_config(inside, data);
    }
    case notify_region:
        return ring(inside / doorbell_stride);
    case msix_table_region:
        return m_msix.write_table(inside, data);
    default:
        return;
    }
}

const PciTransport::QueueState* PciTransport::selected() const {
    return m_queue_select < m_queues.size() ? &m_queues[m_queue_select] : nullptr;
}
PciTransport::QueueState* PciTransport::selected() {
    return m_queue_select < m_queues.size() ? &m_queues[m_queue_select] : nullptr;
}

uint16_t PciTransport::checked_vector(uint64_t value) const {
    return value < m_msix.vectors() ? static_cast<uint16_t>(value) : no_vector;
}

void PciTransport::read_common(uint64_t offset, std::span<std::byte> data) const {
    const auto word = [](uint64_t features, uint32_t select) {
        return select < 2 ? static_cast<uint32_t>(features >> (32 * select)) : 0U;
    };
    CommonConfig image{};
    {
        const std::lock_guard lock(m_mutex);
        image.device_feature_select = m_device_feature_select;
        image.device_feature = word(m_offered_features, m_device_feature_select);
        image.driver_feature_select = m_driver_feature_select;
        image.driver_feature = word(m_driver_features, m_driver_feature_select);
        image.config_msix_vector = m_config_vector;
        image.num_queues = static_cast<uint16_t>(m_queues.size());
        image.device_status = m_status;
        image.config_generation = m_config_generation;
        image.queue_select = m_queue_select;
        image.queue_msix_vector = no_vector;
        if (const QueueState* const state = selected()) {
            image.queue_size = state->size;
            image.queue_msix_vector = state->vector;
            image.queue_enable = state->queue ? uint16_t{1} : uint16_t{0};
            image.queue_notify_off = m_queue_select;
            image.queue_areas = state->areas;
        }
    }
    const auto bytes = bytes_of(image);
    for (size_t i = 0; i < data.size() && offset + i < bytes.size(); ++i)
        data[i] = bytes[offset + i];
}

// 4.1.3.1: drivers write whole fields, 64-bit ones also by halves. All else is ignored.
void PciTransport::write_common(uint64_t offset, std::span<const std::byte> data) {
    constexpr auto field = [](uint64_t start, uint64_t bytes) { return start * 16 + bytes; };
    const uint64_t value = value_of(data);
    const std::lock_guard lock(m_mutex);
    if (m_phase == Phase::resetting || m_phase == Phase::draining)
        return; // 2.4.1: until status reads 0
    QueueState* const state = selected();
    // 4.1.4.3.2: no changes once enabled.
    QueueState* const open = state != nullptr && !state->queue ? state : nullptr;
    switch (field(offset, data.size())) {
    case field(offsetof(CommonConfig, device_feature_select), 4):
        m_device_feature_select = static_cast<uint32_t>(value);
        return;
    case field(offsetof(CommonConfig, driver_feature_select), 4):
        m_driver_feature_select = static_cast<uint32_t>(value);
        return;
    case field(offsetof(CommonConfig, driver_feature), 4):
        return write_driver_features(static_cast<uint32_t>(value));
    case field(offsetof(CommonConfig, config_msix_vector), 2):
        m_config_vector = checked_vector(value);
        return;
    case field(offsetof(CommonConfig, device_status), 1):
        return write_status(static_cast<uint8_t>(value));
    case field(offsetof(CommonConfig, queue_select), 2):
        m_queue_select = static_cast<uint16_t>(value);
        return;
    case field(offsetof(CommonConfig, queue_size), 2):
        if (open != nullptr && std::has_single_bit(value) && value <= m_device.queue_sizes()[m_queue_select])
            open->size = static_cast<uint16_t>(value);
        return;
    case field(offsetof(CommonConfig, queue_msix_vector), 2):
        if (state != nullptr)
            state->vector = checked_vector(value);
        return;
    case field(offsetof(CommonConfig, queue_enable), 2):
        if (open != nullptr && value == 1)
            enable_queue(*open);
        return;
    default: {
        const uint64_t inside = offset - offsetof(CommonConfig, queue_areas);
        if (open != nullptr && offset >= offsetof(CommonConfig, queue_areas) &&
            (data.size() == 4 || data.size() == 8) && is_aligned(inside, data.size()) &&
            inside < sizeof(open->areas))
            std::ranges::copy(data, std::as_writable_bytes(std::span(open->areas)).begin() +
                                        static_cast<ptrdiff_t>(inside));
        return;
    }
    }
}

void PciTransport::write_driver_features(uint32_t value) {
    if ((m_status & status_features_ok) != 0 || m_driver_feature_select > 1)
        return;
    const unsigned shift = 32 * m_driver_feature_select;
    m_driver_features = (m_driver_features & ~(uint64_t{~0U} << shift)) | uint64_t{value} << shift;
}

void PciTransport::write_status(uint8_t value) {
    if (value == 0) {
        if (m_phase == Phase::active) {
            // The registers stay as they are until the device is done, so the driver sees when that is.
            m_phase = Phase::resetting;
            detach_doorbells();
            signal_event(m_work);
        } else {
            m_phase = Phase::idle;
            clear_registers();
        }
        return;
    }
    // 2.1.1: drivers never clear bits. 3.1.1: the steps have an order.
    m_status |= value & (status_acknowledge | status_driver | status_failed);
    constexpr uint8_t known = status_acknowledge | status_driver;
    if ((value & status_features_ok) != 0 && (m_status & known) == known &&
        (m_driver_features & ~m_offered_features) == 0 && (m_driver_features & feature_version_1) != 0)
        m_status |= status_features_ok;
    if ((value & status_driver_ok) != 0 && (m_status & status_features_ok) != 0 && m_phase == Phase::idle) {
        m_status |= status_driver_ok;
        m_phase = Phase::activating;
        attach_doorbells();
        signal_event(m_work);
    }
}

void PciTransport::enable_queue(QueueState& state) {
    // The ring's layout depends on the features, and 3.1.1 puts queues between FEATURES_OK and DRIVER_OK.
    if ((m_status & (status_features_ok | status_driver_ok)) != status_features_ok)
        return;
    const QueueSetup setup{.size = state.size,
                           .descriptors = GuestValue<uint64_t>(state.areas[0]),
                           .driver_area = GuestValue<uint64_t>(state.areas[1]),
                           .device_area = GuestValue<uint64_t>(state.areas[2]),
                           .event_index = (m_driver_features & feature_event_index) != 0,
                           .indirect = (m_driver_features & feature_indirect) != 0};
    if (const auto queue = Queue::create(m_memory, setup))
        state.queue.emplace(*queue);
    else
        m_log.guest(m_log_site, fmt::format("{}: queue {}: bad ring addresses", name(), m_queue_select));
}

void PciTransport::ring(uint64_t queue) {
    const std::lock_guard lock(m_mutex);
    if ((m_phase == Phase::activating || m_phase == Phase::active) && queue < m_queues.size())
        signal_event(m_queues[queue].doorbell);
}

void PciTransport::clear_registers() {
    detach_doorbells();
    m_device_feature_select = m_driver_feature_select = 0;
    m_driver_features = 0;
    m_config_vector = no_vector;
    m_queue_select = 0;
    m_status = 0;
    m_interrupt_status = 0;
    for (size_t i = 0; i < m_queues.size(); ++i) {
        m_queues[i].size = m_device.queue_sizes()[i];
        m_queues[i].vector = no_vector;
        m_queues[i].areas = {};
        m_queues[i].queue.reset();
    }
}

// The I/O thread.

void PciTransport::do_work() {
    std::unique_lock lock(m_mutex);
    switch (m_phase) {
    case Phase::activating:
        m_phase = Phase::active;
        lock.unlock();
        return activate();
    case Phase::resetting:
        m_phase = Phase::draining;
        lock.unlock();
        m_live = false;
        return m_device.reset([this] { finish_reset(); });
    default:
        return; // a wake-up that an earlier one has served
    }
}

void PciTransport::activate() {
    // Without the lock: while active, vCPU threads leave the queues and features alone.
    m_live = true;
    std::vector<Queue*> queues;
    queues.reserve(m_queues.size());
    for (QueueState& state : m_queues)
        queues.push_back(state.queue ? &*state.queue : nullptr);
    m_device.activate(m_driver_features, queues, *this);
    // Doorbells that rang before now found no device.
    for (size_t i = 0; i < m_queues.size(); ++i)
        process_queue(static_cast<uint16_t>(i));
}

void PciTransport::finish_reset() {
    const std::lock_guard lock(m_mutex);
    clear_registers();
    m_phase = Phase::idle;
}

void PciTransport::process_queue(uint16_t index) {
    if (m_live && m_queues[index].queue)
        m_device.process_queue(index);
}

void PciTransport::process_again(uint16_t index) {
    signal_event(m_queues.at(index).doorbell);
}

void PciTransport::notify_queue(uint16_t index) {
    std::optional<Queue>& queue = m_queues.at(index).queue;
    if (!m_live || !queue)
        return;
    const auto due = queue->take_interrupt_due();
    if (!due)
        return break_device("available ring cannot be read");
    if (!*due)
        return;
    const std::lock_guard lock(m_mutex);
    m_interrupt_status |= interrupt_queue;
    m_msix.raise(m_queues[index].vector);
}

void PciTransport::notify_config() {
    if (!m_live)
        return;
    const std::lock_guard lock(m_mutex);
    ++m_config_generation;
    m_interrupt_status |= interrupt_config;
    m_msix.raise(m_config_vector);
}

void PciTransport::break_device(std::string_view reason) {
    if (!m_live)
        return;
    m_live = false;
    m_log.guest(m_log_site, fmt::format("{}: {}; stopped until the driver resets it", name(), reason));
    const std::lock_guard lock(m_mutex);
    m_status |= status_needs_reset;
    detach_doorbells();
    m_interrupt_status |= interrupt_config; // 2.1.2
    m_msix.raise(m_config_vector);
}

} // namespace casemate::virtio
