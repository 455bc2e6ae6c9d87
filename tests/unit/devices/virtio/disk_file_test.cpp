// SPDX-License-Identifier: Apache-2.0
#include "devices/virtio/disk_file.hpp"

#include "io_thread.hpp"
#include "temporary_image.hpp"

#include "base/units.hpp"

#include <algorithm>
#include <array>
#include <csignal>
#include <fcntl.h>
#include <functional>
#include <linux/magic.h>
#include <map>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <sys/vfs.h>
#include <unistd.h>

namespace casemate::virtio {
namespace {

struct RecordingClient : DiskClient {
    std::map<uint32_t, int> done;
    void disk_done(uint32_t tag, int error) override { done[tag] = error; }
    void disk_batch_done() override {}
};

struct Fixture {
    TemporaryFile image;
    IoThread io;
    RecordingClient client;
    std::unique_ptr<DiskFile> disk;
    explicit Fixture(DiskFile::Engine engine, uint64_t bytes = 64_KiB, const std::string& directory = "/tmp")
        : image(bytes, directory) {
        use({.path = image.path, .engine = engine, .depth = 8},
            DiskImage::open(image.path, false, quiet).value());
    }
    // The same with less than the image can.
    Fixture(DiskFile::Engine engine, uint64_t bytes, const std::function<void(DiskImage&)>& change)
        : image(bytes) {
        auto opened = DiskImage::open(image.path, false, quiet).value();
        change(opened);
        use({.path = image.path, .engine = engine, .depth = 8}, std::move(opened));
    }
    void use(const DiskFile::Options& options, DiskImage opened) {
        disk = DiskFile::create(std::move(opened), options, io.loop()).value();
        disk->set_client(client);
    }
    ~Fixture() {
        io.run([&] { disk.reset(); });
    }
    Fixture(const Fixture&) = delete;
    Fixture& operator=(const Fixture&) = delete;

    uint64_t allocated() const {
        struct stat status{};
        REQUIRE(fstat(image.file.get(), &status) == 0);
        return static_cast<uint64_t>(status.st_blocks) * 512;
    }
    // Fills the image with one byte value, behind the disk's back.
    void fill(std::byte value) const {
        const std::vector<std::byte> bytes(disk->properties().size, value);
        REQUIRE(pwrite(image.file.get(), bytes.data(), bytes.size(), 0) ==
                static_cast<ssize_t>(bytes.size()));
        REQUIRE(fdatasync(image.file.get()) == 0); // delayed allocation
    }
    // Whether exactly these bytes are zero.
    bool zero_only(uint64_t start, uint64_t end) const {
        std::vector<std::byte> bytes(disk->properties().size);
        REQUIRE(pread(image.file.get(), bytes.data(), bytes.size(), 0) == static_cast<ssize_t>(bytes.size()));
        for (size_t i = 0; i < bytes.size(); ++i)
            if ((bytes[i] == std::byte{0}) != (i >= start && i < end))
                return false;
        return true;
    }
    // The errors of requests that are under way together, -1 for one that never completes.
    std::vector<int> together(const std::vector<DiskRequest>& requests) {
        io.run([&] {
            client.done.clear();
            for (uint32_t tag = 0; tag < requests.size(); ++tag)
                disk->queue(tag, requests[tag]);
            disk->start();
        });
        io.eventually([&] { return client.done.size() == requests.size(); });
        std::vector<int> errors;
        errors.reserve(requests.size());
        for (uint32_t tag = 0; tag < requests.size(); ++tag)
            errors.push_back(client.done.contains(tag) ? client.done[tag] : -1);
        return errors;
    }
    // The error of one request, -1 when it never completes.
    int request(const DiskRequest& request) {
        io.run([&] {
            client.done.clear();
            disk->queue(3, request);
            CHECK(client.done.empty()); // never from inside
            disk->start();
        });
        if (!io.eventually([&] { return client.done.contains(3); }))
            return -1;
        return client.done[3];
    }
};

const std::array engines{DiskFile::Engine::io_uring, DiskFile::Engine::synchronous};

bool available(DiskFile::Engine engine) {
    const TemporaryFile image(512);
    const auto loop = EventLoop::create().value();
    if (DiskFile::create({.path = image.path, .engine = engine}, *loop, quiet))
        return true;
    MESSAGE("io_uring is not permitted here: its half of the disk tests did not run");
    return false;
}

TEST_CASE("each engine writes, reads back, flushes, zeroes and discards") {
    for (const DiskFile::Engine engine : engines) {
        if (!available(engine))
            continue;
        Fixture f(engine);
        CHECK(f.disk->uses_io_uring() == (engine == DiskFile::Engine::io_uring));
        CHECK(f.disk->properties().size == 64_KiB);
        std::array<std::byte, 1024> first{};
        std::array<std::byte, 512> second{};
        first.fill(std::byte{0x11});
        second.fill(std::byte{0x22});
        const std::array vectors{iovec{first.data(), first.size()}, iovec{second.data(), second.size()}};
        CHECK(f.request({DiskOperation::write, 4096, 1536, vectors}) == 0);
        CHECK(f.request({.operation = DiskOperation::flush}) == 0);
        first.fill(std::byte{0});
        second.fill(std::byte{0});
        CHECK(f.request({DiskOperation::read, 4096, 1536, vectors}) == 0);
        CHECK(first[1023] == std::byte{0x11});
        CHECK(second[0] == std::byte{0x22});
        if (f.disk->properties().most_discard != 0) {
            CHECK(f.request({DiskOperation::write_zeroes_unmap, 4096, 512, {}}) == 0);
            CHECK(f.request({DiskOperation::discard, 4608, 512, {}}) == 0);
            CHECK(f.request({DiskOperation::read, 4096, 1536, vectors}) == 0);
            CHECK(std::ranges::all_of(first, [](std::byte b) { return b == std::byte{0}; }));
            CHECK(second[0] == std::byte{0x22});
        }
        struct stat status{};
        CHECK(fstat(f.image.file.get(), &status) == 0);
        CHECK(status.st_size == 64_KiB);
    }
}

TEST_CASE("zeroes are zeroes whatever the file system can, and stay allocated unless they may be holes") {
    for (const DiskFile::Engine engine : engines) {
        if (!available(engine))
            continue;
        for (const bool holes : {true, false})
            for (const bool ranges : {true, false}) {
                CAPTURE(holes);
                CAPTURE(ranges);
                Fixture f(engine, 4_MiB, [&](DiskImage& image) {
                    image.can_punch_holes = image.can_punch_holes && holes;
                    image.can_zero_ranges = image.can_zero_ranges && ranges;
                });
                f.fill(std::byte{0x33});
                const uint64_t before = f.allocated();
                REQUIRE(before >= 4_MiB);
                // More than a piece, from a sector to a sector.
                CHECK(f.request({DiskOperation::write_zeroes, 512, 2_MiB, {}}) == 0);
                CHECK(f.zero_only(512, 2_MiB + 512));
                CHECK(f.allocated() >= 4_MiB);
                f.fill(std::byte{0x33});
                CHECK(f.request({DiskOperation::write_zeroes_unmap, 512, 2_MiB, {}}) == 0);
                CHECK(f.zero_only(512, 2_MiB + 512));
            }
    }
}

TEST_CASE("on tmpfs, which has holes and no zero ranges, both are offered and done") {
    struct statfs system{};
    if (statfs("/dev/shm", &system) != 0 || system.f_type != TMPFS_MAGIC) {
        MESSAGE("no tmpfs here: its half of the disk tests did not run");
        return;
    }
    for (const DiskFile::Engine engine : engines) {
        if (!available(engine))
            continue;
        Fixture f(engine, 4_MiB, "/dev/shm");
        CHECK(f.disk->properties().most_discard == 4_MiB);
        CHECK(f.disk->properties().most_write_zeroes == 4_MiB);
        f.fill(std::byte{0x33});
        CHECK(f.request({DiskOperation::write_zeroes, 512, 2_MiB, {}}) == 0);
        CHECK(f.zero_only(512, 2_MiB + 512));
        CHECK(f.allocated() == 4_MiB);
        CHECK(f.request({DiskOperation::write_zeroes_unmap, 512, 2_MiB, {}}) == 0);
        CHECK(f.zero_only(512, 2_MiB + 512));
        CHECK(f.allocated() < 3_MiB);
        f.fill(std::byte{0x33});
        CHECK(f.request({DiskOperation::discard, 0, 4_MiB, {}}) == 0);
        CHECK(f.zero_only(0, 4_MiB));
        CHECK(f.allocated() == 0);
    }
}

TEST_CASE("several requests find together what the host does not have") {
    const std::vector<int> none(4, 0);
    for (const DiskFile::Engine engine : engines) {
        if (!available(engine))
            continue;
        std::vector<DiskRequest> zeroes;
        std::vector<DiskRequest> discards;
        for (uint64_t offset = 0; offset < 64_KiB; offset += 16_KiB) {
            zeroes.push_back({DiskOperation::write_zeroes, offset, 16_KiB, {}});
            discards.push_back({DiskOperation::discard, offset, 16_KiB, {}});
        }
        // tmpfs has no zero ranges.
        Fixture file(engine, 64_KiB, "/dev/shm");
        file.fill(std::byte{0x55});
        CHECK(file.together(zeroes) == none);
        CHECK(file.zero_only(0, 64_KiB));
        // What is no device has neither way to discard like one; the ring's answer is not the last.
        Fixture device(engine, 64_KiB, [](DiskImage& image) { image.is_device = true; });
        CHECK(device.together(discards) == std::vector<int>(4, ENOTTY));
    }
}

TEST_CASE("where a device's blocks are larger than sectors, zeroes are exact and discards are inside") {
    for (const DiskFile::Engine engine : engines) {
        if (!available(engine))
            continue;
        Fixture f(engine, 64_KiB, [](DiskImage& image) { image.properties.logical_block = 4096; });
        for (const auto& [start, bytes] : {std::pair<uint64_t, uint64_t>{512, 512},
                                           {512, 3584},
                                           {512, 12288},
                                           {4096, 8192},
                                           {4096, 8704},
                                           {3584, 1024},
                                           {0, 64_KiB}}) {
            CAPTURE(start);
            CAPTURE(bytes);
            for (const auto zeroes : {DiskOperation::write_zeroes, DiskOperation::write_zeroes_unmap}) {
                f.fill(std::byte{0x44});
                CHECK(f.request({zeroes, start, bytes, {}}) == 0);
                CHECK(f.zero_only(start, start + bytes));
            }
            if (f.disk->properties().most_discard == 0)
                continue;
            f.fill(std::byte{0x44});
            CHECK(f.request({DiskOperation::discard, start, bytes, {}}) == 0);
            const uint64_t first = align_up(start, 4096);
            CHECK(f.zero_only(first, std::max(first, align_down(start + bytes, 4096))));
        }
    }
}

TEST_CASE("a read of cached data is done inside start, and no event follows") {
    for (const std::string& directory : {std::string("/tmp"), std::string("/dev/shm")})
        for (const DiskFile::Engine engine : engines) {
            if (!available(engine))
                continue;
            const TemporaryFile image(64_KiB, directory);
            std::array<std::byte, 4096> data{};
            data.fill(std::byte{7});
            REQUIRE(pwrite(image.file.get(), data.data(), data.size(), 8192) == 4096);
            data.fill(std::byte{0});
            const std::array vectors{iovec{data.data(), data.size()}};
            auto opened = DiskImage::open(image.path, false, quiet).value();
            // Neither overlayfs nor FUSE has such reads.
            if (!opened.in_memory && preadv2(image.file.get(), vectors.data(), 1, 8192, RWF_NOWAIT) != 4096) {
                MESSAGE("no reads that fail rather than wait in " << directory);
                continue;
            }
            data.fill(std::byte{0});
            const auto loop = EventLoop::create().value();
            RecordingClient client;
            const auto disk =
                DiskFile::create(std::move(opened), {.path = image.path, .engine = engine, .depth = 2}, *loop)
                    .value();
            disk->set_client(client);
            for (int round = 0; round < 3; ++round) {
                client.done.clear();
                disk->queue(1, {DiskOperation::read, 8192, 4096, vectors});
                disk->start();
                CHECK(client.done.contains(1));
                CHECK(data[4095] == std::byte{7});
                CHECK_FALSE(loop->poll());
            }
        }
}

TEST_CASE("an image truncated beneath the disk fails reads past its end and all writes") {
    for (const DiskFile::Engine engine : engines) {
        if (!available(engine))
            continue;
        Fixture f(engine);
        REQUIRE(ftruncate(f.image.file.get(), 4096 + 512) == 0);
        std::array<std::byte, 1024> data{};
        const std::array vectors{iovec{data.data(), data.size()}};
        CHECK(f.request({DiskOperation::read, 0, 1024, vectors}) == 0);
        // Half of it is there: the short read is continued and then meets the end.
        CHECK(f.request({DiskOperation::read, 4096, 1024, vectors}) == disk_shrunk_error);
        CHECK(f.request({DiskOperation::read, 8192, 1024, vectors}) == disk_shrunk_error);
        CHECK(f.request({DiskOperation::write, 8192, 1024, vectors}) == disk_shrunk_error);
        CHECK(f.request({DiskOperation::flush, 0, 0, {}}) == 0);
        struct stat status{};
        CHECK(fstat(f.image.file.get(), &status) == 0);
        CHECK(status.st_size == 4096 + 512);
    }
}

TEST_CASE("a write that the host cannot hold fails, also when its first part fits") {
    for (const DiskFile::Engine engine : engines) {
        if (!available(engine))
            continue;
        Fixture f(engine);
        rlimit old{};
        REQUIRE(getrlimit(RLIMIT_FSIZE, &old) == 0);
        const auto old_handler = std::signal(SIGXFSZ, SIG_IGN);
        const rlimit limit{.rlim_cur = 8192, .rlim_max = old.rlim_max};
        REQUIRE(setrlimit(RLIMIT_FSIZE, &limit) == 0);
        std::array<std::byte, 1024> data{};
        const std::array vectors{iovec{data.data(), data.size()}};
        const int fits = f.request({DiskOperation::write, 8192 - 1024, 1024, vectors});
        const int cut = f.request({DiskOperation::write, 8192 - 512, 1024, vectors});
        const int past = f.request({DiskOperation::write, 8192, 1024, vectors});
        REQUIRE(setrlimit(RLIMIT_FSIZE, &old) == 0);
        const bool restored = std::signal(SIGXFSZ, old_handler) != SIG_ERR;
        CHECK(restored);
        CHECK(fits == 0);
        CHECK(cut == EFBIG);
        CHECK(past == EFBIG);
    }
}

TEST_CASE("requests larger than a piece go to the host by pieces, and arrive whole") {
    for (const DiskFile::Engine engine : engines) {
        if (!available(engine))
            continue;
        Fixture f(engine, 16_MiB);
        // Cut where no piece is, and with a vector longer than a piece.
        std::vector<std::byte> data(5 * DiskFile::piece_bytes + 512);
        for (size_t i = 0; i < data.size(); ++i)
            data[i] = static_cast<std::byte>(i * 7 / 512);
        const auto vectors_of = [](std::vector<std::byte>& bytes) {
            const std::array ends{size_t{0}, size_t{512}, size_t{700_KiB}, size_t{3_MiB}, bytes.size()};
            std::vector<iovec> vectors;
            for (size_t i = 1; i < ends.size(); ++i)
                vectors.push_back({bytes.data() + ends.at(i - 1), ends.at(i) - ends.at(i - 1)});
            return vectors;
        };
        const auto out = vectors_of(data);
        CHECK(f.request({DiskOperation::write, 1024, data.size(), out}) == 0);
        std::vector<std::byte> back(data.size());
        const auto in = vectors_of(back);
        CHECK(f.request({DiskOperation::read, 1024, back.size(), in}) == 0);
        CHECK(back == data);
        if (f.disk->properties().most_discard == 0)
            continue;
        CHECK(f.request({DiskOperation::write_zeroes_unmap, 1024, data.size(), {}}) == 0);
        CHECK(f.request({DiskOperation::read, 1024, back.size(), in}) == 0);
        CHECK(std::ranges::all_of(back, [](std::byte b) { return b == std::byte{0}; }));
    }
}

TEST_CASE("a disk that is destroyed drops what the host was not handed") {
    for (const DiskFile::Engine engine : engines) {
        if (!available(engine))
            continue;
        const TemporaryFile image(32_MiB);
        std::vector<std::byte> ones(32_MiB, std::byte{1});
        REQUIRE(pwrite(image.file.get(), ones.data(), ones.size(), 0) == 32_MiB);
        const auto loop = EventLoop::create().value();
        RecordingClient client;
        size_t done = 0;
        constexpr size_t requests = 16, bytes = 2_MiB;
        std::array<std::vector<std::byte>, requests> data;
        std::array<iovec, requests> vectors{};
        {
            const auto disk =
                DiskFile::create({.path = image.path, .engine = engine, .depth = requests}, *loop, quiet)
                    .value();
            disk->set_client(client);
            for (uint32_t tag = 0; tag < requests; ++tag) {
                data.at(tag).resize(bytes);
                vectors.at(tag) = {data.at(tag).data(), bytes};
                disk->queue(tag, {DiskOperation::read, tag * bytes, bytes, {&vectors.at(tag), 1}});
            }
            disk->start();
            done = client.done.size();
        }
        CHECK(client.done.size() == done);
        uint64_t read = 0;
        for (const auto& buffer : data)
            read += static_cast<uint64_t>(std::ranges::count(buffer, std::byte{1}));
        CHECK(read <= DiskFile::most_bytes_in_flight);
    }
}

TEST_CASE("one turn of the I/O thread hands the host no more than it may have") {
    for (const std::string& directory : {std::string("/tmp"), std::string("/dev/shm")}) {
        for (const DiskFile::Engine engine : engines) {
            if (!available(engine))
                continue;
            const TemporaryFile image(32_MiB, directory);
            const bool in_memory = DiskImage::open(image.path, false, quiet).value().in_memory;
            const auto loop = EventLoop::create().value();
            RecordingClient client;
            std::vector<std::byte> data(32_MiB);
            const std::array vectors{iovec{data.data(), data.size()}};
            const auto disk =
                DiskFile::create({.path = image.path, .engine = engine, .depth = 1}, *loop, quiet).value();
            disk->set_client(client);
            disk->queue(0, {DiskOperation::write, 0, data.size(), vectors});
            disk->start();
            const uint64_t most = engine == DiskFile::Engine::io_uring || in_memory
                                      ? DiskFile::most_bytes_in_flight
                                      : uint64_t{DiskFile::piece_bytes};
            unsigned turns = 0;
            while (client.done.empty())
                turns += loop->poll() ? 1U : 0U;
            CHECK(client.done.at(0) == 0);
            CHECK(turns >= data.size() / most - 1);
        }
    }
}

TEST_CASE("a disk destroyed with requests in flight waits for them") {
    const TemporaryFile image(16_MiB);
    const auto loop = EventLoop::create().value();
    RecordingClient client;
    std::vector<std::byte> data(16_MiB, std::byte{0x5a});
    const std::array vectors{iovec{data.data(), data.size()}};
    {
        const auto disk = DiskFile::create({.path = image.path, .depth = 4}, *loop, quiet).value();
        disk->set_client(client);
        for (uint32_t tag = 0; tag < 4; ++tag)
            disk->queue(tag, {DiskOperation::write, 0, data.size(), vectors});
        disk->start();
    }
    CHECK(client.done.empty());
}

} // namespace
} // namespace casemate::virtio
