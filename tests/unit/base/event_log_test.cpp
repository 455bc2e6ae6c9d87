// SPDX-License-Identifier: Apache-2.0
#include "base/event_log.hpp"

#include "pipe.hpp"

#include <algorithm>
#include <array>
#include <cerrno>
#include <csignal>
#include <cstdlib>
#include <doctest/doctest.h>
#include <fcntl.h>
#include <nlohmann/json.hpp>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <thread>
#include <unistd.h>

namespace casemate {
namespace {

std::string path_of(const Fd& fd) {
    return "/proc/self/fd/" + std::to_string(fd.get());
}

Fd memory_file() {
    return Fd(memfd_create("events", MFD_CLOEXEC));
}

// All there is to read without waiting.
std::string read_all(const Fd& fd) {
    std::string text;
    for (std::string part; !(part = read_some(fd.get(), 65536)).empty();)
        text += part;
    return text;
}

std::vector<nlohmann::ordered_json> lines_of(const std::string& text) {
    std::vector<nlohmann::ordered_json> lines;
    for (size_t at = 0; at < text.size();) {
        const size_t end = text.find('\n', at);
        REQUIRE(end != std::string::npos);
        lines.push_back(nlohmann::ordered_json::parse(text.substr(at, end - at), nullptr, false));
        CHECK_FALSE(lines.back().is_discarded());
        at = end + 1;
    }
    return lines;
}

// An event whose one field holds `text`, as a line.
std::string line_with(std::string_view text) {
    const Fd file = memory_file();
    auto log = EventLog::open(path_of(file).c_str());
    REQUIRE(log);
    log->write("e", {{"text", std::string(text)}});
    return read_all(file);
}

struct Directory {
    std::string path = "/tmp/casemate-events-XXXXXX";
    Directory() { REQUIRE(mkdtemp(path.data()) != nullptr); }
    Directory(const Directory&) = delete;
    Directory& operator=(const Directory&) = delete;
    ~Directory() {
        unlink((path + "/events").c_str());
        rmdir(path.c_str());
    }
    std::string file() const { return path + "/events"; }
};

// Makes `fd` stderr while it lives.
struct StandardError {
    Fd saved;
    explicit StandardError(const Fd& fd)
        : saved(dup(STDERR_FILENO)) {
        REQUIRE(dup2(fd.get(), STDERR_FILENO) == STDERR_FILENO);
    }
    StandardError(const StandardError&) = delete;
    StandardError& operator=(const StandardError&) = delete;
    ~StandardError() { dup2(saved.get(), STDERR_FILENO); }
};

TEST_CASE("an event is one JSON line with its name first, then the time, then its fields in order") {
    const Fd file = memory_file();
    auto log = EventLog::open(path_of(file).c_str());
    REQUIRE(log);
    log->write("lock", {{"gpa", hex_string(0x1f000)}, {"bytes", ~uint64_t{0}}, {"again", false}});
    const std::string text = read_all(file);
    CHECK(text.starts_with("{\"event\":\"lock\",\"time\":0."));
    CHECK(text.find(",\"gpa\":\"0x1f000\",\"bytes\":18446744073709551615,\"again\":false}\n") ==
          std::string("{\"event\":\"lock\",\"time\":0.000000").size());
    CHECK(lines_of(text).size() == 1);
    CHECK(log->dropped() == 0);
}

TEST_CASE("hostile strings come out escaped, and never as bytes that a terminal obeys" *
          doctest::test_suite("exhaustive")) {
    CHECK(line_with("\"\\\n\x1b[2J\x7f").find(R"("text":"\"\\\u000a\u001b[2J\u007f")") != std::string::npos);
    CHECK(line_with({"a\0b", 3}).find(R"("a\u0000b")") != std::string::npos);
    CHECK(line_with("\xc2\x9b"
                    "31m\xc2\xa0")
              .find("\"\\u009b31m\xc2\xa0\"") != std::string::npos);
    CHECK(line_with("\xe2\x82\xac \xf0\x9f\x98\x80").find("\"\xe2\x82\xac \xf0\x9f\x98\x80\"") !=
          std::string::npos);
    // Overlong, surrogate, too high, cut, a lone continuation, bytes that are never UTF-8.
    for (const char* bad : {"\xc0\xaf", "\xc1\xbf", "\xe0\x80\xaf", "\xed\xa0\x80", "\xf4\x90\x80\x80",
                            "\xf8\x88\x80\x80\x80", "\xe2\x82", "\xf0\x9f\x98", "\xe2", "\x80", "\xff\xfe",
                            "\xf0\x80\x80\x80", "\xe2\x28\xa1", "\xf0\x9f\x28\x80"}) {
        CAPTURE(bad);
        const std::string line = line_with(bad);
        CHECK(line.find("\xef\xbf\xbd") != std::string::npos);
        CHECK(lines_of(line).size() == 1); // the parser insists on UTF-8
    }
    for (unsigned first = 0; first < 256; ++first)
        for (unsigned second = 0; second < 256; ++second) {
            const std::array<char, 4> bytes{static_cast<char>(first), static_cast<char>(second), 'x', '"'};
            const std::string line = line_with({bytes.data(), bytes.size()});
            REQUIRE_FALSE(nlohmann::json::parse(line, nullptr, false).is_discarded());
            REQUIRE(std::count_if(line.begin(), line.end(), [](char c) {
                        return static_cast<unsigned char>(c) < 0x20 || c == 0x7f;
                    }) == 1);
        }
}

TEST_CASE("a full pipe stops nobody: whole lines are dropped and counted, none is torn") {
    for (const size_t field_bytes : {size_t{10}, size_t{1000}, size_t{9000}, size_t{70000}}) {
        CAPTURE(field_bytes);
        const Pipe pipe(O_NONBLOCK);
        auto log = EventLog::open(path_of(pipe.write_end).c_str());
        REQUIRE(log);
        constexpr uint64_t events = 3000;
        std::string text;
        for (uint64_t i = 0; i < events; ++i) {
            log->write("e", {{"number", i}, {"text", std::string(field_bytes, 'x')}});
            if (i % 1000 == 999)
                text += read_some(pipe.read_end.get(), 5000);
        }
        CHECK(log->dropped() > 0);
        text += read_all(pipe.read_end);
        log->write("last", {});
        text += read_all(pipe.read_end);
        log->write("last", {});
        text += read_all(pipe.read_end);
        const auto lines = lines_of(text);
        CHECK(lines.size() + log->dropped() == events + 2);
        CHECK(lines.back()["event"] == "last");
    }
}

TEST_CASE("a full disk costs events, not the monitor, and is told of once") {
    const Pipe messages(O_NONBLOCK);
    const Log told(messages.write_end.get());
    auto log = EventLog::open("/dev/full", &told);
    REQUIRE(log);
    CHECK(log->loss().events == 0);
    CHECK(log->loss().why.empty());
    CHECK(read_all(messages.read_end).empty());
    log->write("e", {});
    const std::string message = read_all(messages.read_end);
    CHECK(message ==
          "casemate: events: cannot write to /dev/full: No space left on device; the guest runs on, "
          "and what is lost of them is counted\n");
    log->write("e", {});
    CHECK(read_all(messages.read_end).empty());
    CHECK(log->dropped() == 2);
    CHECK(log->loss().events == 2);
    CHECK(log->loss().why == "cannot write to /dev/full: No space left on device");
}

TEST_CASE("whoever does not read events, or no more, is told of by name; a line that is cut is lost") {
    const Directory directory;
    REQUIRE(mkfifo(directory.file().c_str(), 0600) == 0);
    Fd reader(open(directory.file().c_str(), O_RDONLY | O_NONBLOCK | O_CLOEXEC));
    const Pipe messages(O_NONBLOCK);
    const Log told(messages.write_end.get());
    auto log = EventLog::open(directory.file().c_str(), &told);
    REQUIRE(log);
    log->write("long", {{"text", std::string(100'000, 'x')}});
    CHECK(log->dropped() == 0);
    CHECK(log->loss().events == 1);
    CHECK(read_all(messages.read_end).empty());
    log->write("e", {});
    CHECK(read_all(messages.read_end).find("nobody reads " + directory.file()) != std::string::npos);
    CHECK(log->loss().events == 2);
    read_all(reader);
    read_all(reader);
    CHECK(log->loss().events == 1);
    // The process that runs these tests ignores SIGPIPE, as the monitor does.
    const auto before = std::signal(SIGPIPE, SIG_IGN);
    reader = Fd();
    log->write("e", {});
    CHECK(log->loss().events == 2);
    CHECK(log->loss().why == "the reader of " + directory.file() + " is gone");
    static_cast<void>(std::signal(SIGPIPE, before));
}

TEST_CASE("a full disk that gets room again takes events again, each line whole") {
    const Fd file = memory_file();
    const rlimit64 none{.rlim_cur = 0, .rlim_max = RLIM64_INFINITY};
    rlimit64 before{};
    REQUIRE(getrlimit64(RLIMIT_FSIZE, &before) == 0);
    const auto handler = std::signal(SIGXFSZ, SIG_IGN);
    auto log = EventLog::open(path_of(file).c_str());
    REQUIRE(log);
    rlimit64 small = none;
    small.rlim_cur = 75; // two lines of 30 bytes and a part
    small.rlim_max = before.rlim_max;
    REQUIRE(setrlimit64(RLIMIT_FSIZE, &small) == 0);
    for (int i = 0; i < 5; ++i)
        log->write("e", {});
    const auto lost = log->loss();
    setrlimit64(RLIMIT_FSIZE, &before);
    log->write("last", {});
    static_cast<void>(std::signal(SIGXFSZ, handler));
    CHECK(lost.why.find("File too large") != std::string::npos);
    CHECK(lost.events == 3);
    const auto lines = lines_of(read_all(file));
    CHECK(lines.size() == 4);
    CHECK(lines.back()["event"] == "last");
    CHECK(log->loss().events == 2);
}

TEST_CASE("a closed stderr takes no events") {
    const Fd null(open("/dev/null", O_RDONLY | O_CLOEXEC));
    REQUIRE(null);
    const StandardError standard_error(null);
    const auto log = EventLog::open("-");
    REQUIRE_FALSE(log);
    CHECK(log.error().message() == "events on stderr: it is closed; Name a file for events.");
    CHECK(log.error().blame() == Blame::usage);
}

TEST_CASE("events are appended to a file that only its owner may read") {
    const Directory directory;
    const mode_t old_mask = umask(0);
    for (int round = 0; round < 2; ++round) {
        auto log = EventLog::open(directory.file().c_str());
        REQUIRE(log);
        log->write("e", {});
    }
    umask(old_mask);
    struct stat status{};
    REQUIRE(stat(directory.file().c_str(), &status) == 0);
    CHECK((status.st_mode & 0777) == 0600);
    CHECK(lines_of(read_all(Fd(open(directory.file().c_str(), O_RDONLY | O_CLOEXEC)))).size() == 2);
}

TEST_CASE("a FIFO without a reader neither stops the start nor loses the first events") {
    const Directory directory;
    REQUIRE(mkfifo(directory.file().c_str(), 0600) == 0);
    auto log = EventLog::open(directory.file().c_str());
    REQUIRE(log);
    log->write("early", {});
    const Fd reader(open(directory.file().c_str(), O_RDONLY | O_NONBLOCK | O_CLOEXEC));
    CHECK(lines_of(read_all(reader)).size() == 1);
    for (int i = 0; i < 10000; ++i)
        log->write("unread", {});
    CHECK(log->dropped() > 0);
}

TEST_CASE("a file that cannot take events is a usage error that names it") {
    for (const char* bad : {"/nowhere/events", "/tmp", "/proc/self/comm/x", ""}) {
        CAPTURE(bad);
        const auto log = EventLog::open(bad);
        REQUIRE_FALSE(log);
        CHECK(log.error().blame() == Blame::usage);
        CHECK(log.error().message().find(bad) != std::string::npos);
    }
}

TEST_CASE("stderr as a pipe is not made non-blocking for others, and does not block us") {
    const Pipe pipe(O_NONBLOCK);
    const int flags = fcntl(pipe.write_end.get(), F_GETFL);
    REQUIRE(fcntl(pipe.write_end.get(), F_SETFL, flags & ~O_NONBLOCK) == 0);
    uint64_t dropped = 0;
    {
        const StandardError standard_error(pipe.write_end);
        auto log = EventLog::open("-");
        REQUIRE(log);
        for (int i = 0; i < 5000; ++i)
            log->write("e", {});
        dropped = log->dropped();
        CHECK((fcntl(STDERR_FILENO, F_GETFL) & O_NONBLOCK) == 0);
    }
    CHECK(dropped > 0);
    CHECK(lines_of(read_all(pipe.read_end)).size() + dropped == 5000);
}

TEST_CASE("stderr as a socket does not block us") {
    std::array<int, 2> ends{};
    REQUIRE(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends.data()) == 0);
    const Fd ours(ends[0]);
    const Fd theirs(ends[1]);
    uint64_t dropped = 0;
    {
        const StandardError standard_error(ours);
        auto log = EventLog::open("-");
        REQUIRE(log);
        for (int i = 0; i < 20000; ++i)
            log->write("e", {{"text", std::string(100, 'x')}});
        dropped = log->dropped();
    }
    CHECK(dropped > 0);
    REQUIRE(fcntl(theirs.get(), F_SETFL, O_NONBLOCK) == 0);
    std::string text = read_all(theirs);
    text.erase(text.rfind('\n') + 1); // the reader came too late for the end of that line
    CHECK(lines_of(text).size() + dropped <= 20000);
    CHECK(lines_of(text).size() + dropped >= 19999);
}

TEST_CASE("stderr as a file keeps what others write to it") {
    const Fd file = memory_file();
    {
        const StandardError standard_error(file);
        auto log = EventLog::open("-");
        REQUIRE(log);
        for (int i = 0; i < 3; ++i) {
            log->write("e", {});
            REQUIRE(write(STDERR_FILENO, "message\n", 8) == 8);
        }
    }
    std::string text(1000, '\0');
    const ssize_t got = pread(file.get(), text.data(), text.size(), 0);
    REQUIRE(got > 0);
    text.resize(static_cast<size_t>(got));
    CHECK(std::count(text.begin(), text.end(), '\n') == 6);
    CHECK(text.find("message\n{\"event\"") != std::string::npos);
}

TEST_CASE("without a file events go nowhere; a moved log goes on") {
    EventLog none;
    none.write("e", {});
    CHECK(none.dropped() == 0);
    const Fd file = memory_file();
    auto log = EventLog::open(path_of(file).c_str());
    REQUIRE(log);
    EventLog moved(std::move(*log));
    moved.write("e", {});
    CHECK(lines_of(read_all(file)).size() == 1);
}

TEST_CASE("lines of several threads do not mix") {
    const Fd file = memory_file();
    auto log = EventLog::open(path_of(file).c_str());
    REQUIRE(log);
    std::vector<std::thread> threads;
    threads.reserve(4);
    for (uint64_t thread = 0; thread < 4; ++thread)
        threads.emplace_back([&log, thread] {
            for (uint64_t i = 0; i < 500; ++i)
                log->write("e", {{"thread", thread}, {"text", std::string(50, 'x')}});
        });
    for (std::thread& thread : threads)
        thread.join();
    CHECK(lines_of(read_all(file)).size() == 2000);
}

TEST_CASE("a burst passes, then one event an interval, which tells how many were held back") {
    RateLimit limit;
    auto now = RateLimit::Clock::time_point{} + std::chrono::hours(1);
    for (unsigned i = 0; i < RateLimit::burst; ++i)
        CHECK(limit.take(now).passes);
    for (int i = 0; i < 5; ++i)
        CHECK_FALSE(limit.take(now).passes);
    now += RateLimit::interval - std::chrono::milliseconds(1);
    CHECK_FALSE(limit.take(now).passes);
    now += std::chrono::milliseconds(1);
    const auto pass = limit.take(now);
    CHECK(pass.passes);
    CHECK(pass.suppressed == 6);
    CHECK_FALSE(limit.take(now).passes);
    CHECK(limit.take(now + RateLimit::interval).suppressed == 1);
}

} // namespace
} // namespace casemate
