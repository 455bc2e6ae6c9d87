// SPDX-License-Identifier: Apache-2.0
#include "base/error.hpp"

#include "base/units.hpp"

#include <cerrno>
#include <doctest/doctest.h>

namespace casemate {
namespace {

Result<int> inner(bool good) {
    if (!good)
        return fail(Error::system("open disk.img", ENOENT).hint("create it with truncate"));
    return 7;
}

Result<int> outer(bool good) {
    const int value = TRY(inner(good));
    return value + 1;
}

TEST_CASE("an error prints as one chain, outermost first, hints last") {
    auto failed = outer(false);
    REQUIRE_FALSE(failed);
    const Error wrapped = Error::usage("cannot use disk").because_of(std::move(failed).error());
    CHECK(wrapped.message() ==
          "cannot use disk: open disk.img: No such file or directory; create it with truncate");
    CHECK(wrapped.number() == ENOENT);
    CHECK(wrapped.blame() == Blame::usage);
    CHECK(outer(true) == 8);
}

TEST_CASE("a copy of an error is its own, with the same cause") {
    const Error cause = Error::system("open disk.img", ENOENT);
    Error first = Error("use disk").because_of(cause);
    Error second = first;
    second = std::move(second).hint("create it").blame(Blame::usage);
    CHECK(first.message() == "use disk: open disk.img: No such file or directory");
    CHECK(first.blame() == Blame::host);
    CHECK(second.message() == "use disk: open disk.img: No such file or directory; create it");
    CHECK(second.blame() == Blame::usage);
    first = second;
    CHECK(first.message() == second.message());
    CHECK(cause.message() == "open disk.img: No such file or directory");
    // What every call that may fail moves.
    CHECK(sizeof(Error) == sizeof(void*));
}

TEST_CASE("sizes print in the largest unit that divides them") {
    CHECK(format_bytes(5_GiB) == "5 GiB");
    CHECK(format_bytes(96_MiB) == "96 MiB");
    CHECK(format_bytes(4097) == "4097 bytes");
    CHECK(format_bytes(0) == "0 bytes");
    CHECK(to_string(GuestPhysical{0x1000}) == "gpa:0x1000");
}

TEST_CASE("a limit that is met says which to raise, unless there is better advice") {
    CHECK(Error::system("open disk", EMFILE).message() ==
          "open disk: Too many open files; raise the limit on open files (ulimit -n)");
    CHECK(Error("start").because_of(Error::system("mmap", ENOMEM)).message().find("ulimit -v") !=
          std::string::npos);
    CHECK(Error::system("mmap", ENOMEM).hint("give less").message() ==
          "mmap: Cannot allocate memory; give less");
    CHECK(Error::system("open /dev/kvm", EMFILE).hint("load it").message() ==
          "open /dev/kvm: Too many open files; raise the limit on open files (ulimit -n)");
    CHECK(Error::system("open", ENOENT).message() == "open: No such file or directory");
}

} // namespace

TEST_CASE("who meets a limit is not to blame for what he asked for") {
    for (const int number : {EMFILE, ENFILE, ENOMEM})
        CHECK(Error::system("open disk", number).blame(Blame::usage).blame() == Blame::host);
    CHECK(Error::system("open disk", ENOENT).blame(Blame::usage).blame() == Blame::usage);
    for (const int number : {EMFILE, ENFILE, ENOMEM, EAGAIN})
        CHECK(Error("start").because_of(Error::system("try", number)).is_limit());
    CHECK_FALSE(Error::system("try", EINVAL).is_limit());
    CHECK_FALSE(Error("try").is_limit());
}

} // namespace casemate
