// SPDX-License-Identifier: Apache-2.0
#include "devices/virtio/disk_file.hpp"

#include "io_thread.hpp"

#include "base/units.hpp"

#include <algorithm>
#include <array>
#include <csignal>
#include <cstring>
#include <fcntl.h>
#include <map>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

namespace casemate::virtio {
namespace {

struct TemporaryFile {
    std::string path = "/tmp/casemate-disk-XXXXXX";
    Fd file;
    explicit TemporaryFile(uint64_t bytes)
        : file(mkostemp(path.data(), O_CLOEXEC)) {
        REQUIRE(file);
        REQUIRE(ftruncate(file.get(), static_cast<off_t>(bytes)) == 0);
    }
    TemporaryFile(const TemporaryFile&) = delete;
    TemporaryFile& operator=(const TemporaryFile&) = delete;
    ~TemporaryFile() { unlink(path.c_str()); }
};

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
    explicit Fixture(DiskFile::Engine engine, uint64_t bytes = 64_KiB)
        : image(bytes) {
        disk = DiskFile::create({.path = image.path, .engine = engine, .depth = 8}, io.loop()).value();
        disk->set_client(client);
    }
    ~Fixture() {
        io.run([&] { disk.reset(); });
    }
    Fixture(const Fixture&) = delete;
    Fixture& operator=(const Fixture&) = delete;

    // The error of one request, -1 when it never completes.
    int request(const DiskRequest& request) {
        io.run([&] {
            client.done.clear();
            disk->queue(3, request);
            disk->start();
            CHECK(client.done.empty()); // never from inside
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
    if (DiskFile::create({.path = image.path, .engine = engine}, *loop))
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
        CHECK(f.disk->size_bytes() == 64_KiB);
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
        if (f.disk->can_discard()) {
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

TEST_CASE("zeroes that stay allocated are written or unsupported, never forgotten") {
    for (const DiskFile::Engine engine : engines) {
        if (!available(engine))
            continue;
        Fixture f(engine);
        std::array<std::byte, 512> data{};
        data.fill(std::byte{0x33});
        const std::array vectors{iovec{data.data(), data.size()}};
        REQUIRE(f.request({DiskOperation::write, 0, 512, vectors}) == 0);
        const int error = f.request({DiskOperation::write_zeroes, 0, 512, {}});
        REQUIRE(f.request({DiskOperation::read, 0, 512, vectors}) == 0);
        CHECK((error == 0 || error == EOPNOTSUPP));
        CHECK((data[511] == std::byte{0}) == (error == 0));
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

TEST_CASE("one writer or many readers, and the error names the image") {
    const TemporaryFile image(4096);
    const auto loop = EventLoop::create().value();
    const DiskFile::Options writer{.path = image.path};
    const DiskFile::Options reader{.path = image.path, .read_only = true};
    {
        const auto first = DiskFile::create(writer, *loop);
        REQUIRE(first);
        for (const auto& options : {writer, reader}) {
            const auto second = DiskFile::create(options, *loop);
            REQUIRE_FALSE(second);
            CHECK(second.error().message().find(image.path) != std::string::npos);
            CHECK(second.error().blame() == Blame::usage);
        }
    }
    const auto first = DiskFile::create(reader, *loop);
    REQUIRE(first);
    CHECK(DiskFile::create(reader, *loop));
    CHECK_FALSE(DiskFile::create(writer, *loop));
}

TEST_CASE("what is no disk image is refused by name") {
    const auto loop = EventLoop::create().value();
    const TemporaryFile empty(0);
    for (const std::string& path :
         {std::string("/tmp"), std::string("/dev/null"), std::string("/nonexistent/disk"), empty.path}) {
        const auto disk = DiskFile::create({.path = path}, *loop);
        REQUIRE_FALSE(disk);
        CHECK(disk.error().message().find(path) != std::string::npos);
        CHECK(disk.error().blame() == Blame::usage);
    }
    const TemporaryFile ragged(1000);
    CHECK(DiskFile::create({.path = ragged.path}, *loop).value()->size_bytes() == 512);
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
        if (!f.disk->can_discard())
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
        constexpr size_t requests = 16, bytes = 2_MiB;
        std::array<std::vector<std::byte>, requests> data;
        std::array<iovec, requests> vectors{};
        {
            const auto disk =
                DiskFile::create({.path = image.path, .engine = engine, .depth = requests}, *loop).value();
            disk->set_client(client);
            for (uint32_t tag = 0; tag < requests; ++tag) {
                data.at(tag).resize(bytes);
                vectors.at(tag) = {data.at(tag).data(), bytes};
                disk->queue(tag, {DiskOperation::read, tag * bytes, bytes, {&vectors.at(tag), 1}});
            }
            disk->start();
        }
        CHECK(client.done.empty());
        uint64_t read = 0;
        for (const auto& buffer : data)
            read += static_cast<uint64_t>(std::ranges::count(buffer, std::byte{1}));
        CHECK(read <= DiskFile::most_bytes_in_flight);
        CHECK((read != 0) == (engine == DiskFile::Engine::io_uring));
    }
}

TEST_CASE("one turn of the I/O thread hands the host no more than it may have") {
    for (const DiskFile::Engine engine : engines) {
        if (!available(engine))
            continue;
        const TemporaryFile image(32_MiB);
        const auto loop = EventLoop::create().value();
        RecordingClient client;
        std::vector<std::byte> data(32_MiB);
        const std::array vectors{iovec{data.data(), data.size()}};
        const auto disk = DiskFile::create({.path = image.path, .engine = engine, .depth = 1}, *loop).value();
        disk->set_client(client);
        disk->queue(0, {DiskOperation::write, 0, data.size(), vectors});
        disk->start();
        const uint64_t most = engine == DiskFile::Engine::io_uring ? DiskFile::most_bytes_in_flight
                                                                   : uint64_t{DiskFile::piece_bytes};
        unsigned turns = 0;
        while (client.done.empty())
            turns += loop->poll() ? 1U : 0U;
        CHECK(client.done.at(0) == 0);
        CHECK(turns >= data.size() / most - 1);
    }
}

TEST_CASE("a disk destroyed with requests in flight waits for them") {
    const TemporaryFile image(16_MiB);
    const auto loop = EventLoop::create().value();
    RecordingClient client;
    std::vector<std::byte> data(16_MiB, std::byte{0x5a});
    const std::array vectors{iovec{data.data(), data.size()}};
    {
        const auto disk = DiskFile::create({.path = image.path, .depth = 4}, *loop).value();
        disk->set_client(client);
        for (uint32_t tag = 0; tag < 4; ++tag)
            disk->queue(tag, {DiskOperation::write, 0, data.size(), vectors});
        disk->start();
    }
    CHECK(client.done.empty());
}

} // namespace
} // namespace casemate::virtio
