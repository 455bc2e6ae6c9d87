// SPDX-License-Identifier: Apache-2.0
#include "devices/virtio/tap_device.hpp"

#include <algorithm>
#include <cerrno>
#include <fcntl.h>
#include <fmt/format.h>
#include <linux/if_tun.h>
#include <net/if.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

namespace casemate::virtio {
namespace {

constexpr int header_bytes = 12;

std::string how_to_create(const std::string& interface) {
    return fmt::format("create it: ip tuntap add dev {0} mode tap user $USER && ip link set {0} up",
                       interface);
}

// For a name that another interface has.
std::string how_to_replace(const std::string& interface) {
    return fmt::format("take another name, or ip link delete {} and {}", interface, how_to_create(interface));
}

Error attach_error(const std::string& interface, int number) {
    Error error = Error::system(fmt::format("attach to tap interface {}", interface), number);
    switch (number) {
    case EBUSY:
        return std::move(error).blame(Blame::usage).hint("another process uses it; give each guest its own");
    case EPERM:
        return std::move(error)
            .blame(Blame::usage)
            .hint("it belongs to another user or group; " + how_to_replace(interface));
    case EINVAL:
        return std::move(error)
            .blame(Blame::usage)
            .hint("it is not a tap with a single queue; " + how_to_replace(interface));
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
    // Headers are little-endian (5.1.6); an earlier user's other choice outlives it, as do its offloads.
    int little_endian = 1;
    if (ioctl(tap->get(), TUNSETVNETLE, &little_endian) != 0)
        return fail(Error::system("ioctl TUNSETVNETLE", errno));
    std::unique_ptr<TapDevice> device(new TapDevice(*std::move(tap)));
    TRY(device->set_offloads({}));
    TRY(device->ask_interface(interface));
    return device;
}

Result<void> TapDevice::ask_interface(const std::string& interface) {
    // netdevice(7): any socket will do.
    const Fd socket_fd(socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0));
    if (!socket_fd)
        return fail(Error::system("socket", errno));
    const auto ask = [&](unsigned long request, const char* name) -> Result<ifreq> {
        ifreq answer{};
        interface.copy(answer.ifr_name, IFNAMSIZ - 1);
        if (ioctl(socket_fd.get(), request, &answer) != 0)
            return fail(Error::system(fmt::format("ioctl {} of {}", name, interface), errno));
        return answer;
    };
    const ifreq mtu = TRY(ask(SIOCGIFMTU, "SIOCGIFMTU"));
    m_mtu = static_cast<uint16_t>(std::clamp(mtu.ifr_mtu, 0, 0xffff));
    const ifreq flags = TRY(ask(SIOCGIFFLAGS, "SIOCGIFFLAGS"));
    m_up = (static_cast<unsigned>(flags.ifr_flags) & IFF_UP) != 0;
    return {};
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
