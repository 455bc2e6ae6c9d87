// SPDX-License-Identifier: Apache-2.0
// A network's tasks. Each end tells the time of a transfer by its own clock: the sender until the other end
// has taken everything, the receiver until it has everything.
#include "io.hpp"

#include <algorithm>
#include <arpa/inet.h>
#include <array>
#include <cstddef>
#include <cstdint>
#include <ctime>
#include <netinet/in.h>
#include <netinet/ip_icmp.h>
#include <span>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>
#include <vector>

namespace io {
namespace {

constexpr uint16_t port = 5000;
constexpr size_t piece = 1U << 16U;

sockaddr_in address_of(const char* text, uint16_t at_port) {
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_port = htons(at_port);
    if (inet_pton(AF_INET, text, &address.sin_addr) != 1)
        fail("'%s' is no IPv4 address", text);
    return address;
}

// A system call's answer about bytes; 0 is the end that the other side has made.
size_t some(const char* call, ssize_t count) {
    return static_cast<size_t>(must(call, count));
}

void send_all(int connection, uint64_t bytes) {
    std::byte* const memory = buffer(piece);
    for (uint64_t left = bytes; left != 0;)
        left -= some("send", send(connection, memory, std::min<uint64_t>(left, piece), MSG_NOSIGNAL));
    must("shutdown", shutdown(connection, SHUT_WR));
    check(some("recv", recv(connection, memory, piece, 0)) == 0, "the receiver sent something");
}

void receive_all(int connection, uint64_t bytes) {
    std::byte* const memory = buffer(piece);
    uint64_t have = 0;
    while (const size_t count = some("recv", recv(connection, memory, piece, 0)))
        have += count;
    if (have != bytes)
        fail("%llu of %llu bytes", static_cast<unsigned long long>(have),
             static_cast<unsigned long long>(bytes));
}

void transfer(const char* name, int connection, Way way, uint64_t bytes) {
    {
        const Timed timed(name);
        if (way == Way::send)
            send_all(connection, bytes);
        else
            receive_all(connection, bytes);
    }
    close(connection);
}

// An ICMP echo request, RFC 792, in network byte order.
using Echo = std::array<uint8_t, 64>;

// RFC 1071
uint16_t checksum(const Echo& echo) {
    uint32_t sum = 0;
    for (size_t i = 0; i < echo.size(); i += 2)
        sum += static_cast<uint32_t>(echo[i] << 8U | echo[i + 1]);
    while (sum > 0xffff)
        sum = (sum & 0xffff) + (sum >> 16U);
    return static_cast<uint16_t>(~sum);
}

void put(Echo& echo, size_t offset, uint16_t value) {
    echo[offset] = static_cast<uint8_t>(value >> 8U);
    echo[offset + 1] = static_cast<uint8_t>(value & 0xffU);
}

Echo request(uint16_t id, uint16_t sequence) {
    Echo echo{ICMP_ECHO};
    put(echo, 4, id);
    put(echo, 6, sequence);
    put(echo, 2, checksum(echo));
    return echo;
}

// Whether an IP packet is the answer to the request: the same identifier and sequence number.
bool answers(std::span<const uint8_t> packet, const Echo& echo) {
    const size_t header = packet.empty() ? 0 : (packet[0] & 0xfU) * size_t{4};
    return packet.size() >= header + 8 && packet[header] == ICMP_ECHOREPLY &&
           std::equal(&echo[4], &echo[8], &packet[header + 4]);
}

} // namespace

void tcp_listen(const char* name, Way way, uint64_t bytes) {
    const int listener = must("socket", socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    const int on = 1;
    must("SO_REUSEADDR", setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on));
    const sockaddr_in address = address_of("0.0.0.0", port);
    must("bind", bind(listener, reinterpret_cast<const sockaddr*>(&address), sizeof address));
    must("listen", listen(listener, 1));
    const int connection = must("accept", accept4(listener, nullptr, nullptr, SOCK_CLOEXEC));
    close(listener);
    transfer(name, connection, way, bytes);
}

void tcp_connect(const char* name, const char* address, Way way, uint64_t bytes) {
    const int connection = must("socket", socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    const sockaddr_in there = address_of(address, port);
    must("connect", connect(connection, reinterpret_cast<const sockaddr*>(&there), sizeof there));
    transfer(name, connection, way, bytes);
}

void ping(const char* name, const char* address, uint64_t count) {
    const int socket_fd = must("socket", socket(AF_INET, SOCK_RAW | SOCK_CLOEXEC, IPPROTO_ICMP));
    const timeval patience{.tv_sec = 2, .tv_usec = 0};
    must("SO_RCVTIMEO", setsockopt(socket_fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience));
    const sockaddr_in there = address_of(address, 0);
    must("connect", connect(socket_fd, reinterpret_cast<const sockaddr*>(&there), sizeof there));
    const auto id = static_cast<uint16_t>(getpid());
    std::vector<double> times;
    // The first finds the other's Ethernet address and is not counted.
    for (uint64_t i = 0; i <= count; ++i) {
        const Echo echo = request(id, static_cast<uint16_t>(i));
        const double begin = now();
        must("send", send(socket_fd, echo.data(), echo.size(), 0));
        std::array<uint8_t, 1500> packet{};
        size_t bytes = 0;
        do
            bytes = some("no answer to a ping", recv(socket_fd, packet.data(), packet.size(), 0));
        while (!answers(std::span(packet).first(bytes), echo));
        if (i != 0)
            times.push_back((now() - begin) * 1e6);
        // Long enough for both ends to be idle again.
        const timespec pause{.tv_sec = 0, .tv_nsec = 5'000'000};
        (void)nanosleep(&pause, nullptr);
    }
    close(socket_fd);
    std::nth_element(times.begin(), times.begin() + static_cast<ptrdiff_t>(times.size() / 2), times.end());
    say(name, times[times.size() / 2]);
}

} // namespace io
