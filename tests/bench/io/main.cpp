// SPDX-License-Identifier: Apache-2.0
// bench-io TASK...: what the guests of tools/bench do with their disk and network, and what their host does
// at the other end of the network. Static: neither has libraries.
#include "io.hpp"

#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <span>
#include <string_view>
#include <termios.h>
#include <unistd.h>

namespace io {

double now() {
    timespec time{};
    must("clock_gettime", clock_gettime(CLOCK_MONOTONIC, &time));
    return static_cast<double>(time.tv_sec) + static_cast<double>(time.tv_nsec) / 1e9;
}

namespace {
void drain() {
    if (isatty(STDOUT_FILENO) != 0)
        (void)tcdrain(STDOUT_FILENO);
}
} // namespace

void say(const char* what, double value) {
    dprintf(STDOUT_FILENO, "bench: %s %.6f\n", what, value);
    drain();
}

Timed::Timed(const char* name, unsigned rounds)
    : m_name(name)
    , m_rounds(rounds) {
    dprintf(STDOUT_FILENO, "bench: begin %s\n", name);
    drain();
    m_begin = now();
}

Timed::~Timed() {
    const double end = now();
    dprintf(STDOUT_FILENO, "bench: end %s %u\nbench: %s_s %.6f\n", m_name, m_rounds, m_name,
            (end - m_begin) / m_rounds);
}

std::byte* buffer(size_t bytes) {
    void* memory = nullptr;
    errno = posix_memalign(&memory, 4096, bytes);
    if (errno != 0)
        fail_with_errno("%zu bytes of memory", bytes);
    std::memset(memory, 0x5a, bytes);
    return static_cast<std::byte*>(memory);
}

namespace {

constexpr const char* usage = "usage: bench-io reads FILE COUNT\n"
                              "       bench-io read|write FILE MIB\n"
                              "       bench-io listen NAME send|receive MIB\n"
                              "       bench-io connect NAME ADDRESS send|receive MIB\n"
                              "       bench-io ping NAME ADDRESS COUNT\n";

uint64_t number(const char* text) {
    char* end = nullptr;
    const uint64_t value = std::strtoull(text, &end, 10);
    if (value == 0 || value > 1'000'000 || *end != 0)
        fail("'%s' is not a number from 1 to 1000000", text);
    return value;
}

Way way(const char* text) {
    if (std::string_view(text) == "send")
        return Way::send;
    if (std::string_view(text) != "receive")
        fail("'%s' is neither send nor receive", text);
    return Way::receive;
}

bool run(std::span<char*> words) {
    const std::string_view task = words.empty() ? "" : words[0];
    if (task == "reads" && words.size() == 3)
        disk_reads(words[1], number(words[2]));
    else if (task == "read" && words.size() == 3)
        disk_read(words[1], number(words[2]) * mib);
    else if (task == "write" && words.size() == 3)
        disk_write(words[1], number(words[2]) * mib);
    else if (task == "listen" && words.size() == 4)
        tcp_listen(words[1], way(words[2]), number(words[3]) * mib);
    else if (task == "connect" && words.size() == 5)
        tcp_connect(words[1], words[2], way(words[3]), number(words[4]) * mib);
    else if (task == "ping" && words.size() == 4)
        ping(words[1], words[2], number(words[3]));
    else
        return false;
    return true;
}

} // namespace
} // namespace io

int main(int argc, char** argv) {
    failure::set_manner({.prefix = "bench: failed ", .descriptor = STDOUT_FILENO, .status = 1});
    const std::span<char*> words(argv, static_cast<size_t>(argc));
    if (words.empty() || !io::run(words.subspan(1))) {
        (void)std::fputs(io::usage, stderr);
        return 2;
    }
    return 0;
}
