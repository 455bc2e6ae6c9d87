// SPDX-License-Identifier: Apache-2.0
#include "base/event_log.hpp"

#include <algorithm>
#include <array>
#include <cerrno>
#include <climits>
#include <fcntl.h>
#include <fmt/core.h>
#include <iterator>
#include <poll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

namespace casemate {
namespace {

constexpr std::string_view replacement_character = "\xef\xbf\xbd"; // U+FFFD

// The well-formed UTF-8 sequences of more than one byte (Unicode 15, table 3-7).
struct Utf8Form {
    uint8_t first_low, first_high;
    uint8_t second_low, second_high;
    size_t length;
};
constexpr std::array utf8_forms{
    Utf8Form{0xc2, 0xdf, 0x80, 0xbf, 2}, Utf8Form{0xe0, 0xe0, 0xa0, 0xbf, 3},
    Utf8Form{0xe1, 0xec, 0x80, 0xbf, 3}, Utf8Form{0xed, 0xed, 0x80, 0x9f, 3},
    Utf8Form{0xee, 0xef, 0x80, 0xbf, 3}, Utf8Form{0xf0, 0xf0, 0x90, 0xbf, 4},
    Utf8Form{0xf1, 0xf3, 0x80, 0xbf, 4}, Utf8Form{0xf4, 0xf4, 0x80, 0x8f, 4},
};

uint8_t byte_of(char c) {
    return static_cast<uint8_t>(c);
}

// Bytes of the sequence of two to four bytes that `text` starts with; 0 when there is none.
size_t utf8_length(std::string_view text) {
    for (const Utf8Form& form : utf8_forms) {
        if (byte_of(text[0]) < form.first_low || byte_of(text[0]) > form.first_high)
            continue;
        if (text.size() < form.length || byte_of(text[1]) < form.second_low ||
            byte_of(text[1]) > form.second_high)
            return 0;
        for (size_t i = 2; i < form.length; ++i)
            if ((byte_of(text[i]) & 0xc0) != 0x80)
                return 0;
        return form.length;
    }
    return 0;
}

void append_string(std::string& json, std::string_view text) {
    json += '"';
    while (!text.empty()) {
        const uint8_t byte = byte_of(text[0]);
        const size_t sequence = byte < 0x80 ? 1 : utf8_length(text);
        if (byte == '"' || byte == '\\') {
            json += '\\';
            json += text[0];
        } else if (byte < 0x20 || byte == 0x7f) {
            fmt::format_to(std::back_inserter(json), "\\u{:04x}", byte);
        } else if (sequence == 0) {
            json += replacement_character;
        } else if (byte == 0xc2 && byte_of(text[1]) < 0xa0) {
            // C1 controls: a terminal takes U+009B for the start of a control sequence.
            fmt::format_to(std::back_inserter(json), "\\u{:04x}", byte_of(text[1]));
        } else {
            json += text.substr(0, sequence);
        }
        text.remove_prefix(std::max(sequence, size_t{1}));
    }
    json += '"';
}

void append_value(std::string& json, const EventValue& value) {
    if (const auto* const truth = std::get_if<bool>(&value))
        json += *truth ? "true" : "false";
    else if (const auto* const number = std::get_if<uint64_t>(&value))
        json += std::to_string(*number);
    else if (const auto* const text = std::get_if<std::string>(&value))
        append_string(json, *text);
}

} // namespace

std::string hex_string(uint64_t value) {
    return fmt::format("{:#x}", value);
}

Result<EventLog> EventLog::open(const char* path, const Log* log) {
    auto opened = std::string_view(path) == "-" ? standard_error() : open_path(path);
    if (opened)
        opened->m_log = log;
    return opened;
}

Result<EventLog> EventLog::open_path(const char* path) {
    // Symbolic links are followed: /dev/fd/3 and /dev/stdout are such.
    constexpr int flags = O_APPEND | O_CREAT | O_NONBLOCK | O_NOCTTY;
    auto fd = open_file(path, O_WRONLY | flags, 0600);
    struct stat status{};
    // ENXIO: a FIFO that nobody reads yet. To open it for reading too does not wait for a reader (fifo(7)).
    if (!fd && fd.error().number() == ENXIO && stat(path, &status) == 0 && S_ISFIFO(status.st_mode))
        fd = open_file(path, O_RDWR | flags, 0600);
    if (!fd)
        return fail(std::move(fd).error().blame(Blame::usage).hint("Name a file that can be written."));
    if (fstat(fd->get(), &status) < 0)
        return fail(Error::system(std::string("fstat ") + path, errno));
    if (S_ISBLK(status.st_mode))
        return fail(Error::usage(fmt::format("{} is a block device", path)).hint("Name a file for events."));
    return EventLog(path, std::move(*fd), Kind::non_blocking);
}

Result<EventLog> EventLog::standard_error() {
    struct stat status{};
    // A descriptor that is closed has /dev/null in its place, open for reading.
    if (const int flags = fcntl(STDERR_FILENO, F_GETFL); flags < 0 || (flags & O_ACCMODE) == O_RDONLY)
        return fail(Error::usage("events on stderr: it is closed").hint("Name a file for events."));
    if (fstat(STDERR_FILENO, &status) < 0)
        return fail(Error::system("fstat stderr", errno));
    // A file has one offset for this and for the log's messages: reopened, they would overwrite each other.
    if (!S_ISREG(status.st_mode) && !S_ISSOCK(status.st_mode))
        if (auto own = open_file("/proc/self/fd/2", O_WRONLY | O_NONBLOCK | O_NOCTTY))
            return EventLog("stderr", std::move(*own), Kind::non_blocking);
    Fd copy(fcntl(STDERR_FILENO, F_DUPFD_CLOEXEC, 0));
    if (!copy)
        return fail(Error::system("duplicate stderr", errno));
    if (S_ISREG(status.st_mode))
        return EventLog("stderr", std::move(copy), Kind::non_blocking);
    return EventLog("stderr", std::move(copy), S_ISSOCK(status.st_mode) ? Kind::socket : Kind::shared);
}

EventLog::EventLog(EventLog&& other) noexcept
    : m_path(std::move(other.m_path))
    , m_log(other.m_log)
    , m_fd(std::move(other.m_fd))
    , m_kind(other.m_kind)
    , m_opened(other.m_opened)
    , m_rest(std::exchange(other.m_rest, {}))
    , m_dropped(other.m_dropped)
    , m_failure(other.m_failure) {}

EventLog::~EventLog() {
    put_rest();
}

// How many bytes the file took; m_failure says why not all.
size_t EventLog::put(std::string_view bytes) {
    size_t done = 0;
    while (done < bytes.size()) {
        const std::string_view left = bytes.substr(done);
        ssize_t written = -1;
        if (m_kind == Kind::socket) {
            written = send(m_fd.get(), left.data(), left.size(), MSG_DONTWAIT | MSG_NOSIGNAL);
        } else if (m_kind == Kind::shared) {
            // pipe(7): POLLOUT promises room for PIPE_BUF bytes.
            pollfd ready{.fd = m_fd.get(), .events = POLLOUT, .revents = 0};
            if (poll(&ready, 1, 0) != 1) {
                m_failure = EAGAIN;
                break;
            }
            written = ::write(m_fd.get(), left.data(), std::min(left.size(), size_t{PIPE_BUF}));
        } else {
            written = ::write(m_fd.get(), left.data(), left.size());
        }
        if (written < 0 && errno == EINTR)
            continue;
        if (written <= 0) {
            m_failure = written < 0 ? errno : EIO;
            break;
        }
        done += static_cast<size_t>(written);
    }
    return done;
}

// Whether the next line may start: the one before has gone out whole.
bool EventLog::put_rest() {
    m_rest.erase(0, put(m_rest));
    return m_rest.empty();
}

// Once, and outside the lock: the log may wait for its own reader.
void EventLog::tell_loss(const std::string& why) const {
    m_log->host(fmt::format("events: {}; the guest runs on, and what is lost of them is counted", why));
}

std::string EventLog::why_lost() const {
    switch (m_failure) {
    case EAGAIN:
        return fmt::format("nobody reads {}, or not as fast as they come", m_path);
    case EPIPE:
        return fmt::format("the reader of {} is gone", m_path);
    default:
        return fmt::format("cannot write to {}: {}", m_path, describe_errno(m_failure));
    }
}

void EventLog::write(std::string_view name, const EventFields& fields) {
    if (!m_fd)
        return;
    std::string first_loss;
    {
        const std::lock_guard lock(m_mutex);
        if ((!put_rest() || !put_line(line_of(name, fields))) && m_dropped++ == 0)
            first_loss = why_lost();
    }
    if (!first_loss.empty() && m_log != nullptr)
        tell_loss(first_loss);
}

std::string EventLog::line_of(std::string_view name, const EventFields& fields) const {
    using std::chrono::duration_cast;
    const auto age =
        duration_cast<std::chrono::microseconds>(std::chrono::steady_clock::now() - m_opened).count();
    std::string line = "{\"event\":";
    append_string(line, name);
    fmt::format_to(std::back_inserter(line), ",\"time\":{}.{:06}", age / 1'000'000, age % 1'000'000);
    for (const auto& [key, value] : fields) {
        line += ',';
        append_string(line, key);
        line += ':';
        append_value(line, value);
    }
    line += "}\n";
    return line;
}

// False when none of it went out.
bool EventLog::put_line(const std::string& line) {
    const size_t taken = put(line);
    if (taken != 0)
        m_rest = line.substr(taken);
    return taken != 0;
}

uint64_t EventLog::dropped() const {
    const std::lock_guard lock(m_mutex);
    return m_dropped;
}

EventLog::Loss EventLog::loss() {
    const std::lock_guard lock(m_mutex);
    const uint64_t events = m_dropped + (put_rest() ? 0 : 1);
    return {.events = events, .why = events != 0 ? why_lost() : ""};
}

RateLimit::Pass RateLimit::take(Clock::time_point now) {
    if (m_passed >= burst && now - m_last < interval) {
        ++m_suppressed;
        return {};
    }
    m_passed = std::min(m_passed + 1, burst);
    m_last = now;
    return {.passes = true, .suppressed = std::exchange(m_suppressed, 0)};
}

} // namespace casemate
