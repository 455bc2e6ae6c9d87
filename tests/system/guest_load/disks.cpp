// SPDX-License-Identifier: Apache-2.0
// Files on a disk whose host may stop at any moment. `durable` says of each file when it has to outlive that,
// `surviving` looks at what is left afterwards. Both work in the directory they are started in; what a file
// holds follows from that directory's name and from the file's own, which is "NUMBER.SIZE".
#include "load.hpp"

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <dirent.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <linux/magic.h>
#include <map>
#include <string>
#include <sys/ioctl.h>
#include <sys/statfs.h>
#include <unistd.h>
#include <vector>

namespace load {
namespace {

// Older ones are removed; so many have to be there whenever the host stops.
constexpr unsigned files_kept = 8;
constexpr size_t most_bytes = 384U << 10;
constexpr size_t block_bytes = 4096;
constexpr unsigned trim_interval = 16;

uint64_t mixed(uint64_t value) { // splitmix64
    value += 0x9e3779b97f4a7c15;
    value = (value ^ (value >> 30)) * 0xbf58476d1ce4e5b9;
    value = (value ^ (value >> 27)) * 0x94d049bb133111eb;
    return value ^ (value >> 31);
}

class Random {
public:
    explicit Random(uint64_t seed)
        : m_state(seed) {}
    uint64_t below(uint64_t limit) { return (m_state = mixed(m_state)) % limit; }

private:
    uint64_t m_state;
};

struct Place {
    std::string name; // of the directory
    uint64_t seed = 0;
    bool shares_blocks = false; // the file system has reflinks
};

Place here() {
    std::array<char, 256> name{};
    check(getcwd(name.data(), name.size()) != nullptr, "getcwd");
    Place place{.name = name.data()};
    for (const char c : place.name)
        place.seed = mixed(place.seed + static_cast<unsigned char>(c));
    struct statfs status{};
    must("statfs", statfs(".", &status));
    place.shares_blocks = status.f_type == BTRFS_SUPER_MAGIC || status.f_type == XFS_SUPER_MAGIC;
    return place;
}

std::string file_name(unsigned number, size_t size) {
    return std::to_string(number) + "." + std::to_string(size);
}

// What the file `number` of `size` bytes holds.
std::vector<uint64_t> content(const Place& place, unsigned number, size_t size) {
    std::vector<uint64_t> words((size + sizeof(uint64_t) - 1) / sizeof(uint64_t));
    uint64_t state = mixed(place.seed + number);
    for (uint64_t& word : words)
        word = state = state * 6364136223846793005 + 1442695040888963407;
    return words;
}

// From the disk, not from the page cache: what is clean there is dropped first.
bool holds(const Place& place, const std::string& name, unsigned number, size_t size) {
    const int file = must("open", open(name.c_str(), O_RDONLY | O_CLOEXEC));
    must("fsync", fsync(file));
    must("posix_fadvise", -posix_fadvise(file, 0, 0, POSIX_FADV_DONTNEED));
    std::vector<char> found(size + 1);
    size_t have = 0;
    ssize_t count = 0;
    while ((count = read(file, &found[have], found.size() - have)) > 0)
        have += static_cast<size_t>(count);
    must("read", count);
    close(file);
    const auto expected = content(place, number, size);
    return have == size && std::memcmp(found.data(), expected.data(), size) == 0;
}

void write_at(int file, const char* from, size_t size, size_t offset) {
    check(pwrite(file, from + offset, size, static_cast<off_t>(offset)) == static_cast<ssize_t>(size),
          "pwrite");
}

// Whole blocks past the page cache, the rest through it.
void write_direct(int file, const char* bytes, size_t size) {
    const size_t whole = size / block_bytes * block_bytes;
    void* aligned = nullptr;
    check(posix_memalign(&aligned, block_bytes, most_bytes) == 0, "posix_memalign");
    std::memcpy(aligned, bytes, whole);
    must("fcntl", fcntl(file, F_SETFL, O_DIRECT));
    if (whole != 0)
        write_at(file, static_cast<const char*>(aligned), whole, 0);
    must("fcntl", fcntl(file, F_SETFL, 0));
    if (whole != size)
        write_at(file, bytes, size - whole, whole);
    std::free(aligned);
}

// In pieces of any size, the last ones first.
void write_pieces(int file, const char* bytes, size_t size, Random& random) {
    for (size_t end = size; end > 0;) {
        const size_t piece = 1 + random.below(std::min<size_t>(end, 64U << 10));
        end -= piece;
        write_at(file, bytes, piece, end);
    }
}

// A clone that is changed and goes leaves the original alone; ext4 has to refuse it.
void clone(const Place& place, const std::string& name, unsigned number, size_t size) {
    const int original = must("open", open(name.c_str(), O_RDONLY | O_CLOEXEC));
    const int copy = must("open", open("clone", O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600));
    const int done = ioctl(copy, FICLONE, original);
    if (!place.shares_blocks)
        check(done < 0 && errno == EOPNOTSUPP, "a file system without reflinks made one");
    else
        must("ioctl FICLONE", done);
    if (done == 0) {
        check(holds(place, "clone", number, size), "a clone differs");
        const auto middle = static_cast<off_t>(size / 2);
        must("fallocate", fallocate(copy, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, middle,
                                    static_cast<off_t>(size) - middle));
        check(write(copy, "changed", 7) == 7, "write");
        must("fsync", fsync(copy));
        check(holds(place, name, number, size), "a clone's change is in its original");
    }
    close(copy);
    close(original);
    must("unlink", unlink("clone"));
}

void trim() {
    const int directory = must("open", open(".", O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    fstrim_range range{.start = 0, .len = UINT64_MAX, .minlen = 0};
    must("ioctl FITRIM", ioctl(directory, FITRIM, &range));
    close(directory);
}

void write_file(const Place& place, unsigned number, size_t size, Random& random) {
    const auto words = content(place, number, size);
    const auto* bytes = reinterpret_cast<const char*>(words.data());
    const int file = must("open", open("new", O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600));
    if (random.below(3) == 0)
        must("fallocate", fallocate(file, 0, 0, static_cast<off_t>(size)));
    if (random.below(3) == 0)
        write_direct(file, bytes, size);
    else
        write_pieces(file, bytes, size, random);
    must("fsync", random.below(2) == 0 ? fsync(file) : fdatasync(file));
    close(file);
    must("rename", rename("new", file_name(number, size).c_str()));
}

void durable(unsigned rounds) {
    const Place place = here();
    const int directory = must("open", open(".", O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    Random random(place.seed);
    std::map<unsigned, size_t> sizes;
    for (unsigned number = 1; number <= rounds; ++number) {
        const size_t size = 1 + random.below(random.below(4) == 0 ? most_bytes : 2 * block_bytes);
        write_file(place, number, size, random);
        must("fsync", fsync(directory));
        sizes[number] = size;
        dprintf(STDOUT_FILENO, "durable %s %u\n", place.name.c_str(), number);
        if (number > files_kept) {
            must("unlink", unlink(file_name(number - files_kept, sizes[number - files_kept]).c_str()));
            sizes.erase(number - files_kept);
        }
        auto any = sizes.begin();
        std::advance(any, static_cast<long>(random.below(sizes.size())));
        check(holds(place, file_name(any->first, any->second), any->first, any->second),
              "a file has changed");
        if (random.below(4) == 0)
            clone(place, file_name(number, size), number, size);
        if (number % trim_interval == 0)
            trim();
    }
    close(directory);
}

// Says the last file there is; those before it have to be there too, and all have to hold what they should.
void surviving(unsigned) {
    const Place place = here();
    std::map<unsigned, size_t> sizes;
    DIR* const directory = opendir(".");
    check(directory != nullptr, "opendir");
    while (const dirent* const entry = readdir(directory)) {
        unsigned number = 0;
        size_t size = 0;
        if (std::sscanf(entry->d_name, "%u.%zu", &number, &size) == 2)
            sizes[number] = size;
    }
    closedir(directory);
    check(!sizes.empty(), "no file is left");
    const unsigned last = sizes.rbegin()->first;
    for (unsigned number = last > files_kept ? last - files_kept + 1 : 1; number <= last; ++number)
        if (!sizes.contains(number))
            fail("file %u of %s is gone, and %u is there", number, place.name.c_str(), last);
    for (const auto& [number, size] : sizes)
        if (!holds(place, file_name(number, size), number, size))
            fail("file %u of %s is not as it was", number, place.name.c_str());
    dprintf(STDOUT_FILENO, "surviving %s %u\n", place.name.c_str(), last);
}

constexpr Step steps[] = {{"durable", durable}, {"surviving", surviving}};

} // namespace

std::span<const Step> disk_steps() {
    return steps;
}

} // namespace load
