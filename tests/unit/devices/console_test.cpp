// SPDX-License-Identifier: Apache-2.0
#include "devices/console.hpp"

#include "pipe.hpp"
#include "serial_fakes.hpp"

#include <algorithm>
#include <cstdlib>
#include <doctest/doctest.h>
#include <fcntl.h>
#include <poll.h>
#include <pty.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <thread>
#include <unistd.h>
#include <vector>

namespace casemate {
namespace {

using namespace std::chrono_literals;

bool wait_until(const auto& condition) {
    for (int i = 0; i < 300'000; ++i) {
        if (condition())
            return true;
        std::this_thread::sleep_for(100us);
    }
    return false;
}

// A guest's serial port on a console, with its I/O thread.
struct Machine {
    std::unique_ptr<EventLoop> loop = EventLoop::create().value();
    Pipe messages;
    Log log{messages.write_end.get()};
    Terminal terminal;
    std::unique_ptr<Console> console;
    CountingLine interrupt;
    std::unique_ptr<Serial> serial;
    std::thread io;

    explicit Machine(Console::Options options)
        : terminal(options.input) {
        console = Console::create(*loop, terminal, log, std::move(options)).value();
        serial = std::make_unique<Serial>(interrupt, *console);
        out(*serial, 2, 0x01);
        out(*serial, 4, 0x0b);
        REQUIRE(console->start(*serial));
        io = std::thread([this] { loop->run(); });
    }
    Machine(const Machine&) = delete;
    Machine& operator=(const Machine&) = delete;
    ~Machine() { stop(); }
    void stop() {
        if (!io.joinable())
            return;
        loop->stop();
        io.join();
        console->finish();
    }

    bool transmitter_empty() { return (in(*serial, 5) & 0x20) != 0; }
    // As a driver does: a burst of 16 whenever the transmitter is empty.
    void print(std::string_view text) {
        while (!text.empty()) {
            while (!transmitter_empty())
                std::this_thread::sleep_for(100us);
            const auto burst = text.substr(0, 16);
            for (const char c : burst)
                out(*serial, 0, static_cast<uint8_t>(c));
            text.remove_prefix(burst.size());
        }
    }
    std::string receive(size_t bytes) {
        std::string got;
        wait_until([&] {
            while (got.size() < bytes && (in(*serial, 5) & 0x01) != 0)
                got.push_back(static_cast<char>(in(*serial, 0)));
            return got.size() >= bytes;
        });
        return got;
    }
};

std::string pattern(size_t bytes) {
    std::string text(bytes, '\0');
    for (size_t i = 0; i < bytes; ++i)
        text[i] = static_cast<char>('A' + i % 53);
    return text;
}

TEST_CASE("what the guest prints within a moment arrives in one piece") {
    const Pipe output;
    Machine machine({.input = -1, .output = output.write_end.get()});
    machine.print("hello from the guest");
    CHECK(read_some(output.read_end.get()) == "hello from the guest");
}

TEST_CASE("a slow reader gets every byte although it pauses longer than a whole page takes") {
    Pipe output;
    Machine machine({.input = -1, .output = output.write_end.get(), .patience = 400ms});
    fcntl(output.write_end.get(), F_SETPIPE_SZ, 4096);
    const std::string text = pattern(60'000);
    std::string got;
    std::jthread reader([&] {
        for (int i = 0; i < 12; ++i) { // the pipe's page lasts longer than the patience
            got += read_some(output.read_end.get(), 100);
            std::this_thread::sleep_for(100ms);
        }
        while (got.size() < text.size())
            got += read_some(output.read_end.get());
    });
    machine.print(text);
    machine.stop();
    output.write_end = Fd();
    reader.join();
    CHECK(got == text);
}

TEST_CASE("a stopped reader holds the guest for its patience only, and hears what it missed") {
    Pipe output;
    Machine machine({.input = -1, .output = output.write_end.get(), .patience = 80ms});
    const std::string text = pattern(300'000);
    machine.print(text); // returns although nobody reads
    const auto readable = [](int descriptor) {
        pollfd entry{.fd = descriptor, .events = POLLIN, .revents = 0};
        return poll(&entry, 1, 0) == 1;
    };
    std::string got;
    std::string messages;
    REQUIRE(wait_until([&] {
        while (readable(output.read_end.get()))
            got += read_some(output.read_end.get());
        while (readable(machine.messages.read_end.get()))
            messages += read_some(machine.messages.read_end.get());
        return messages.find(" bytes ") != std::string::npos;
    }));
    CHECK(messages.starts_with(
        "casemate: console: nobody reads standard output; the guest runs on, and what is "
        "lost of its output is counted\n"));
    machine.print("back");
    REQUIRE(wait_until([&] {
        while (readable(output.read_end.get()))
            got += read_some(output.read_end.get());
        return got.ends_with("back");
    }));
    got.resize(got.size() - 4);
    CHECK(got.size() >= 32 * 1024); // what was held is not dropped
    CHECK(text.starts_with(got));
    CHECK(messages.find(std::to_string(text.size() - got.size()) + " bytes") != std::string::npos);
    // Until then what was held counts as lost, too.
    const Console::Loss lost = machine.console->loss();
    CHECK(lost.bytes == text.size() - got.size());
    CHECK(lost.why == "nobody reads standard output");
}

TEST_CASE("output that cannot be written is counted to the byte, and the first time told of") {
    struct Sink {
        const char* path;
        int flags;
        const char* why;
    };
    for (const auto& [path, flags, why] :
         {Sink{"/dev/full", O_WRONLY, "cannot write to standard output: No space left on device"},
          Sink{"/dev/null", O_RDONLY, "standard output is closed"}}) {
        CAPTURE(path);
        const Fd sink = open_file(path, flags).value();
        Machine machine({.input = -1, .output = sink.get(), .patience = 80ms});
        const std::string text = pattern(100'000);
        machine.print(text);
        machine.stop();
        const Console::Loss lost = machine.console->loss();
        CHECK(lost.bytes == text.size());
        CHECK(lost.why == why);
        const std::string message = read_some(machine.messages.read_end.get());
        CHECK(message.starts_with(std::string("casemate: console: ") + why));
        CHECK(std::count(message.begin(), message.end(), '\n') == 1);
    }
    const Pipe output;
    Machine machine({.input = -1, .output = output.write_end.get()});
    machine.print("all of this");
    CHECK(read_some(output.read_end.get()) == "all of this");
    machine.stop();
    CHECK(machine.console->loss().bytes == 0);
    CHECK(machine.console->loss().why.empty());
}

TEST_CASE("time in which the I/O thread stood still is not the reader's") {
    const Pipe output;
    constexpr auto patience = 1s;
    Machine machine({.input = -1, .output = output.write_end.get(), .patience = patience});
    fcntl(output.write_end.get(), F_SETPIPE_SZ, 4096);
    const std::string text = pattern(100'000);
    const std::jthread guest([&] { machine.print(text); });
    REQUIRE(wait_until([&] { return !machine.transmitter_empty(); }));
    const Fd stop = create_event().value();
    std::atomic<bool> over = false;
    REQUIRE(machine.loop->add(stop.get(), EPOLLIN, [&](uint32_t) {
        std::this_thread::sleep_for(patience * 3 / 2);
        machine.loop->remove(stop.get());
        over = true;
    }));
    signal_event(stop);
    REQUIRE(wait_until([&] { return over.load(); }));
    std::this_thread::sleep_for(50ms); // the loop goes on, and looks for the reader
    std::string got;
    while (got.size() < text.size())
        got += read_some(output.read_end.get());
    CHECK(got == text);
}

TEST_CASE("a reader that is gone does not hold the guest") {
    int ends[2];
    REQUIRE(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) == 0);
    Fd reader(ends[0]);
    const Fd writer(ends[1]);
    Machine machine({.input = -1, .output = writer.get()});
    reader = Fd();
    machine.print(pattern(200'000));
    machine.stop();
    CHECK(read_some(machine.messages.read_end.get()).find("the reader of standard output is gone") !=
          std::string::npos);
    CHECK(machine.console->loss().bytes == 200'000);
}

TEST_CASE("the flags of the user's descriptors stay as they are") {
    const Pipe output;
    const Pipe input;
    Machine machine({.input = input.read_end.get(), .output = output.write_end.get()});
    machine.print("x");
    read_some(output.read_end.get());
    CHECK((fcntl(output.write_end.get(), F_GETFL) & O_NONBLOCK) == 0);
    CHECK((fcntl(input.read_end.get(), F_GETFL) & O_NONBLOCK) == 0);
}

TEST_CASE("a paste of 100 KB into a pipe loses no byte, nor does what came before the port was opened") {
    Pipe input;
    Machine machine({.input = input.read_end.get(), .output = -1});
    out(*machine.serial, 4, 0);
    const std::string text = pattern(100'000);
    const std::jthread user([&] {
        for (size_t done = 0; done < text.size();) {
            const ssize_t count = write(input.write_end.get(), text.data() + done, text.size() - done);
            done += count > 0 ? static_cast<size_t>(count) : 0;
        }
        input.write_end = Fd(); // the guest runs on
    });
    std::this_thread::sleep_for(20ms);
    out(*machine.serial, 2, 0x07);
    in(*machine.serial, 0);
    out(*machine.serial, 4, 0x0b);
    CHECK(machine.receive(text.size()) == text);
}

TEST_CASE("input may be a regular file, /dev/null or closed") {
    char name[] = "/tmp/casemate-console-XXXXXX";
    const Fd file(mkstemp(name));
    unlink(name);
    const std::string text = pattern(10'000);
    REQUIRE(write(file.get(), text.data(), text.size()) == static_cast<ssize_t>(text.size()));
    lseek(file.get(), 0, SEEK_SET);
    {
        Machine machine({.input = file.get(), .output = -1});
        CHECK(machine.receive(text.size()) == text);
    }
    const Fd null = open_file("/dev/null", O_RDWR).value();
    for (const int descriptor : {null.get(), -1}) {
        Machine machine({.input = descriptor, .output = null.get()});
        machine.print("still running");
    }
}

TEST_CASE("output to a regular file keeps its offset") {
    char name[] = "/tmp/casemate-console-XXXXXX";
    const Fd file(mkstemp(name));
    unlink(name);
    REQUIRE(write(file.get(), "before ", 7) == 7);
    {
        Machine machine({.input = -1, .output = file.get()});
        machine.print("after");
    }
    lseek(file.get(), 0, SEEK_SET);
    CHECK(read_some(file.get()) == "before after");
}

TEST_CASE("on a terminal escapes are commands, on a pipe they are data") {
    int master = -1;
    int slave = -1;
    REQUIRE(openpty(&master, &slave, nullptr, nullptr, nullptr) == 0);
    const Fd user(master);
    const Fd tty(slave);
    std::atomic<int> quits = 0;
    std::atomic<int> presses = 0;
    {
        Machine machine({.input = tty.get(),
                         .output = tty.get(),
                         .quit = [&] { ++quits; },
                         .press_power_button = [&] { ++presses; }});
        REQUIRE(wait_until([&] {
            termios modes{};
            tcgetattr(tty.get(), &modes);
            return (modes.c_lflag & ICANON) == 0;
        }));
        REQUIRE(write(user.get(),
                      "a\x01x\x01"
                      "cb\x03",
                      7) == 7);
        CHECK(machine.receive(3) == "ab\x03");
        CHECK(quits == 1);
        CHECK(presses == 1);
        machine.print("echo");
        CHECK(read_some(user.get()) == "echo");
    }
    const Pipe input;
    Machine machine({.input = input.read_end.get(), .output = -1, .quit = [&] { ++quits; }});
    REQUIRE(write(input.write_end.get(), "a\x01x", 3) == 3);
    CHECK(machine.receive(3) == "a\x01x");
    CHECK(quits == 1);
}

TEST_CASE("escapes work while the guest reads nothing") {
    int master = -1;
    int slave = -1;
    REQUIRE(openpty(&master, &slave, nullptr, nullptr, nullptr) == 0);
    const Fd user(master);
    const Fd tty(slave);
    std::atomic<int> quits = 0;
    const Machine machine({.input = tty.get(), .output = -1, .quit = [&] { ++quits; }});
    // Until then the terminal gathers a line, and drops what does not fit.
    REQUIRE(wait_until([&] {
        termios modes{};
        return tcgetattr(tty.get(), &modes) == 0 && (modes.c_lflag & ICANON) == 0;
    }));
    const std::string text = pattern(20'000);
    for (size_t done = 0; done < text.size();) {
        const ssize_t count = write(user.get(), text.data() + done, text.size() - done);
        done += count > 0 ? static_cast<size_t>(count) : 0;
    }
    REQUIRE(write(user.get(), "\x01x", 2) == 2);
    CHECK(wait_until([&] { return quits == 1; }));
}

// The patience is longer than any test may take.
TEST_CASE("the last words wait for their reader no longer than they may, and not once there is a hurry") {
    const Pipe output;
    const Pipe input;
    Machine m({.input = input.read_end.get(), .output = output.write_end.get(), .patience = 24h});
    REQUIRE(fcntl(output.write_end.get(), F_SETPIPE_SZ, 4096) >= 4096);
    REQUIRE(write(output.write_end.get(), std::string(4096, 'x').data(), 4096) == 4096);
    m.print("these are nobody's");
    m.loop->stop();
    m.io.join();
    m.console->finish(20ms);
    const Pipe hurry;
    REQUIRE(write(hurry.write_end.get(), "!", 1) == 1);
    m.console->finish(24h, hurry.read_end.get());
    CHECK(read_some(output.read_end.get(), 8192) == std::string(4096, 'x'));
    m.console->finish(24h);
    CHECK(read_some(output.read_end.get()) == "these are nobody's");
}

} // namespace
} // namespace casemate
