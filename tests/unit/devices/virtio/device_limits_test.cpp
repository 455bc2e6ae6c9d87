// SPDX-License-Identifier: Apache-2.0
#include "devices/virtio/device_limits.hpp"

#include <doctest/doctest.h>
#include <filesystem>
#include <fstream>

namespace casemate::virtio {
namespace {

// A directory as sysfs has it for a disk, with a partition in it.
struct FakeSysfs {
    std::filesystem::path disk;
    FakeSysfs() {
        std::string name = "/tmp/casemate-sysfs-XXXXXX";
        REQUIRE(mkdtemp(name.data()) != nullptr);
        disk = name;
        std::filesystem::create_directories(disk / "queue");
        std::filesystem::create_directories(disk / "part1");
        put("part1/partition", "1");
    }
    FakeSysfs(const FakeSysfs&) = delete;
    FakeSysfs& operator=(const FakeSysfs&) = delete;
    ~FakeSysfs() { std::filesystem::remove_all(disk); }
    void put(const char* file, const char* text) const { std::ofstream(disk / file) << text << '\n'; }
};

TEST_CASE("a disk's limits are its queue's, and a partition's too, but for where a granule begins") {
    const FakeSysfs sysfs;
    sysfs.put("queue/discard_max_bytes", "4294966784");
    sysfs.put("queue/discard_granularity", "1048576");
    sysfs.put("queue/write_zeroes_max_bytes", "2097152");
    sysfs.put("discard_alignment", "0");
    sysfs.put("part1/discard_alignment", "524288");
    const auto disk = read_device_limits(sysfs.disk);
    REQUIRE(disk);
    CHECK(disk->discard_max == 4294966784U);
    CHECK(disk->discard_granularity == 1048576);
    CHECK(disk->write_zeroes_max == 2097152);
    CHECK(disk->discard_alignment == 0);
    const auto partition = read_device_limits(sysfs.disk / "part1");
    REQUIRE(partition);
    CHECK(partition->discard_max == 4294966784U);
    CHECK(partition->write_zeroes_max == 2097152);
    CHECK(partition->discard_alignment == 524288);
}

TEST_CASE("what sysfs does not tell, or tells in a way of its own, is not there") {
    const FakeSysfs sysfs;
    CHECK_FALSE(read_device_limits(sysfs.disk));
    CHECK_FALSE(read_device_limits("/nonexistent"));
    for (const char* text : {"", "many", "-1", "12 MiB", "0x1000", "99999999999999999999"}) {
        CAPTURE(text);
        sysfs.put("queue/discard_max_bytes", text);
        CHECK_FALSE(read_device_limits(sysfs.disk));
    }
    sysfs.put("queue/discard_max_bytes", "0");
    sysfs.put("queue/write_zeroes_max_bytes", "none");
    const auto limits = read_device_limits(sysfs.disk);
    REQUIRE(limits);
    CHECK(limits->discard_max == 0);
    CHECK(limits->write_zeroes_max == 0);
    CHECK(limits->discard_granularity == 0);
}

} // namespace
} // namespace casemate::virtio
