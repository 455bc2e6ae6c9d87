// SPDX-License-Identifier: Apache-2.0
#include "devices/virtio/tap_device.hpp"

#include <cerrno>
#include <fcntl.h>
#include <fmt/format.h>
#include <linux/if_tun.h>
#include <net/if.h>
#include <sys/ioctl.h>

namespace casemate::virtio {
namespace {

constexpr int header_bytes = 12;

std::string how_to_create(const std::string& interface) {
    return fmt::format("create it: ip tuntap add dev {0} mode tap user $USER && ip link set {0} up",
                       interface);
}

Error attach_error(const std::string& interface, int number) {
    Error error = Error::system(fmt::format("attach to tap interface {}", interface), number);
    switch (number) {
    case EBUSY:
        return std::move(error).blame(Blame::usage).hint("another process uses it; give each guest its own");
    case EPERM:
        return std::move(error)
            .blame(Blame::usage)
            .hint("it belongs to another user; " + how_to_create(interface));
    case EINVAL:
        return std::move(error)
            .blame(Blame::usage)
            .hint("it is not a single-queue tap; " + how_to_create(interface));
    default:
        return error;
    }
}

} // namespace

Result<std::unique_ptr<TapDevice>> TapDevice::open(const std::string& interface) {
    if (interface.empty() || interface.size() >= IFNAMSIZ)
        return fail(Error::usage(
            fmt::format("tap interface \"{}\": a name has 1 to {} characters", interface, IFNAMSIZ - 1)));
    if (if_nametoindex(interface.c_str()) == 0)
        return fail(Error::system(fmt::format("find tap interface {}", interface), errno)
                        .blame(Blame::usage)
                        .hint(how_to_create(interface)));
    auto tap = open_file("/dev/net/tun", O_RDWR | O_NONBLOCK);
    if (!tap)
        return fail(std::move(tap).error().hint("load the module (modprobe tun), or allow access to it"));

    ifreq request{};
    interface.copy(request.ifr_name, IFNAMSIZ - 1);
    request.ifr_flags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR;
    if (ioctl(tap->get(), TUNSETIFF, &request) != 0)
        return fail(attach_error(interface, errno));
    int bytes = header_bytes;
    if (ioctl(tap->get(), TUNSETVNETHDRSZ, &bytes) != 0)
        return fail(Error::system("ioctl TUNSETVNETHDRSZ", errno));
    std::unique_ptr<TapDevice> device(new TapDevice(*std::move(tap)));
    // An earlier user's offloads outlive it.
    TRY(device->set_offloads({}));
    return device;
}

Result<void> TapDevice::set_offloads(const Offloads& offloads) {
    unsigned flags = 0;
    if (offloads.checksum) {
        flags |= TUN_F_CSUM;
        flags |= offloads.tso4 ? TUN_F_TSO4 : 0U;
        flags |= offloads.tso6 ? TUN_F_TSO6 : 0U;
        flags |= offloads.ecn && (offloads.tso4 || offloads.tso6) ? TUN_F_TSO_ECN : 0U;
    }
    if (ioctl(m_tap.get(), TUNSETOFFLOAD, static_cast<unsigned long>(flags)) != 0)
        return fail(Error::system("ioctl TUNSETOFFLOAD", errno));
    return {};
}

ssize_t TapDevice::read(std::span<const iovec> vectors) {
    const ssize_t result = readv(m_tap.get(), vectors.data(), static_cast<int>(vectors.size()));
    return result < 0 ? -errno : result;
}

ssize_t TapDevice::write(std::span<const iovec> vectors) {
    const ssize_t result = writev(m_tap.get(), vectors.data(), static_cast<int>(vectors.size()));
    return result < 0 ? -errno : result;
}

} // namespace casemate::virtio
