// SPDX-License-Identifier: Apache-2.0
#include "probe/host_probe.hpp"

#include "firmware/probe_guests.hpp"
#include "kvm/vm.hpp"
#include "probe/guest.hpp"
#include "probe/speed.hpp"
#include "probe/watchdog.hpp"

#include <algorithm>
#include <array>
#include <cerrno>
#include <charconv>
#include <cpuid.h>
#include <cstdio>
#include <cstring>
#include <fcntl.h>
#include <fmt/core.h>
#include <linux/io_uring.h>
#include <memory>
#include <mutex>
#include <string_view>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <tuple>
#include <unistd.h>

namespace casemate {
namespace {

// A probe is a handful of instructions: even a host emulated at a few MIPS is done long before.
constexpr std::chrono::milliseconds probe_limit{1000};

// The contents of a small file of /sys or /proc without the newline; empty when it cannot be read.
std::string read_line(const std::string& path) {
    const auto file = open_file(path.c_str(), O_RDONLY);
    std::array<char, 128> buffer{};
    const ssize_t bytes = file ? read(file->get(), buffer.data(), buffer.size()) : -1;
    const std::string_view text(buffer.data(), bytes > 0 ? static_cast<size_t>(bytes) : 0);
    return std::string(text.substr(0, text.find('\n')));
}

// Which module drives KVM, with the parameters that decide about locked page tables.
std::string find_module(KvmKind kind) {
    struct Module {
        const char* name;
        KvmKind kind;
        std::array<const char*, 2> parameters;
    };
    constexpr std::array modules{Module{"kvm_intel", KvmKind::vmx, {"ept", "eptad"}},
                                 Module{"kvm_amd", KvmKind::svm, {"npt", nullptr}},
                                 Module{"kvm_pvm", KvmKind::software, {nullptr, nullptr}}};
    for (const Module& module : modules) {
        // A kernel may have them all built in.
        if (module.kind != kind)
            continue;
        const std::string path = fmt::format("/sys/module/{}", module.name);
        if (access(path.c_str(), F_OK) != 0)
            continue;
        std::string parameters;
        for (const char* const name : module.parameters) {
            if (name == nullptr)
                continue;
            const std::string value = read_line(fmt::format("{}/parameters/{}", path, name));
            if (!value.empty())
                parameters += fmt::format("{}{}={}", parameters.empty() ? "" : ", ", name, value);
        }
        return parameters.empty() ? module.name : fmt::format("{} ({})", module.name, parameters);
    }
    return {};
}

// Whether the CPU can deny execution to the guest's kernel alone. SDM volume 3C, "Mode-Based Execute Control
// for EPT", which only the kernel can ask for; APM volume 2, "Guest Mode Execute Trap": CPUID 8000000Ah, EDX
// bit 17.
bool tells_rings_apart(KvmKind kind) {
    if (kind == KvmKind::svm) {
        unsigned a = 0;
        unsigned b = 0;
        unsigned c = 0;
        unsigned d = 0;
        return __get_cpuid(0x8000000a, &a, &b, &c, &d) != 0 && (d & (1U << 17U)) != 0;
    }
    const std::unique_ptr<FILE, int (*)(FILE*)> file(std::fopen("/proc/cpuinfo", "re"), std::fclose);
    std::array<char, 4096> line{};
    while (file && std::fgets(line.data(), static_cast<int>(line.size()), file.get()) != nullptr)
        if (std::string_view(line.data()).starts_with("vmx flags"))
            return std::string_view(line.data()).find(" mode_based_exec") != std::string_view::npos;
    return false;
}

// KVM patches the other vendor's instruction in the guest's text unless the quirk is off (KVM API,
// KVM_CAP_DISABLE_QUIRKS2), so the guest uses its own.
const std::byte* hypercall_entry() {
    unsigned leaf = 0;
    unsigned b = 0;
    unsigned c = 0;
    unsigned d = 0;
    __get_cpuid(0, &leaf, &b, &c, &d);
    const bool amd = b == signature_AMD_ebx || b == 0x6f677948 /* "Hygo"nGenuine */;
    return amd ? casemate_probe_vmmcall : casemate_probe_vmcall;
}

Result<void> probe_hypercall(const System& system, HostReport& report) {
    const std::shared_ptr<ProbeGuest> guest = TRY(ProbeGuest::create(system));
    constexpr uint64_t map_gpa_range = uint64_t{1} << KVM_HC_MAP_GPA_RANGE;
    // KVM API, KVM_CAP_EXIT_HYPERCALL: the capability's value is the mask of hypercalls that may exit.
    if ((static_cast<uint64_t>(guest->vm().check_extension(KVM_CAP_EXIT_HYPERCALL)) & map_gpa_range) == 0) {
        report.hypercall = HypercallReport::missing;
        return {};
    }
    TRY(guest->vm().enable_capability(KVM_CAP_EXIT_HYPERCALL, map_gpa_range));
    if ((guest->vm().check_extension(KVM_CAP_DISABLE_QUIRKS2) & KVM_X86_QUIRK_FIX_HYPERCALL_INSN) != 0)
        TRY(guest->vm().enable_capability(KVM_CAP_DISABLE_QUIRKS2, KVM_X86_QUIRK_FIX_HYPERCALL_INSN));
    kvm_regs registers{};
    registers.rax = KVM_HC_MAP_GPA_RANGE;
    registers.rbx = probe_layout::target.value;
    registers.rcx = 1;
    registers.rdx = 0xca5e000000000000; // the mark of a Casemate call: KVM must hand on any attribute bits
    TRY(guest->enter(hypercall_entry(), registers));
    const ProbeStop stop = TRY(run_probe(guest, probe_limit));
    if (stop.timed_out) {
        report.hypercall = HypercallReport::hangs;
        report.hypercall_note = stop.describe();
        return {};
    }
    const auto& call = stop.exit.hypercall;
    const bool exits = stop.error == 0 && stop.exit.exit_reason == KVM_EXIT_HYPERCALL &&
                       call.nr == KVM_HC_MAP_GPA_RANGE && call.args[0] == registers.rbx &&
                       call.args[1] == registers.rcx && call.args[2] == registers.rdx;
    report.hypercall = exits ? HypercallReport::exits : HypercallReport::silent;
    if (stop.al)
        report.hypercall_note = fmt::format("the guest got {} from it, without an exit",
                                            static_cast<int64_t>(stop.registers.rbx));
    else if (!exits)
        report.hypercall_note = "the guest died of it: " + stop.describe();
    return {};
}

constexpr uint64_t stored_value = 0x1122334455667788;

struct StoreOutcome {
    StoreReport report = StoreReport::none;
    std::string note;
};

// Lets the guest store to `address`, which is write-protected, and says what came of it. Unbounded.
Result<StoreOutcome> store_to(ProbeGuest& guest, GuestPhysical address) {
    uint64_t before = 0;
    const std::byte* const host = guest.memory().data() + address.value;
    std::memcpy(&before, host, sizeof(before));
    kvm_regs registers{};
    registers.rdi = address.value;
    registers.rsi = stored_value;
    TRY(guest.enter(casemate_probe_store, registers));
    const ProbeStop stop = TRY(guest.run_here());
    if (stop.timed_out)
        return StoreOutcome{StoreReport::none, stop.describe()};
    uint64_t after = 0;
    std::memcpy(&after, host, sizeof(after));
    if (after != before)
        return StoreOutcome{StoreReport::none, "the store went through"};
    const uint64_t rip = stop.registers.rip;
    if (stop.error == EFAULT && rip == ProbeGuest::address_of(casemate_probe_store)) {
        const bool told = stop.exit.exit_reason == KVM_EXIT_MEMORY_FAULT &&
                          memory_fault(stop.exit).flags == kvm_memory_fault_write &&
                          memory_fault(stop.exit).gpa == address.value;
        return StoreOutcome{told ? StoreReport::told_at_store : StoreReport::efault_at_store, {}};
    }
    const bool is_store_exit = stop.error == 0 && stop.exit.exit_reason == KVM_EXIT_MMIO &&
                               stop.exit.mmio.is_write != 0 && stop.exit.mmio.phys_addr == address.value;
    if (is_store_exit && rip == ProbeGuest::address_of(casemate_probe_store_done))
        return StoreOutcome{StoreReport::mmio_past_store, {}};
    return StoreOutcome{
        StoreReport::none,
        fmt::format("{}, RIP {:+d} bytes from the store", stop.describe(),
                    static_cast<int64_t>(rip - ProbeGuest::address_of(casemate_probe_store)))};
}

// A report that grows while its thread may be left behind.
class GrowingReport {
public:
    // What is true if nothing more comes.
    void publish(const ProtectionReport& report, Result<void> done = {}) {
        const std::lock_guard lock(m_mutex);
        m_report = report;
        m_done = std::move(done);
    }
    Result<void> copy_to(ProtectionReport& report) const {
        const std::lock_guard lock(m_mutex);
        report = m_report;
        return m_done;
    }

private:
    mutable std::mutex m_mutex; // guards all below
    ProtectionReport m_report;
    Result<void> m_done;
};

Result<void> probe_store(ProbeGuest& guest, ProtectionReport& report, GrowingReport& published) {
    ProtectionReport hung = report;
    hung.store = StoreReport::none;
    hung.store_note = ProbeStop{.timed_out = true}.describe();
    published.publish(hung);
    TRY(guest.protect(GuestRange::of(probe_layout::target, page_bytes)));
    const StoreOutcome outcome = TRY(store_to(guest, probe_layout::target));
    report.store = outcome.report;
    report.store_note = outcome.note;
    return {};
}

Result<void> probe_walk(ProbeGuest& guest, ProtectionReport& report, GrowingReport& published) {
    TRY(guest.protect(GuestRange::of(probe_layout::tables, probe_layout::tables_bytes)));
    ProtectionReport hung = report;
    hung.walk.tested = true;
    hung.walk_note = ProbeStop{.timed_out = true}.describe();
    published.publish(hung);
    uint64_t expected = 0;
    std::memcpy(&expected, guest.memory().data() + probe_layout::target.value, sizeof(expected));
    kvm_regs registers{};
    registers.rdi = probe_layout::target.value;
    registers.rbx = ~expected;
    TRY(guest.enter(casemate_probe_walk, registers));
    const ProbeStop stop = TRY(guest.run_here());
    report.walk.tested = true;
    report.walk.tolerated = !stop.timed_out && stop.al == 1 && stop.registers.rbx == expected;
    if (!report.walk.tolerated) {
        report.walk_note = stop.describe();
        return {};
    }
    hung.walk.tolerated = true;
    published.publish(hung);
    // An entry that nothing uses: were the store to go through, the guest would not feel it.
    const GuestPhysical unused_entry{probe_layout::tables.value + page_bytes - sizeof(uint64_t)};
    const StoreOutcome outcome = TRY(store_to(guest, unused_entry));
    report.walk.store_caught = outcome.report != StoreReport::none;
    report.walk_note = outcome.note;
    return {};
}

// What fails leaves its answer's default: untested, not tolerated.
Result<void> probe_protection(const System& system, std::span<const ProtectionKind> kinds,
                              ProtectionTrial& trial) {
    auto guest = ProbeGuest::create(system, kinds);
    if (!guest) {
        if (guest.error().is_limit())
            return fail(std::move(guest).error());
        trial.report.store = StoreReport::missing;
        trial.report.store_note = guest.error().message();
        return {};
    }
    trial.throwaway = *guest;
    // All runs on one thread: once the watchdog's signal is pending there, none of them lasts.
    const auto published = std::make_shared<GrowingReport>();
    const auto probe = [guest = *guest, published] {
        ProtectionReport found;
        auto done = probe_store(*guest, found, *published);
        if (done && stops_stores(found))
            done = probe_walk(*guest, found, *published);
        published->publish(found, std::move(done));
    };
    TRY(run_bounded(probe, probe_limit, interrupt_grace));
    return published->copy_to(trial.report);
}

Result<void> probe_protections(const System& system, HostReport& report) {
    for (const ProtectionKind kind : protection_kinds) {
        ProtectionTrial trial;
        TRY(probe_protection(system, {&kind, 1}, trial));
        protection_report(report, kind) = trial.report;
    }
    return {};
}

Result<void> probe_msr_filter(const System& system, HostReport& report) {
    const std::shared_ptr<ProbeGuest> guest = TRY(ProbeGuest::create(system));
    report.msr_filter = false;
    if (guest->vm().check_extension(KVM_CAP_X86_MSR_FILTER) == 0 ||
        guest->vm().check_extension(KVM_CAP_X86_USER_SPACE_MSR) == 0) {
        report.msr_filter_note = "KVM does not offer it";
        return {};
    }
    TRY(guest->vm().enable_capability(KVM_CAP_X86_USER_SPACE_MSR, KVM_MSR_EXIT_REASON_FILTER));
    constexpr uint32_t lstar = 0xc0000082; // SDM volume 4, "MSRs": where SYSCALL goes
    std::array<uint8_t, 8> none_allowed{};
    kvm_msr_filter filter{};
    filter.flags = KVM_MSR_FILTER_DEFAULT_ALLOW;
    filter.ranges[0].flags = KVM_MSR_FILTER_WRITE;
    filter.ranges[0].base = lstar;
    filter.ranges[0].nmsrs = 1;
    filter.ranges[0].bitmap = none_allowed.data();
    if (guest->vm().raw_ioctl(KVM_X86_SET_MSR_FILTER, &filter) != 0)
        return fail(Error::system("KVM_X86_SET_MSR_FILTER", errno));
    kvm_regs registers{};
    registers.rcx = lstar;
    registers.rax = probe_layout::code.value;
    TRY(guest->enter(casemate_probe_wrmsr, registers));
    const ProbeStop stop = TRY(run_probe(guest, probe_limit));
    if (stop.timed_out) {
        report.msr_filter_note = stop.describe();
        return {};
    }
    report.msr_filter = stop.error == 0 && stop.exit.exit_reason == KVM_EXIT_X86_WRMSR &&
                        stop.exit.msr.index == lstar && stop.exit.msr.data == registers.rax;
    if (!*report.msr_filter)
        report.msr_filter_note = stop.describe();
    return {};
}

Result<void> probe_capabilities(const System& system, HostReport& report) {
    // Asked of a VM: /dev/kvm answers for VM types that are never used here.
    const Vm vm = TRY(system.create_vm());
    report.attributes = vm.memory_attributes();
    report.guest_memfd = vm.check_extension(KVM_CAP_GUEST_MEMFD) != 0;
    report.guest_memfd_flags = static_cast<uint64_t>(vm.check_extension(KVM_CAP_GUEST_MEMFD_FLAGS));
    report.tsc_deadline = system.check_extension(KVM_CAP_TSC_DEADLINE_TIMER) != 0;
    return {};
}

void probe_speed(const System& system, HostReport& report) {
    const auto ratio = measure_speed_ratio(system);
    if (ratio) {
        report.speed = {.ratio = *ratio, .useful = *ratio <= highest_useful_ratio};
        return;
    }
    report.probe_note = ratio.error().message();
}

void probe_kvm(HostReport& report) {
    const auto system = System::open();
    if (!system) {
        const int number = system.error().number();
        report.access_error = system.error().message();
        report.access = number == EACCES || number == EPERM ? KvmAccess::denied
                        : number == 0                       ? KvmAccess::wrong_version
                                                            : KvmAccess::absent;
        return;
    }
    report.access = KvmAccess::open;
    probe_speed(*system, report);
    using Probe = Result<void> (*)(const System&, HostReport&);
    for (const Probe probe : {probe_capabilities, probe_hypercall, probe_protections, probe_msr_filter}) {
        // What a failed probe leaves is its answer's default: untested.
        const auto done = probe(*system, report);
        if (!done && report.probe_note.empty())
            report.probe_note = done.error().message();
    }
}

// linux v6.10 mm/mseal.c: do_mseal: a range of no bytes seals nothing and succeeds.
bool has_mseal() {
    constexpr long mseal_number = 462; // Debian 12's headers do not name it
    return syscall(mseal_number, nullptr, size_t{0}, 0UL) == 0;
}

HugePages probe_huge_pages() {
    const std::string setting = read_line("/sys/kernel/mm/transparent_hugepage/enabled");
    if (setting.empty() || setting.find("[never]") != std::string::npos)
        return HugePages::never;
    constexpr uint64_t huge_page_bytes = 2_MiB;
    const auto mapping = Mapping::anonymous(huge_page_bytes, huge_page_bytes);
    if (!mapping)
        return HugePages::offered;
    madvise(mapping->data(), mapping->size(), MADV_HUGEPAGE);
    *mapping->data() = std::byte{1};
    // One touched byte makes the last page resident only when both lie in one huge page.
    unsigned char resident = 0;
    if (mincore(mapping->data() + huge_page_bytes - page_bytes, page_bytes, &resident) != 0)
        return HugePages::offered;
    return (resident & 1U) != 0 ? HugePages::got : HugePages::offered;
}

int io_uring_setup_error() {
    io_uring_params parameters{};
    const Fd ring(static_cast<int>(syscall(SYS_io_uring_setup, 1U, &parameters)));
    return ring ? 0 : errno;
}

std::optional<int> io_uring_policy() {
    const std::string text = read_line("/proc/sys/kernel/io_uring_disabled");
    int value = 0;
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
    return error == std::errc() ? std::optional(value) : std::nullopt;
}

} // namespace

Result<ProtectionTrial> try_protection(const System& system, std::span<const ProtectionKind> kinds) {
    ProtectionTrial trial;
    auto done = probe_protection(system, kinds, trial);
    if (!done && done.error().is_limit())
        return fail(Error("try out the protection of memory").because_of(std::move(done).error()));
    return trial;
}

HostReport probe_host() {
    HostReport report;
    report.kind = hardware_kind();
    report.module = find_module(report.kind);
    report.cpu_tells_rings_apart = tells_rings_apart(report.kind);
    probe_kvm(report);
    report.mseal = has_mseal();
    report.huge_pages = probe_huge_pages();
    report.io_uring_error = io_uring_setup_error();
    report.io_uring_policy = io_uring_policy();
    return report;
}

} // namespace casemate
