// SPDX-License-Identifier: Apache-2.0
#include "machine/config_check.hpp"

#include <array>
#include <cstdlib>
#include <doctest/doctest.h>
#include <filesystem>
#include <fstream>
#include <string>

namespace casemate {
namespace {

struct Directory {
    std::string path = (std::filesystem::temp_directory_path() / "casemate-config-XXXXXX").string();
    Directory() { REQUIRE(mkdtemp(path.data()) != nullptr); }
    Directory(const Directory&) = delete;
    Directory& operator=(const Directory&) = delete;
    ~Directory() { std::filesystem::remove_all(path); }

    std::string put(const std::string& name) const {
        std::ofstream(path + '/' + name) << std::string(4096, '\0');
        return path + '/' + name;
    }
};

std::string refusal(const Config& config) {
    const auto result = check_config(config);
    if (result)
        return "";
    CHECK(result.error().blame() == Blame::usage);
    CHECK(result.error().message().find('\n') == std::string::npos);
    return result.error().message();
}

bool says(const Config& config, const std::string& what) {
    const std::string message = refusal(config);
    CAPTURE(message);
    CHECK(message.find(what) != std::string::npos);
    return message.find(what) != std::string::npos;
}

TEST_CASE("as many devices as the bus has room for, and no more") {
    Config config;
    for (int i = 0; i < 15; ++i)
        config.nets.push_back({.tap = "tap" + std::to_string(i)});
    config.disks.resize(15, {.path = "/nowhere"});
    CHECK(refusal(config).empty());
    config.disks.push_back({.path = "/nowhere"});
    CHECK(says(config, "31 disks and network devices: the PCI bus has room for 30"));
}

TEST_CASE("a disk is there once, by whatever name, unless nobody writes to it") {
    const Directory directory;
    const std::string disk = directory.put("disk");
    const std::string other = directory.put("other");
    const std::string link = directory.path + "/link";
    std::filesystem::create_symlink(disk, link);
    CHECK(refusal({.disks = {{disk}, {other}}}).empty());
    CHECK(says({.disks = {{disk}, {disk}}}, "disk image " + disk + " is there twice"));
    CHECK(says({.disks = {{disk}, {other}, {link}}}, link + " are the same file"));
    CHECK(says({.disks = {{disk, true}, {disk, false}}}, "is there twice"));
    CHECK(refusal({.disks = {{disk, true}, {link, true}}}).empty());
    // Who opens them says what is wrong with these.
    CHECK(refusal({.disks = {{"/nowhere"}, {"/nowhere"}}}).empty());
}

TEST_CASE("what is no option of a disk is told apart from a name with a comma") {
    const Directory directory;
    const std::string disk = directory.put("disk");
    for (const char* const wrong : {",r0", ",", ",rw", ",RO", ",ro"}) {
        CAPTURE(wrong);
        CHECK(refusal({.disks = {{disk + wrong}}}) != "");
    }
    CHECK(says({.disks = {{disk + ",r0"}}},
               "No such file or directory; only ,ro may follow the name of a disk"));
    const std::string comma = directory.put("with,comma");
    CHECK(refusal({.disks = {{comma}}}).empty());
    directory.put("name,ro");
    CHECK(says({.disks = {{directory.path + "/name", true}}}, "/name,ro,ro"));
}

TEST_CASE("network devices share neither a tap nor an address") {
    const std::array<uint8_t, 6> mac{2, 0, 0, 0, 0, 1};
    CHECK(refusal({.nets = {{.tap = "a"}, {.tap = "b", .mac = mac}, {.tap = "c"}}}).empty());
    CHECK(says({.nets = {{.tap = "a"}, {.tap = "b"}, {.tap = "a"}}}, "tap interface a is there twice"));
    CHECK(says({.nets = {{.tap = "a", .mac = mac}, {.tap = "b", .mac = mac}}}, "a and b have the same mac="));
}

TEST_CASE("events do not go into what the guest is made of") {
    const Directory directory;
    const std::string file = directory.put("file");
    CHECK(says({.kernel = file, .events_path = file}, "the kernel; name another file"));
    CHECK(says({.initrd = file, .events_path = file}, "the initrd"));
    CHECK(says({.disks = {{file, true}}, .events_path = file}, "a disk"));
    CHECK(says({.events_path = file, .symbols_path = file}, "the symbols"));
    CHECK(refusal({.kernel = file, .events_path = directory.path + "/new"}).empty());
    CHECK(refusal({.kernel = file, .events_path = "-"}).empty());
}

} // namespace
} // namespace casemate
