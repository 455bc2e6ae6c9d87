// SPDX-License-Identifier: Apache-2.0
#include "machine/config_check.hpp"

#include "base/fd.hpp"
#include "base/file_kind.hpp"
#include "devices/pci_host.hpp"

#include <algorithm>
#include <array>
#include <cerrno>
#include <fcntl.h>
#include <fmt/core.h>
#include <sys/stat.h>
#include <unistd.h>
#include <utility>

namespace casemate {
namespace {

// A file by what it is, whatever its name. A block device has several nodes.
struct Identity {
    bool known = false;
    bool block = false;
    dev_t device = 0;
    ino_t inode = 0;

    static Identity of(const std::string& path) {
        struct stat status{};
        if (path.empty() || stat(path.c_str(), &status) != 0)
            return {};
        if (S_ISBLK(status.st_mode))
            return {.known = true, .block = true, .device = status.st_rdev};
        return {.known = S_ISREG(status.st_mode), .device = status.st_dev, .inode = status.st_ino};
    }
    bool same(const Identity& other) const {
        return known && other.known && block == other.block && device == other.device && inode == other.inode;
    }
};

Result<void> check_number_of_devices(const Config& config) {
    constexpr size_t most = PciHost::max_slots - 2; // the host bridge, the entropy device
    const size_t devices = config.disks.size() + config.nets.size();
    if (devices > most)
        return fail(Error::usage(
            fmt::format("{} disks and network devices: the PCI bus has room for {}", devices, most)));
    return {};
}

bool exists(const std::string& path) {
    return access(path.c_str(), F_OK) == 0;
}

// A name with a comma is either a file's or a wrong option.
Result<void> check_disk_name(const DiskConfig& disk) {
    const size_t comma = disk.path.rfind(',');
    if (exists(disk.path) || errno != ENOENT)
        return {};
    const Error missing = Error::system("disk image " + disk.path, ENOENT).blame(Blame::usage);
    if (comma != std::string::npos && exists(disk.path.substr(0, comma)))
        return fail(Error(missing).hint(
            fmt::format("only ,ro may follow the name of a disk, as in {},ro", disk.path.substr(0, comma))));
    if (disk.read_only && exists(disk.path + ",ro"))
        return fail(Error(missing).hint(
            fmt::format("a file whose name ends in ,ro is given read-only, as in {},ro,ro", disk.path)));
    return {};
}

Result<void> check_disks(const Config& config) {
    std::vector<Identity> seen;
    for (size_t i = 0; i < config.disks.size(); ++i) {
        const DiskConfig& disk = config.disks[i];
        TRY(check_disk_name(disk));
        const Identity identity = Identity::of(disk.path);
        for (size_t j = 0; j < i; ++j) {
            const DiskConfig& other = config.disks[j];
            if (seen[j].same(identity) && !(disk.read_only && other.read_only))
                return fail(Error::usage(disk.path == other.path
                                             ? fmt::format("disk image {} is there twice", disk.path)
                                             : fmt::format("disk images {} and {} are the same file",
                                                           other.path, disk.path))
                                .hint("two disks may share a file if both are read-only"));
        }
        seen.push_back(identity);
    }
    return {};
}

Result<void> check_nets(const Config& config) {
    for (size_t i = 0; i < config.nets.size(); ++i)
        for (size_t j = 0; j < i; ++j) {
            if (config.nets[i].tap == config.nets[j].tap)
                return fail(Error::usage(fmt::format("tap interface {} is there twice", config.nets[i].tap))
                                .hint("give each network device its own"));
            if (config.nets[i].mac && config.nets[i].mac == config.nets[j].mac)
                return fail(Error::usage(fmt::format("tap interfaces {} and {} have the same mac=",
                                                     config.nets[j].tap, config.nets[i].tap))
                                .hint("give each network device its own, or leave it out"));
        }
    return {};
}

Result<void> check_events(const Config& config) {
    const Identity events = Identity::of(config.events_path);
    std::vector<std::pair<const char*, std::string>> others{
        {"the kernel", config.kernel}, {"the initrd", config.initrd}, {"the symbols", config.symbols_path}};
    for (const DiskConfig& disk : config.disks)
        others.emplace_back("a disk", disk.path);
    for (const auto& [what, path] : others)
        if (events.same(Identity::of(path)))
            return fail(Error::usage(fmt::format("events would go into {}, {}", path, what))
                            .hint("name another file for them"));
    return {};
}

// Every disk is raw, and what a guest wrote to its first sector must not keep it from its next start: so this
// is said, and no reason to refuse.
void tell_disk_format(const DiskConfig& disk, const Log& log) {
    if (!Identity::of(disk.path).known)
        return;
    const auto file = open_file(disk.path.c_str(), O_RDONLY | O_NONBLOCK | O_NOCTTY);
    std::array<std::byte, file_kind_start_bytes> buffer;
    const ssize_t got = file ? pread(file->get(), buffer.data(), buffer.size(), 0) : -1;
    if (got <= 0)
        return;
    const auto kind = file_kind(std::span(buffer).first(static_cast<size_t>(got)));
    if (!kind)
        return;
    if (kind->family == FileKind::Family::disk_format)
        log.host(
            fmt::format("disk image {} begins as {}, and the guest gets its bytes as they are; if you mean "
                        "the disk in it: qemu-img convert -O raw {} RAW",
                        disk.path, kind->what, disk.path));
    else if (kind->family == FileKind::Family::compressed)
        log.host(
            fmt::format("disk image {} begins as {}, and the guest gets its bytes as they are; if you mean "
                        "what is in it, unpack it first",
                        disk.path, kind->what));
}

} // namespace

Result<void> check_config(const Config& config, const Log& log) {
    TRY(check_number_of_devices(config));
    TRY(check_disks(config));
    TRY(check_nets(config));
    TRY(check_events(config));
    for (const DiskConfig& disk : config.disks)
        tell_disk_format(disk, log);
    return {};
}

} // namespace casemate
