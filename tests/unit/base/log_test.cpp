// SPDX-License-Identifier: Apache-2.0
#include "base/log.hpp"

#include "pipe.hpp"

#include <doctest/doctest.h>
#include <fcntl.h>
#include <string>
#include <unistd.h>

namespace casemate {
namespace {

struct SmallPipe : Pipe {
    SmallPipe() { REQUIRE(fcntl(write_end.get(), F_SETPIPE_SZ, 4096) == 4096); }
    std::string take() const { return read_some(read_end.get(), 8192); }
};

TEST_CASE("a message goes out as one line, without what a terminal would obey") {
    const SmallPipe pipe;
    Log(pipe.write_end.get()).host("one\x1b[2J\ntwo");
    CHECK(pipe.take() == "casemate: one?[2J?two\n");
}

TEST_CASE("messages that nobody reads are dropped, and counted once they are read again") {
    const SmallPipe pipe;
    const Log log(pipe.write_end.get());
    const std::string full(4096, 'x');
    REQUIRE(write(pipe.write_end.get(), full.data(), full.size()) == 4096);
    for (int i = 0; i < 50; ++i) // only the first is waited for: else this takes half a minute
        log.host("nobody reads this");
    LogSite site;
    log.guest(site, "nor that");
    CHECK(pipe.take() == full);
    log.host("this is read");
    CHECK(pipe.take() == "casemate: this is read (50 like it not shown)\n");
    CHECK(log.lost() == 50);
    log.host("and this");
    CHECK(pipe.take() == "casemate: and this\n");
    CHECK(log.lost() == 50);
}

TEST_CASE("messages that cannot be written are counted") {
    const Fd full(open("/dev/full", O_WRONLY | O_CLOEXEC));
    const Log log(full.get());
    CHECK(log.lost() == 0);
    log.host("nowhere");
    log.host("to go");
    CHECK(log.lost() == 2);
    const Fd closed(open("/dev/null", O_RDONLY | O_CLOEXEC)); // as main() has it
    const Log none(closed.get());
    none.host("nobody asked for this");
    CHECK(none.lost() == 1);
}

} // namespace
} // namespace casemate
