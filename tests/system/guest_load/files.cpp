// SPDX-License-Identifier: Apache-2.0
// Files of every kind of file system, and the whole of /proc and /sys.
#include "load.hpp"

#include <array>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <dirent.h>
#include <fcntl.h>
#include <string>
#include <sys/file.h>
#include <sys/inotify.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <unistd.h>

namespace load {
namespace {

void files(unsigned rounds) {
    char name[] = "files-XXXXXX";
    check(mkdtemp(name) != nullptr, "mkdtemp");
    must("chdir", chdir(name));
    const int watch = must("inotify_init1", inotify_init1(IN_NONBLOCK));
    must("inotify_add_watch", inotify_add_watch(watch, ".", IN_MOVED_TO));
    for (unsigned i = 0; i < rounds; ++i) {
        const std::string text = "file " + std::to_string(i);
        const int file = must("open", open("one", O_RDWR | O_CREAT | O_EXCL, 0600));
        check(write(file, text.data(), text.size()) == static_cast<ssize_t>(text.size()), "write");
        must("flock", flock(file, LOCK_EX));
        must("fsetxattr", fsetxattr(file, "trusted.casemate", &i, sizeof i, 0));
        must("link", link("one", "two"));
        must("rename", rename("two", "three"));
        must("symlink", symlink("three", "four"));
        if (i % 16 == 0)
            must("fsync", fsync(file));
        unsigned attribute = 0;
        check(getxattr("four", "trusted.casemate", &attribute, sizeof attribute) == sizeof attribute &&
                  attribute == i,
              "an extended attribute differs");
        const int copy = must("open", open("five", O_RDWR | O_CREAT | O_TRUNC, 0600));
        off_t from = 0;
        check(sendfile(copy, file, &from, text.size()) == static_cast<ssize_t>(text.size()), "sendfile");
        std::array<char, 64> back{};
        check(read_file("five", back) == static_cast<ssize_t>(text.size()) && text == back.data(),
              "a file's copy differs");
        struct stat status{};
        must("fstat", fstat(file, &status));
        check(status.st_nlink == 2 && status.st_size == static_cast<off_t>(text.size()), "fstat");
        for (const char* const old : {"one", "three", "four", "five"})
            must("unlink", unlink(old));
        close(copy);
        close(file);
        alignas(inotify_event) std::array<char, 512> events{};
        check(read(watch, events.data(), events.size()) > 0, "inotify told of no rename");
    }
    close(watch);
    must("chdir", chdir(".."));
    must("rmdir", rmdir(name));
}

struct Walk {
    unsigned opened = 0;
    unsigned had_bytes = 0;
    std::array<char, 65536> buffer{};

    void read_one(const std::string& path) {
        const ssize_t count = read_file(path.c_str(), buffer);
        opened += count >= 0 ? 1 : 0;
        had_bytes += count > 0 ? 1 : 0;
    }

    void directory(const std::string& path) {
        DIR* const listing = opendir(path.c_str());
        if (listing == nullptr)
            return;
        while (const dirent* const entry = readdir(listing)) {
            if (entry->d_name[0] == '.')
                continue;
            const std::string child = path + "/" + entry->d_name;
            if (entry->d_type == DT_DIR)
                directory(child);
            else if (entry->d_type == DT_REG)
                read_one(child);
        }
        closedir(listing);
    }
};

// Reads every file of /proc and /sys once; `rounds` of them at least have to have something in them.
void walk(unsigned rounds) {
    static Walk all;
    all.directory("/proc");
    all.directory("/sys");
    if (all.had_bytes < rounds)
        fail("only %u of %u files have bytes", all.had_bytes, all.opened);
}

struct Setting {
    const char* path;
    const char* value;
};

// What an administrator sets; several are static branches in kernels with jump labels.
constexpr Setting settings[] = {
    {"/proc/sys/kernel/randomize_va_space", "1"},
    {"/proc/sys/kernel/panic_on_warn", "1"},
    {"/proc/sys/kernel/pid_max", "40000"},
    {"/proc/sys/kernel/core_pattern", "/tmp/core.%p"},
    {"/proc/sys/kernel/hostname", "keep"},
    {"/proc/sys/kernel/printk_ratelimit", "6"},
    {"/proc/sys/vm/swappiness", "10"},
    {"/proc/sys/vm/overcommit_memory", "1"},
    {"/proc/sys/vm/dirty_ratio", "30"},
    {"/proc/sys/vm/min_free_kbytes", "2048"},
    {"/proc/sys/fs/file-max", "12345"},
    {"/proc/sys/fs/protected_symlinks", "1"},
    {"/proc/sys/net/core/somaxconn", "777"},
    {"/proc/sys/net/core/rmem_default", "131072"},
    {"/proc/sys/net/ipv4/ip_forward", "1"},
    {"/proc/sys/net/ipv4/tcp_sack", "0"},
    {"/proc/sys/net/ipv4/tcp_timestamps", "0"},
    {"/proc/sys/net/ipv4/conf/all/rp_filter", "1"},
    {"/proc/sys/net/ipv6/conf/all/forwarding", "1"},
};

std::string setting(const char* path) {
    std::array<char, 256> text{};
    if (read_file(path, text) < 0)
        fail_with_errno("reading %s", path);
    std::string value = text.data();
    while (!value.empty() && value.back() == '\n')
        value.pop_back();
    return value;
}

void sysctl(unsigned rounds) {
    for (unsigned i = 0; i < rounds; ++i) {
        const Setting& one = settings[i % std::size(settings)];
        const std::string before = setting(one.path);
        if (!write_file(one.path, one.value))
            fail_with_errno("writing %s", one.path);
        if (setting(one.path) != one.value)
            fail("%s does not keep what was written", one.path);
        if (!write_file(one.path, before.c_str()))
            fail_with_errno("writing %s back", one.path);
    }
}

constexpr Step all_steps[] = {{"files", files}, {"walk", walk}, {"sysctl", sysctl}};

} // namespace

std::span<const Step> file_steps() {
    return all_steps;
}

} // namespace load
