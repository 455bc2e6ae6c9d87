// SPDX-License-Identifier: Apache-2.0
// Programs that the kernel runs for user space: seccomp, socket and eBPF filters, which the kernel makes
// read-only when they come and writable when they go.
#include "load.hpp"

#include <arpa/inet.h>
#include <array>
#include <cerrno>
#include <csignal>
#include <cstddef>
#include <cstdint>
#include <fcntl.h>
#include <linux/audit.h>
#include <linux/bpf.h>
#include <linux/filter.h>
#include <linux/if_ether.h>
#include <linux/if_packet.h>
#include <linux/seccomp.h>
#include <net/if.h>
#include <netinet/in.h>
#include <sched.h>
#include <string>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>
#include <vector>

namespace load {
namespace {

sock_filter statement(unsigned code, uint32_t k) {
    return {static_cast<uint16_t>(code), 0, 0, k};
}
sock_filter jump(unsigned code, uint32_t k, uint8_t yes, uint8_t no) {
    return {static_cast<uint16_t>(code), yes, no, k};
}

// `filter` after a jump over `padding` others, so that programs take one to many pages.
std::vector<sock_filter> padded(const std::vector<sock_filter>& filter, unsigned padding) {
    std::vector<sock_filter> program;
    program.push_back(statement(BPF_JMP | BPF_JA, padding));
    program.insert(program.end(), padding, statement(BPF_RET | BPF_K, 0));
    program.insert(program.end(), filter.begin(), filter.end());
    return program;
}

// Rounds alternate between programs within a page and ones of up to 4 pages.
unsigned padding(unsigned round) {
    return round % 4 == 0 ? round % 1800 : 0;
}

sock_fprog as_program(std::vector<sock_filter>& filter) {
    return {.len = static_cast<unsigned short>(filter.size()), .filter = filter.data()};
}

// --- seccomp

long seccomp(unsigned operation, unsigned flags, void* argument) {
    return syscall(SYS_seccomp, operation, flags, argument);
}

// System call `number` gets `action`, all others are allowed.
void filter_call(uint32_t number, uint32_t action, unsigned padding) {
    std::vector<sock_filter> filter =
        padded({statement(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, nr)),
                jump(BPF_JMP | BPF_JEQ | BPF_K, number, 0, 1), statement(BPF_RET | BPF_K, action),
                statement(BPF_RET | BPF_K, SECCOMP_RET_ALLOW)},
               padding);
    sock_fprog program = as_program(filter);
    must("PR_SET_NO_NEW_PRIVS", prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0));
    must("SECCOMP_SET_MODE_FILTER", seccomp(SECCOMP_SET_MODE_FILTER, 0, &program));
}

void expect_errno(long result, int error) {
    check(result == -1 && errno == error, "a filtered call went through");
}

void seccomp_filters(unsigned rounds) {
    for (unsigned i = 0; i < rounds; ++i) {
        switch (i % 4) {
        case 0: // refuses, stacks a second filter, survives a fork
            in_child([&] {
                filter_call(SYS_getppid, SECCOMP_RET_ERRNO | 77, padding(i));
                expect_errno(syscall(SYS_getppid), 77);
                filter_call(SYS_getpgrp, SECCOMP_RET_ERRNO | 78, padding(i + 4));
                in_child([] {
                    expect_errno(syscall(SYS_getppid), 77);
                    expect_errno(syscall(SYS_getpgrp), 78);
                    check(getpid() > 1, "an allowed call failed");
                });
            });
            break;
        case 1: // survives an exec
            in_child(
                [&] {
                    filter_call(SYS_uname, SECCOMP_RET_ERRNO | 77, padding(i));
                    execl(self, self, answer_word, "9", nullptr);
                    fail_with_errno("execl");
                },
                exited(9));
            break;
        case 2: // kills
            in_child(
                [&] {
                    filter_call(SYS_getppid, SECCOMP_RET_KILL_PROCESS, padding(i));
                    syscall(SYS_getppid);
                },
                SIGSYS);
            break;
        default: // strict mode has no exit_group(2)
            in_child(
                [] {
                    must("SECCOMP_SET_MODE_STRICT", seccomp(SECCOMP_SET_MODE_STRICT, 0, nullptr));
                    syscall(SYS_exit, 5);
                },
                exited(5));
            in_child(
                [] {
                    must("SECCOMP_SET_MODE_STRICT", seccomp(SECCOMP_SET_MODE_STRICT, 0, nullptr));
                    syscall(SYS_getppid);
                },
                SIGKILL);
        }
    }
}

// --- traffic over loopback

// A UDP socket that sends to itself.
class Loop {
public:
    Loop()
        : m_socket(must("socket", socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0))) {
        m_address.sin_family = AF_INET;
        m_address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
        auto* const address = reinterpret_cast<sockaddr*>(&m_address);
        socklen_t size = sizeof m_address;
        must("bind", bind(m_socket, address, size));
        must("getsockname", getsockname(m_socket, address, &size));
        must("connect", connect(m_socket, address, size));
    }
    Loop(const Loop&) = delete;
    Loop& operator=(const Loop&) = delete;
    ~Loop() { close(m_socket); }

    int get() const { return m_socket; }
    uint16_t port() const { return ntohs(m_address.sin_port); }

    void send(uint8_t first) {
        const std::array<uint8_t, 2> data{first, static_cast<uint8_t>(~first)};
        check(::send(m_socket, data.data(), data.size(), 0) == static_cast<ssize_t>(data.size()), "send");
    }
    // Waits for a datagram. What was sent on one CPU arrives in that order.
    void expect(uint8_t first) {
        std::array<uint8_t, 4> data{};
        check(recv(m_socket, data.data(), data.size(), 0) == 2 && data[1] == static_cast<uint8_t>(~data[0]),
              "recv");
        check(data[0] == first, "a filter dropped or passed what it should not have");
    }
    // Whether what arrives are all numbers, or the even ones only.
    void expect_all() {
        send(1);
        expect(1);
    }
    void expect_even() {
        send(1);
        send(2);
        send(3);
        send(4);
        expect(2);
        expect(4);
    }

private:
    int m_socket;
    sockaddr_in m_address{};
};

// A datagram that changes its CPU between two sends could overtake.
void stay_on_this_cpu() {
    cpu_set_t one;
    CPU_ZERO(&one);
    CPU_SET(static_cast<size_t>(sched_getcpu()), &one);
    must("sched_setaffinity", sched_setaffinity(0, sizeof one, &one));
}

void attach(int socket, std::vector<sock_filter> filter) {
    const sock_fprog program = as_program(filter);
    must("SO_ATTACH_FILTER", setsockopt(socket, SOL_SOCKET, SO_ATTACH_FILTER, &program, sizeof program));
}

void detach(int socket) {
    const int unused = 0;
    must("SO_DETACH_FILTER", setsockopt(socket, SOL_SOCKET, SO_DETACH_FILTER, &unused, sizeof unused));
}

constexpr uint32_t udp_header = 8;

void socket_filters(unsigned rounds) {
    stay_on_this_cpu();
    Loop loop;
    const std::vector<sock_filter> even = {statement(BPF_LD | BPF_B | BPF_ABS, udp_header),
                                           jump(BPF_JMP | BPF_JSET | BPF_K, 1, 1, 0),
                                           statement(BPF_RET | BPF_K, 0xffff), statement(BPF_RET | BPF_K, 0)};
    const std::vector<sock_filter> all = {statement(BPF_RET | BPF_K, 0xffff)};
    for (unsigned i = 0; i < rounds; ++i) {
        loop.expect_all();
        attach(loop.get(), padded(even, padding(i)));
        loop.expect_even();
        if (i % 3 == 0) { // one replaces the other
            attach(loop.get(), all);
            loop.expect_all();
        }
        detach(loop.get());
        if (i % 3 == 1) { // closed with its filter
            Loop other;
            attach(other.get(), padded(even, padding(i)));
            other.expect_even();
        }
    }
}

// A packet socket that sees only datagrams to one port, and only those that are even.
void packet_filters(unsigned rounds) {
    stay_on_this_cpu();
    Loop loop;
    for (unsigned i = 0; i < rounds; ++i) {
        const int packets = must("packet socket", socket(AF_PACKET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
        attach(packets, padded({statement(BPF_LD | BPF_B | BPF_ABS, 9), // IPv4's protocol
                                jump(BPF_JMP | BPF_JEQ | BPF_K, IPPROTO_UDP, 0, 6),
                                statement(BPF_LDX | BPF_B | BPF_MSH, 0), // its header's length
                                statement(BPF_LD | BPF_H | BPF_IND, 2),
                                jump(BPF_JMP | BPF_JEQ | BPF_K, loop.port(), 0, 3),
                                statement(BPF_LD | BPF_B | BPF_IND, udp_header),
                                jump(BPF_JMP | BPF_JSET | BPF_K, 1, 1, 0), statement(BPF_RET | BPF_K, 64),
                                statement(BPF_RET | BPF_K, 0)},
                               padding(i)));
        sockaddr_ll here{};
        here.sll_family = AF_PACKET;
        here.sll_protocol = htons(ETH_P_IP);
        here.sll_ifindex = static_cast<int>(if_nametoindex("lo"));
        must("bind", bind(packets, reinterpret_cast<sockaddr*>(&here), sizeof here));
        loop.send(1);
        loop.send(2);
        loop.expect(1);
        loop.expect(2);
        std::array<uint8_t, 64> packet{};
        check(recv(packets, packet.data(), packet.size(), 0) == 20 + udp_header + 2 && packet[28] == 2,
              "a packet socket's filter passed what it should not have");
        close(packets);
    }
}

// --- eBPF

int bpf(bpf_cmd command, bpf_attr attributes) {
    return must("bpf", static_cast<int>(syscall(SYS_bpf, command, &attributes, sizeof attributes)));
}

bpf_insn instruction(int code, int destination, int source, int offset, int immediate) {
    bpf_insn made{};
    made.code = static_cast<uint8_t>(code);
    made.dst_reg = static_cast<uint8_t>(destination) & 15;
    made.src_reg = static_cast<uint8_t>(source) & 15;
    made.off = static_cast<int16_t>(offset);
    made.imm = immediate;
    return made;
}

int load_program(bpf_prog_type type, const std::vector<bpf_insn>& program, bpf_attach_type attach = {}) {
    bpf_attr attributes{};
    attributes.prog_type = type;
    attributes.insns = reinterpret_cast<uintptr_t>(program.data());
    attributes.insn_cnt = static_cast<uint32_t>(program.size());
    attributes.license = reinterpret_cast<uintptr_t>("Apache-2.0");
    attributes.expected_attach_type = attach;
    return bpf(BPF_PROG_LOAD, attributes);
}

uint64_t counted(int counters) {
    const uint32_t key = 0;
    uint64_t value = 0;
    bpf_attr attributes{};
    attributes.map_fd = static_cast<uint32_t>(counters);
    attributes.key = reinterpret_cast<uintptr_t>(&key);
    attributes.value = reinterpret_cast<uintptr_t>(&value);
    bpf(BPF_MAP_LOOKUP_ELEM, attributes);
    return value;
}

// A socket filter that lets even numbers through and counts in a map what it drops.
void ebpf_filters(unsigned rounds) {
    stay_on_this_cpu();
    Loop loop;
    for (unsigned i = 0; i < rounds; ++i) {
        bpf_attr map{};
        map.map_type = BPF_MAP_TYPE_ARRAY;
        map.key_size = 4;
        map.value_size = 8;
        map.max_entries = 1;
        const int counters = bpf(BPF_MAP_CREATE, map);
        const int program =
            load_program(BPF_PROG_TYPE_SOCKET_FILTER,
                         {
                             instruction(BPF_ALU64 | BPF_MOV | BPF_X, 6, 1, 0, 0), // r6 = packet
                             instruction(BPF_LD | BPF_ABS | BPF_B, 0, 0, 0, udp_header),
                             instruction(BPF_ALU64 | BPF_AND | BPF_K, 0, 0, 0, 1),
                             instruction(BPF_JMP | BPF_JNE | BPF_K, 0, 0, 2, 0),
                             instruction(BPF_ALU64 | BPF_MOV | BPF_K, 0, 0, 0, 0xffff),
                             instruction(BPF_JMP | BPF_EXIT, 0, 0, 0, 0),
                             instruction(BPF_ST | BPF_MEM | BPF_W, 10, 0, -4, 0),             // key = 0
                             instruction(BPF_LD | BPF_DW, 1, BPF_PSEUDO_MAP_FD, 0, counters), // BPF_IMM
                             instruction(0, 0, 0, 0, 0),
                             instruction(BPF_ALU64 | BPF_MOV | BPF_X, 2, 10, 0, 0),
                             instruction(BPF_ALU64 | BPF_ADD, 2, 0, 0, -4), // BPF_K
                             instruction(BPF_JMP | BPF_CALL, 0, 0, 0, BPF_FUNC_map_lookup_elem),
                             instruction(BPF_JMP | BPF_JEQ | BPF_K, 0, 0, 2, 0),
                             instruction(BPF_ALU64 | BPF_MOV | BPF_K, 1, 0, 0, 1),
                             instruction(BPF_STX | BPF_ATOMIC | BPF_DW, 0, 1, 0, BPF_ADD),
                             instruction(BPF_ALU64 | BPF_MOV | BPF_K, 0, 0, 0, 0),
                             instruction(BPF_JMP | BPF_EXIT, 0, 0, 0, 0),
                         });
        must("SO_ATTACH_BPF", setsockopt(loop.get(), SOL_SOCKET, SO_ATTACH_BPF, &program, sizeof program));
        loop.expect_even();
        check(counted(counters) == 2, "a program counted wrongly");
        detach(loop.get());
        loop.expect_all();
        close(program);
        close(counters);
    }
}

// The device list of a container: a program on a cgroup, here one that refuses /dev/zero.
void device_filters(unsigned rounds) {
    const std::string group = "/sys/fs/cgroup/devices" + std::to_string(getpid());
    must("mkdir", mkdir(group.c_str(), 0755));
    const int directory = must("open", open(group.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    for (unsigned i = 0; i < rounds; ++i) {
        bpf_attr attributes{};
        attributes.target_fd = static_cast<uint32_t>(directory);
        attributes.attach_bpf_fd = static_cast<uint32_t>(load_program(
            BPF_PROG_TYPE_CGROUP_DEVICE,
            {
                instruction(BPF_LDX | BPF_MEM | BPF_W, 2, 1, offsetof(bpf_cgroup_dev_ctx, minor), 0),
                instruction(BPF_ALU64 | BPF_MOV | BPF_K, 0, 0, 0, 1),
                instruction(BPF_JMP | BPF_JNE | BPF_K, 2, 0, 1, 5),
                instruction(BPF_ALU64 | BPF_MOV | BPF_K, 0, 0, 0, 0),
                instruction(BPF_JMP | BPF_EXIT, 0, 0, 0, 0),
            },
            BPF_CGROUP_DEVICE));
        attributes.attach_type = BPF_CGROUP_DEVICE;
        bpf(BPF_PROG_ATTACH, attributes);
        in_child([&] {
            check(write_file((group + "/cgroup.procs").c_str(), "0"), "joining a cgroup");
            must("/dev/null", open("/dev/null", O_RDONLY));
            expect_errno(open("/dev/zero", O_RDONLY), EPERM);
        });
        bpf(BPF_PROG_DETACH, attributes);
        in_child([&] {
            check(write_file((group + "/cgroup.procs").c_str(), "0"), "joining a cgroup");
            must("/dev/zero", open("/dev/zero", O_RDONLY));
        });
        close(static_cast<int>(attributes.attach_bpf_fd));
    }
    close(directory);
    must("rmdir", rmdir(group.c_str()));
}

constexpr Step all_steps[] = {
    {"seccomp_filters", seccomp_filters}, {"socket_filters", socket_filters},
    {"packet_filters", packet_filters},   {"ebpf_filters", ebpf_filters},
    {"device_filters", device_filters},
};

} // namespace

std::span<const Step> filter_steps() {
    return all_steps;
}

} // namespace load
