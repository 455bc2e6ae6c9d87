// SPDX-License-Identifier: Apache-2.0
#include "machine/config_check.hpp"

#include "devices/pci_host.hpp"

#include <cerrno>
#include <fmt/core.h>
#include <span>
#include <sys/stat.h>
#include <unistd.h>
#include <utility>
#include <vector>

namespace casemate {
namespace {

// A file by what it is, whatever its name. A block device has several nodes.
struct Identity {
    bool known = false;
    bool missing = false;
    bool block = false;
    dev_t device = 0;
    ino_t inode = 0;

    static Identity of(const std::string& path) {
        struct stat status{};
        if (path.empty())
            return {};
        if (stat(path.c_str(), &status) != 0)
            return {.missing = errno == ENOENT};
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

// What may be wrong with the name of a disk that is not there: one with a comma may be a wrong option.
Result<void> check_missing_disk(const DiskConfig& disk) {
    const size_t comma = disk.path.rfind(',');
    const Error missing = Error::system("disk image " + disk.path, ENOENT).blame(Blame::usage);
    if (comma != std::string::npos && exists(disk.path.substr(0, comma)))
        return fail(Error(missing).hint(
            fmt::format("only ,ro may follow the name of a disk, as in {},ro", disk.path.substr(0, comma))));
    if (disk.read_only && exists(disk.path + ",ro"))
        return fail(Error(missing).hint(
            fmt::format("a file whose name ends in ,ro is given read-only, as in {},ro,ro", disk.path)));
    return {};
}

// The disks' identities.
Result<std::vector<Identity>> check_disks(const Config& config) {
    std::vector<Identity> identities;
    for (size_t i = 0; i < config.disks.size(); ++i) {
        const DiskConfig& disk = config.disks[i];
        identities.push_back(Identity::of(disk.path));
        if (identities[i].missing)
            TRY(check_missing_disk(disk));
        for (size_t j = 0; j < i; ++j) {
            const DiskConfig& other = config.disks[j];
            if (identities[j].same(identities[i]) && !(disk.read_only && other.read_only))
                return fail(Error::usage(disk.path == other.path
                                             ? fmt::format("disk image {} is there twice", disk.path)
                                             : fmt::format("disk images {} and {} are the same file",
                                                           other.path, disk.path))
                                .hint("two disks may share a file if both are read-only"));
        }
    }
    return identities;
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

Result<void> check_events(const Config& config, std::span<const Identity> disks) {
    const Identity events = Identity::of(config.events_path);
    if (!events.known)
        return {};
    const auto check = [&](const char* what, const std::string& path, const Identity& other) -> Result<void> {
        if (!events.same(other))
            return {};
        return fail(Error::usage(fmt::format("events would go into {}, {}", path, what))
                        .hint("name another file for them"));
    };
    TRY(check("the kernel", config.kernel, Identity::of(config.kernel)));
    TRY(check("the initrd", config.initrd, Identity::of(config.initrd)));
    TRY(check("the symbols", config.symbols_path, Identity::of(config.symbols_path)));
    for (size_t i = 0; i < disks.size(); ++i)
        TRY(check("a disk", config.disks[i].path, disks[i]));
    return {};
}

} // namespace

Result<void> check_config(const Config& config) {
    TRY(check_number_of_devices(config));
    const auto disks = TRY(check_disks(config));
    TRY(check_nets(config));
    return check_events(config, disks);
}

} // namespace casemate
