// SPDX-License-Identifier: Apache-2.0
#include "devices/virtio/disk_image.hpp"

#include "pipe.hpp"
#include "temporary_image.hpp"

#include "base/units.hpp"

#include <algorithm>
#include <string_view>

namespace casemate::virtio {
namespace {

using namespace std::literals;

// What is said of an image that is taken.
std::string told(const TemporaryFile& image, bool read_only) {
    const Pipe pipe(O_NONBLOCK);
    CHECK(DiskImage::open(image.path, read_only, Log(pipe.write_end.get())));
    return read_some(pipe.read_end.get());
}

TEST_CASE("bytes behind the last whole sector are told of, in one line") {
    for (const uint64_t bytes : {1000UL, 1024UL, 1025UL}) {
        const TemporaryFile image(bytes);
        CHECK(DiskImage::open(image.path, false, quiet).value().properties.size == align_down(bytes, 512));
        for (const bool read_only : {false, true}) {
            const std::string text = told(image, read_only);
            CHECK(std::ranges::count(text, '\n') == (bytes == 1024 ? 0 : 1));
            CHECK((text.find(image.path) != std::string::npos) == (bytes != 1024));
            if (bytes != 1024)
                CHECK(text.find("the last " + std::to_string(bytes % 512)) != std::string::npos);
        }
    }
}

TEST_CASE("an image in a format that is not raw is told of and taken") {
    const auto told_of = [](std::string_view start, bool read_only) {
        const TemporaryFile image(4096);
        REQUIRE(pwrite(image.file.get(), start.data(), start.size(), 0) == std::ssize(start));
        const std::string text = told(image, read_only);
        CHECK(text.empty() == (text.find("disk image " + image.path + " begins as ") == std::string::npos));
        return text;
    };
    for (const bool read_only : {false, true}) {
        CHECK(told_of("", read_only).empty());
        CHECK(told_of("\xeb\x63\x90"sv, read_only).empty()); // a boot sector
        CHECK(told_of("070701"sv, read_only).empty());       // an archive that a guest may unpack
        const std::string qcow = told_of("QFI\xfb"sv, read_only);
        CHECK(qcow.find("a qcow2 image, and") != std::string::npos);
        CHECK(qcow.find("qemu-img convert -O raw") != std::string::npos);
        CHECK(std::ranges::count(qcow, '\n') == 1);
        const std::string xz = told_of("\xfd\x37zXZ\0"sv, read_only);
        CHECK(xz.find("an xz file, and") != std::string::npos);
        CHECK(xz.find("unpack it first") != std::string::npos);
        CHECK(std::ranges::count(xz, '\n') == 1);
    }
}

TEST_CASE("one writer or many readers, and the error names the image") {
    const TemporaryFile image(4096);
    {
        const auto first = DiskImage::open(image.path, false, quiet);
        REQUIRE(first);
        for (const bool read_only : {false, true}) {
            const auto second = DiskImage::open(image.path, read_only, quiet);
            REQUIRE_FALSE(second);
            CHECK(second.error().message().find(image.path) != std::string::npos);
            CHECK(second.error().blame() == Blame::usage);
        }
    }
    const auto first = DiskImage::open(image.path, true, quiet);
    REQUIRE(first);
    CHECK(DiskImage::open(image.path, true, quiet));
    CHECK_FALSE(DiskImage::open(image.path, false, quiet));
}

TEST_CASE("what is no disk image is refused by name") {
    const TemporaryFile empty(0);
    for (const std::string& path : {"/tmp"s, "/dev/null"s, "/nonexistent/disk"s, empty.path}) {
        const auto image = DiskImage::open(path, false, quiet);
        REQUIRE_FALSE(image);
        CHECK(image.error().message().find(path) != std::string::npos);
        CHECK(image.error().blame() == Blame::usage);
    }
}

} // namespace
} // namespace casemate::virtio
