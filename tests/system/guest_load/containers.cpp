// SPDX-License-Identifier: Apache-2.0
// What container engines ask of a kernel: namespaces, mounts, cgroups.
#include "load.hpp"

#include <array>
#include <cerrno>
#include <csignal>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <fcntl.h>
#include <linux/sched.h>
#include <net/if.h>
#include <poll.h>
#include <sched.h>
#include <string>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/utsname.h>
#include <unistd.h>

namespace load {
namespace {

void mount_at(const char* source, const std::string& target, const char* type, const std::string& options) {
    must(type, mount(source, target.c_str(), type, 0, options.c_str()));
}

void put(const std::string& path, const char* text) {
    const int file = must("open", open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600));
    check(write(file, text, std::strlen(text)) == static_cast<ssize_t>(std::strlen(text)), "write");
    close(file);
}

void expect_text(const std::string& path, const char* text) {
    std::array<char, 64> have{};
    must(path.c_str(), read_file(path.c_str(), have));
    check(std::strcmp(have.data(), text) == 0, "a file has the wrong text");
}

// Layers as an image has them: what is written on top must not reach the bottom.
void mounts(unsigned rounds) {
    const std::string top = "/tmp/mounts" + std::to_string(getpid());
    must("mkdir", mkdir(top.c_str(), 0700));
    std::string layers = "lowerdir=" + top;
    layers += "/lower,upperdir=" + top;
    layers += "/upper,workdir=" + top;
    layers += "/work";
    for (unsigned i = 0; i < rounds; ++i) {
        mount_at("tmpfs", top, "tmpfs", "size=1M");
        for (const char* const name : {"/lower", "/upper", "/work", "/merged", "/bound"})
            must("mkdir", mkdir((top + name).c_str(), 0700));
        put(top + "/lower/file", "below");
        mount_at("overlay", top + "/merged", "overlay", layers);
        expect_text(top + "/merged/file", "below");
        put(top + "/merged/file", "above");
        expect_text(top + "/merged/file", "above");
        expect_text(top + "/lower/file", "below");
        must("bind", mount((top + "/merged").c_str(), (top + "/bound").c_str(), nullptr, MS_BIND, nullptr));
        expect_text(top + "/bound/file", "above");
        for (const char* const name : {"/bound", "/merged", ""})
            must("umount", umount((top + name).c_str()));
        errno = 0;
        check(access((top + "/lower").c_str(), F_OK) < 0 && errno == ENOENT,
              "an unmounted file system is there");
    }
    must("rmdir", rmdir(top.c_str()));
}

void loopback_up() {
    const int any = must("socket", socket(AF_INET, SOCK_DGRAM, 0));
    ifreq request{};
    std::memcpy(request.ifr_name, "lo", 3);
    must("SIOCGIFFLAGS", ioctl(any, SIOCGIFFLAGS, &request));
    check((request.ifr_flags & IFF_UP) == 0, "a new network namespace is not new");
    request.ifr_flags = static_cast<short>(request.ifr_flags | IFF_UP);
    must("SIOCSIFFLAGS", ioctl(any, SIOCSIFFLAGS, &request));
    close(any);
}

void as_container() {
    check(getpid() == 1, "not process 1 of its namespace");
    must("sethostname", sethostname("inside", 6));
    loopback_up();
    must("private", mount(nullptr, "/", nullptr, MS_REC | MS_PRIVATE, nullptr));
    mount_at("proc", "/mnt", "proc", "");
    std::array<char, 16> link{};
    check(readlink("/mnt/self", link.data(), link.size()) == 1 && link[0] == '1',
          "a namespace's /proc is not its own");
    in_child([] { check(getpid() == 2, "not process 2 of its namespace"); });
}

void namespaces(unsigned rounds) {
    utsname before{};
    must("uname", uname(&before));
    for (unsigned i = 0; i < rounds; ++i) {
        clone_args arguments{};
        arguments.flags =
            CLONE_NEWPID | CLONE_NEWNS | CLONE_NEWNET | CLONE_NEWUTS | CLONE_NEWIPC | CLONE_NEWCGROUP;
        // A user namespace's root may do the same, but mount no /proc over a masked one: so half of them.
        if (i % 2 == 1)
            arguments.flags |= CLONE_NEWUSER;
        arguments.exit_signal = SIGCHLD;
        const auto child =
            static_cast<pid_t>(must("clone3", syscall(SYS_clone3, &arguments, sizeof arguments)));
        if (child == 0) {
            as_container();
            end_child(0);
        }
        expect_end(child, 0);
    }
    utsname after{};
    must("uname", uname(&after));
    check(std::strcmp(before.nodename, after.nodename) == 0, "a container's host name reached its host");
}

void set(const std::string& path, const char* value) {
    if (!write_file(path.c_str(), value))
        fail_with_errno("writing %s to %s", value, path.c_str());
}

void await_line(const std::string& path, const char* line) {
    const int file = must(path.c_str(), open(path.c_str(), O_RDONLY | O_CLOEXEC));
    std::array<char, 256> text{};
    for (;;) {
        const ssize_t count = must("pread", pread(file, text.data(), text.size() - 1, 0));
        text[static_cast<size_t>(count)] = 0;
        if (std::strstr(text.data(), line) != nullptr)
            break;
        pollfd change{.fd = file, .events = POLLPRI, .revents = 0};
        must("poll", poll(&change, 1, -1));
    }
    close(file);
}

void cgroups(unsigned rounds) {
    const std::string group = "/sys/fs/cgroup/group" + std::to_string(getpid());
    for (unsigned i = 0; i < rounds; ++i) {
        must("mkdir", mkdir(group.c_str(), 0755));
        set(group + "/pids.max", "1");
        set(group + "/memory.max", "8388608");
        set(group + "/cpu.max", "50000 100000");
        const pid_t child = start_child([&] {
            set(group + "/cgroup.procs", "0");
            errno = 0;
            check(fork() < 0 && errno == EAGAIN, "pids.max does not hold");
            set(group + "/cgroup.freeze", "1");
            for (;;)
                pause();
        });
        await_line(group + "/cgroup.events", "frozen 1");
        set(group + "/cgroup.freeze", "0");
        await_line(group + "/cgroup.events", "frozen 0");
        set(group + "/cgroup.kill", "1");
        expect_end(child, SIGKILL);
        await_line(group + "/cgroup.events", "populated 0");
        must("rmdir", rmdir(group.c_str()));
    }
}

constexpr Step all_steps[] = {{"mounts", mounts}, {"namespaces", namespaces}, {"cgroups", cgroups}};

} // namespace

std::span<const Step> container_steps() {
    return all_steps;
}

} // namespace load
