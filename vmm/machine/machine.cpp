// SPDX-License-Identifier: Apache-2.0
#include "machine/machine.hpp"

#include "boot/acpi_tables.hpp"
#include "boot/entry_state.hpp"
#include "boot/zero_page.hpp"
#include "devices/virtio/blk.hpp"
#include "devices/virtio/net.hpp"
#include "devices/virtio/rng.hpp"
#include "kvm/system.hpp"
#include "machine/config_check.hpp"
#include "machine/cpuid.hpp"
#include "machine/guard_end.hpp"
#include "machine/guest_load.hpp"
#include "machine/host_brand.hpp"
#include "machine/memory_types.hpp"
#include "machine/vcpu_loop.hpp"
#include "memory/layout.hpp"
#include "probe/host_probe.hpp"

#include <algorithm>
#include <array>
#include <cerrno>
#include <chrono>
#include <fmt/core.h>
#include <poll.h>
#include <pthread.h>
#include <span>
#include <sys/sysinfo.h>
#include <system_error>

namespace casemate {
namespace {

// RAM is not reserved against swap, so a machine larger than the host would start and be killed later.
Result<void> check_host_memory(uint64_t bytes) {
    struct sysinfo info{};
    if (sysinfo(&info) != 0)
        return fail(Error::system("sysinfo", errno));
    const uint64_t total = (uint64_t{info.totalram} + info.totalswap) * info.mem_unit;
    if (bytes > total)
        return fail(Error::usage(fmt::format("{} of guest RAM: the host has {} MiB with its swap",
                                             format_bytes(bytes), total / 1_MiB))
                        .hint("give less with --memory"));
    return {};
}

Result<EventLog> open_events(const std::string& path, const Log& log) {
    if (path.empty())
        return EventLog();
    return EventLog::open(path.c_str(), &log);
}

// Slots before it are RAM's.
constexpr uint32_t shadow_drop_slot = layout::ram_ranges(0).size();
constexpr uint32_t ecam_slot = shadow_drop_slot + 1;
static_assert(layout::ecam.bytes == ConfigImage::size_bytes);

// A vCPU that hangs is found after two.
constexpr std::chrono::milliseconds progress_interval{100};

// The state that firmware leaves behind. SDM Vol. 3A, "Memory Cache Control": MTRRs on, write-back by
// default; SDM Vol. 4: fast strings on.
constexpr std::array firmware_msrs{kvm_msr_entry{.index = 0x2ff, .reserved = 0, .data = (1U << 11) | 6},
                                   kvm_msr_entry{.index = 0x1a0, .reserved = 0, .data = 1}};
// SDM Vol. 4, IA32_BIOS_SIGN_ID; AMD's patch level has the same number.
constexpr uint32_t microcode_revision_msr = 0x8b;

} // namespace

Machine::Machine(const Config& config, const Log& log, EventLoop& loop, Parts parts)
    : m_config(config)
    , m_log(log)
    , m_loop(loop)
    , m_events(std::move(parts.events))
    , m_clock([this](std::chrono::nanoseconds time) { note_stop(time); })
    , m_symbols(std::move(parts.symbols))
    , m_memory(std::move(parts.memory))
    , m_vm(std::move(parts.vm))
    , m_doorbells(m_vm)
    , m_pci(m_mmio, GuestRange::of(layout::pci_window.start, layout::pci_window.bytes)) {}

Result<std::unique_ptr<Machine>> Machine::create(const Config& config, const Log& log, EventLoop& loop,
                                                 SerialLine& console) {
    TRY(check_config(config));
    TRY(check_host_memory(config.memory_bytes));
    const System system = TRY(System::open());
    EventLog events = TRY(open_events(config.events_path, log));
    std::optional<Symbols> symbols;
    if (!config.symbols_path.empty())
        symbols = TRY(Symbols::load(config.symbols_path.c_str()));
    GuestMemory memory = TRY(GuestMemory::create(config.memory_bytes));
    Vm vm = TRY(system.create_vm());
    std::unique_ptr<Machine> machine(new Machine(
        config, log, loop, {std::move(memory), std::move(vm), std::move(events), std::move(symbols)}));
    Machine& self = *machine;
    self.m_ended = TRY(create_event());
    self.m_watch =
        TRY(Watch::create(self.m_clock, {.audit = [&self](Watch::Clock::time_point due) { self.audit(due); },
                                         .check_progress = [&self] { self.check_progress(); },
                                         .check_lock_deadline = [&self] { self.check_lock_deadline(); }}));
    // Beside it KVM is set up, which is mostly waiting, and tried out.
    const auto load = TRY(GuestLoad::begin(self.m_memory, {config.kernel, config.initrd}));
    TRY(machine->set_up_vm());
    const ProtectionChoice choice = TRY(machine->offer_locks(system));
    TRY(machine->add_platform_devices(console));
    TRY(machine->add_virtio_devices());
    TRY(machine->show_pci_configuration());
    const LoadedGuest guest = TRY(load->finish());
    TRY(machine->create_guard(choice));
    TRY(machine->create_vcpus(system));
    TRY(machine->hand_over_to(guest));
    return machine;
}

Result<void> Machine::set_up_vm() {
    TRY(m_vm.set_reserved_pages(layout::task_state_pages.start, layout::identity_map_page.start));
    TRY(m_vm.create_interrupt_controllers());
    TRY(filter_msrs());
    m_management = TRY(ManagementMode::create(m_vm));
    m_interrupts = TRY(Interrupts::create(m_vm, m_log));
    uint32_t slot = 0;
    for (const GuestMemory::Region& region : m_memory.regions())
        TRY(m_vm.set_memory_slot(slot++, region.start, region.memory.size(), region.memory.data()));
    return {};
}

// Whether or not the guest ever locks anything: what must not move never has to.
Result<void> Machine::filter_msrs() {
    m_msr_filter_offered = m_vm.check_extension(KVM_CAP_X86_MSR_FILTER) != 0 &&
                           m_vm.check_extension(KVM_CAP_X86_USER_SPACE_MSR) != 0;
    if (!m_msr_filter_offered)
        return {};
    TRY(m_vm.enable_capability(KVM_CAP_X86_USER_SPACE_MSR, KVM_MSR_EXIT_REASON_FILTER));
    return m_vm.intercept_msrs(msrs_refused_at_once, intercepted_msr_reads);
}

// Throwaway VMs tell.
Result<Machine::ProtectionChoice> Machine::choose_protection(const System& system) {
    if (!m_config.protect.empty()) {
        const ProtectionTrial trial = TRY(try_protection(system, m_config.protect));
        if (trial.report.store == StoreReport::none)
            return fail(
                Error("a guest's store to memory with the protection asked for is not stopped here: " +
                      trial.report.store_note)
                    .hint("leave out --protect; casemate check tells more"));
        m_throwaway = trial.throwaway;
        return ProtectionChoice{m_config.protect, table_enforcement(trial.report)};
    }
    for (const ProtectionKind kind : protection_kinds) {
        if (!is_offered(kind, m_vm))
            continue;
        const ProtectionTrial trial = TRY(try_protection(system, {&kind, 1}));
        if (!stops_stores(trial.report))
            continue;
        m_throwaway = trial.throwaway;
        return ProtectionChoice{{kind}, table_enforcement(trial.report)};
    }
    return fail(
        Error("nothing on this host keeps a guest from storing to locked memory, so it cannot lock any")
            .hint("casemate check tells more"));
}

Result<Machine::ProtectionChoice> Machine::offer_locks(const System& system) {
    // Where nothing is locked it does not matter.
    ProtectionChoice none{.kinds = {ProtectionKind::mapping}};
    if (m_config.locks == LockMode::off)
        return none;
    // KVM API, KVM_CAP_EXIT_HYPERCALL: the value is the mask of hypercalls that may exit.
    constexpr uint64_t map_gpa_range = uint64_t{1} << CASEMATE_HYPERCALL;
    const auto do_without = [&](Error why) -> Result<ProtectionChoice> {
        if (m_config.locks == LockMode::required)
            return fail(std::move(why));
        m_log.host(why.message());
        return none;
    };
    if ((static_cast<uint64_t>(m_vm.check_extension(KVM_CAP_EXIT_HYPERCALL)) & map_gpa_range) == 0)
        return do_without(
            Error("this KVM hands no hypercall to user space, so the guest cannot lock anything")
                .hint("use Linux 5.14 or later, or --locks off"));
    auto choice = choose_protection(system);
    if (!choice)
        return m_config.protect.empty() && !choice.error().is_limit() ? do_without(choice.error()) : choice;
    TRY(m_vm.enable_capability(KVM_CAP_EXIT_HYPERCALL, map_gpa_range));
    // Else KVM overwrites the other vendor's hypercall instruction, in text that may be locked.
    if ((m_vm.check_extension(KVM_CAP_DISABLE_QUIRKS2) & KVM_X86_QUIRK_FIX_HYPERCALL_INSN) != 0)
        TRY(m_vm.enable_capability(KVM_CAP_DISABLE_QUIRKS2, KVM_X86_QUIRK_FIX_HYPERCALL_INSN));
    m_locks_offered = true;
    return choice;
}

Result<void> Machine::create_guard(const ProtectionChoice& choice) {
    m_protection = TRY(make_protection(
        choice.kinds,
        {.vm = m_vm,
         .memory = m_memory,
         .first_free_slot = ecam_slot + 1,
         .with_vcpus_stopped =
             [this](const std::function<void()>& change) { m_pause.with_stopped(m_vcpus, m_kicks, change); },
         .broken = [this](const Error& error) { end({EndReason::host_failure, error.message()}); },
         .ending = m_ending.get_token()}));
    m_guard = std::make_unique<Guard>(
        Guard::Parts{
            .memory = m_memory,
            .protection = *m_protection,
            .log = m_log,
            .events = m_events,
            .symbols = m_symbols ? &*m_symbols : nullptr,
            .tables_tolerated = choice.tables == TableEnforcement::enforced,
            .shadows_tables = [] { return may_shadow_page_tables(); },
            .drop_shadow_pages =
                [this] { return m_vm.drop_shadow_pages(shadow_drop_slot, layout::shadow_drop_page.start); },
            .end = [this](GuardEnd found) { end(machine_end(std::move(found))); },
            .intercept_msr_writes = [this] { return intercept_msr_writes(); },
            .ask_others_to_look =
                [this](uint32_t caller) {
                    for (const Vcpu& vcpu : m_vcpus)
                        if (vcpu.index() != caller)
                            m_kicks.ask_for_look(vcpu, VcpuKicks::Looks::at_registers);
                },
            .pages_protected =
                [this] {
                    if (m_protection->may_hang_vcpus())
                        m_watch->check_progress_every(progress_interval);
                },
            .sealed =
                [this] {
                    if (m_config.audit_interval.count() != 0)
                        m_watch->audit_every(m_config.audit_interval);
                },
            .ending = m_ending.get_token()},
        Guard::Options{.max_violations = m_config.max_violations, .cpus = m_config.cpus});
    m_memory.set_write_gate(m_guard.get());
    return {};
}

Result<void> Machine::intercept_msr_writes() {
    if (!m_msr_filter_offered)
        return fail(
            Error("this KVM cannot filter MSRs: the guest's writes to LSTAR, EFER and such are not refused")
                .hint("use Linux 5.10 or later; audits find such writes afterwards"));
    return m_vm.intercept_msrs(intercepted_msrs(), intercepted_msr_reads);
}

// On the watch's thread. Each vCPU's own thread does the looking: KVM wants that of a vCPU's ioctls.
void Machine::audit(Watch::Clock::time_point due) {
    m_guard->start_audit_round(due);
    for (const Vcpu& vcpu : m_vcpus)
        m_kicks.ask_for_look(vcpu, VcpuKicks::Looks::at_registers);
}

// On any thread.
void Machine::note_stop(std::chrono::nanoseconds time) {
    const auto microseconds = std::chrono::duration_cast<std::chrono::microseconds>(time).count();
    m_events.write("stopped", {{"microseconds", static_cast<uint64_t>(microseconds)}});
}

// As audit().
void Machine::check_progress() {
    for (const Vcpu& vcpu : m_vcpus)
        m_kicks.ask_for_look(vcpu, VcpuKicks::Looks::at_progress);
}

void Machine::check_lock_deadline() {
    if (!m_guard->has_taken_locks())
        end({EndReason::locks_missing,
             fmt::format("the guest has not locked and sealed its kernel within {} s; give it more with "
                         "--lock-deadline, or --locks allowed",
                         m_config.lock_deadline.count())});
}

Result<void> Machine::add_port_device(const layout::Ports& ports, std::unique_ptr<Device> device) {
    TRY(m_ports.add(ports.start, ports.count, *device, ports.name));
    m_devices.push_back(std::move(device));
    return {};
}

Result<void> Machine::add_platform_devices(SerialLine& console) {
    m_console_interrupt = m_interrupts->make_line(layout::com1_gsi);
    m_button_interrupt = m_interrupts->make_line(layout::power_button_gsi);
    m_serial = std::make_unique<Serial>(*m_console_interrupt, console);
    m_power_button = std::make_unique<PowerButton>(*m_button_interrupt);
    TRY(m_ports.add(layout::com1_ports.start, layout::com1_ports.count, *m_serial, layout::com1_ports.name));

    const auto power_off = [this] { end({EndReason::power_off, "the guest powered off"}); };
    const auto reset = [this] { end({EndReason::reboot, "the guest asked for a reboot"}); };
    const auto panic = [this] { end({EndReason::guest_panic, "the guest kernel panicked"}); };
    TRY(add_port_device(layout::rtc_ports, std::make_unique<Rtc>()));
    TRY(add_port_device(layout::pvpanic_ports, std::make_unique<Pvpanic>(panic)));
    TRY(add_port_device(layout::sleep_ports,
                        std::make_unique<SleepRegisters>(layout::soft_off_sleep_type, power_off)));
    TRY(add_port_device(layout::reset_ports, std::make_unique<ResetControl>(reset)));
    TRY(add_port_device(layout::keyboard_ports, std::make_unique<KeyboardController>(reset)));
    return ignore_legacy_configuration();
}

// A write that nothing decodes can end in KVM. Only of all four bytes: the reset register is one of them.
Result<void> Machine::ignore_legacy_configuration() {
    m_ignored_writes = TRY(create_event());
    return m_vm.attach_doorbell({.address = layout::legacy_config_ports.start,
                                 .length = layout::legacy_config_ports.count,
                                 .port = true},
                                m_ignored_writes.get());
}

Result<void> Machine::add_virtio(std::unique_ptr<virtio::VirtioDevice> device) {
    // One vector for configuration changes and one a queue.
    const auto vectors = static_cast<uint32_t>(1 + device->queue_sizes().size());
    m_messages.push_back(TRY(m_interrupts->make_messages(vectors)));
    m_virtio_devices.push_back(std::move(device));
    m_transports.push_back(TRY(virtio::PciTransport::create(*m_virtio_devices.back(), m_memory, m_loop,
                                                            *m_messages.back(), m_doorbells, m_log)));
    TRY(m_pci.add(*m_transports.back()));
    return {};
}

Result<void> Machine::add_virtio_devices() {
    TRY(m_mmio.add(layout::ecam.start.value, layout::ecam.bytes, m_pci, layout::ecam.name));
    for (size_t i = 0; i < m_config.disks.size(); ++i) {
        const virtio::Blk::Options options{.path = m_config.disks[i].path,
                                           .read_only = m_config.disks[i].read_only,
                                           .name = fmt::format("disk{}", i)};
        auto disk = TRY(virtio::Blk::create(options, m_memory, m_loop, m_log));
        TRY(add_virtio(std::move(disk)));
    }
    for (size_t i = 0; i < m_config.nets.size(); ++i) {
        const virtio::Net::Options options{.interface = m_config.nets[i].tap,
                                           .mac = m_config.nets[i].mac,
                                           .mtu = m_config.nets[i].mtu,
                                           .name = fmt::format("net{}", i)};
        auto net = TRY(virtio::Net::create(options, m_memory, m_loop, m_log));
        TRY(add_virtio(std::move(net)));
    }
    return add_virtio(std::make_unique<virtio::Rng>(m_memory));
}

// Reads of configuration space need no exit then; writes still exit, as they do without KVM_CAP_READONLY_MEM.
Result<void> Machine::show_pci_configuration() {
    if (m_vm.check_extension(KVM_CAP_READONLY_MEM) == 0)
        return {};
    m_config_image = TRY(ConfigImage::create(m_pci.slots_taken()));
    m_pci.show_in(*m_config_image, [this] {
        if (const auto done = m_vm.set_memory_slot(ecam_slot, layout::ecam.start, 0, nullptr); !done)
            end({EndReason::host_failure, done.error().message()});
    });
    const std::span<const std::byte> image = m_config_image->bytes();
    return m_vm.set_memory_slot(ecam_slot, layout::ecam.start, image.size(), image.data(), KVM_MEM_READONLY);
}

Result<void> Machine::create_vcpus(const System& system) {
    const auto supported = TRY(system.supported_cpuid());
    CpuidOptions options{.cpus = m_config.cpus,
                         .tsc_deadline_timer = system.check_extension(KVM_CAP_TSC_DEADLINE_TIMER) != 0,
                         .locks = m_locks_offered,
                         .brand = host_brand()};
    std::vector<kvm_msr_entry> msrs(firmware_msrs.begin(), firmware_msrs.end());
    // KVM's own is no processor's; guests choose by it what to work around.
    if (const auto revision = system.feature_msr(microcode_revision_msr).value_or(0); revision != 0)
        msrs.push_back({.index = microcode_revision_msr, .reserved = 0, .data = revision});
    for (options.cpu = 0; options.cpu < m_config.cpus; ++options.cpu) {
        Vcpu vcpu = TRY(m_vm.create_vcpu(options.cpu));
        options.tsc_khz = vcpu.tsc_khz();
        TRY(vcpu.set_cpuid(make_cpuid(supported, options)));
        TRY(vcpu.set_msrs(msrs));
        TRY(m_management.set_up(vcpu));
        m_vcpus.push_back(std::move(vcpu));
    }
    return {};
}

Result<void> Machine::hand_over_to(const LoadedGuest& guest) {
    const LoadedKernel& kernel = guest.kernel;
    BootHandover handover{.command_line = m_config.command_line, .initrd = guest.initrd};
    handover.rsdp = TRY(write_acpi_tables(m_memory, {.cpus = m_config.cpus}));
    TRY(write_zero_page(m_memory, kernel, handover));
    TRY(write_entry_tables(m_memory));

    const Vcpu& boot_vcpu = m_vcpus.front();
    kvm_sregs registers = TRY(boot_vcpu.system_registers());
    set_entry_state(registers);
    TRY(boot_vcpu.set_system_registers(registers));
    return boot_vcpu.set_registers(entry_registers(kernel.entry));
}

Result<void> Machine::start() {
    m_events.write("machine_started", {{"kernel", m_config.kernel},
                                       {"memory_bytes", m_config.memory_bytes},
                                       {"cpus", uint64_t{m_config.cpus}},
                                       {"locks", std::string(name_of(m_config.locks))},
                                       {"locks_offered", m_locks_offered},
                                       {"protection", m_protection->name()}});
    if (m_config.locks == LockMode::required)
        m_watch->check_lock_deadline_after(m_config.lock_deadline);
    VcpuKicks::install_handler();
    try {
        start_threads();
    } catch (const std::system_error& failure) {
        stop_threads();
        report_end(
            {.reason = EndReason::host_failure, .detail = "the machine's threads could not be started"});
        return fail(Error::system("start the machine's threads", failure.code().value())
                        .hint("raise the limit on processes"));
    }
    m_throwaway.reset();
    return {};
}

void Machine::start_threads() {
    m_watch->start();
    m_io_thread = std::thread([this] { m_loop.run(); });
    pthread_setname_np(m_io_thread.native_handle(), "io");
    for (const Vcpu& vcpu : m_vcpus) {
        m_vcpu_threads.emplace_back([this, &vcpu] {
            m_kicks.enter(vcpu);
            const VcpuContext context{m_ports, m_mmio,  m_memory, *m_guard,
                                      m_kicks, m_pause, m_clock,  m_stopping};
            if (auto reason = run_vcpu(vcpu, context))
                end(std::move(*reason));
            m_kicks.leave(vcpu);
        });
        pthread_setname_np(m_vcpu_threads.back().native_handle(),
                           fmt::format("vcpu{}", vcpu.index()).c_str());
    }
}

void Machine::end(MachineEnd reason) {
    const std::lock_guard lock(m_end_mutex);
    if (m_end)
        return;
    m_end = std::move(reason);
    m_end_time = Watch::Clock::now();
    m_ending.request_stop();
    signal_event(m_ended);
}

void Machine::press_power_button() {
    m_power_button->press();
}

MachineEnd Machine::wait() {
    pollfd ended{.fd = m_ended.get(), .events = POLLIN, .revents = 0};
    while (poll(&ended, 1, -1) < 0 && errno == EINTR) {
    }
    stop_threads();
    const std::lock_guard lock(m_end_mutex);
    MachineEnd end = m_end.value_or(MachineEnd{});
    const bool orderly = end.reason == EndReason::power_off || end.reason == EndReason::reboot;
    if (m_config.locks == LockMode::required && orderly && !m_guard->has_taken_locks())
        end = {EndReason::locks_missing, "the guest ended before it had locked and sealed its kernel"};
    report_end(end);
    end.events_lost = m_events.loss();
    return end;
}

// From when the end was decided until no thread works for the guest any more.
uint64_t Machine::end_microseconds() const {
    const Watch::Clock::time_point decided = m_end_time;
    if (decided == Watch::Clock::time_point{})
        return 0;
    const auto since = Watch::Clock::now() - decided;
    return static_cast<uint64_t>(std::chrono::duration_cast<std::chrono::microseconds>(since).count());
}

void Machine::report_end(const MachineEnd& end) {
    const ExitStatus& status = exit_status(end.reason);
    const Guard::Counts counts = m_guard->counts();
    m_events.write("machine_ended", {{"reason", std::string(status.name)},
                                     {"status", static_cast<uint64_t>(status.status)},
                                     {"detail", end.detail},
                                     {"hypercalls", counts.hypercalls},
                                     {"locks", counts.locks},
                                     {"locked_bytes", counts.locked_bytes},
                                     {"violations", counts.violations},
                                     {"root_checks", counts.root_checks},
                                     {"verified_tables", counts.verified_tables},
                                     {"verifications", counts.verifications},
                                     {"verification_microseconds", counts.verification_microseconds},
                                     {"root_writes", counts.root_writes},
                                     {"root_clears", counts.root_clears},
                                     {"shadow_drops", counts.shadow_drops},
                                     {"unexplained_faults", counts.unexplained_faults},
                                     {"audits", counts.audits},
                                     {"vcpu_restarts", counts.restarts},
                                     {"vcpu_restart_microseconds", counts.restart_microseconds},
                                     {"audit_microseconds", counts.audit_microseconds},
                                     {"audit_latest_microseconds", counts.audit_latest_microseconds},
                                     {"end_microseconds", end_microseconds()},
                                     {"extra_memory_slots", uint64_t{m_protection->extra_memory_slots()}},
                                     {"events_dropped", m_events.dropped()}});
}

void Machine::stop_threads() {
    m_stopping = true;
    m_ending.request_stop();
    if (m_watch)
        m_watch->stop();
    for (const Vcpu& vcpu : m_vcpus)
        m_kicks.kick(vcpu);
    for (std::thread& thread : m_vcpu_threads)
        thread.join();
    m_vcpu_threads.clear();
    m_loop.stop();
    if (m_io_thread.joinable())
        m_io_thread.join();
}

Machine::~Machine() {
    stop_threads();
}

} // namespace casemate
