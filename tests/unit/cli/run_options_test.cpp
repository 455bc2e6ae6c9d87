// SPDX-License-Identifier: Apache-2.0
#include "cli/run_options.hpp"

#include <chrono>
#include <doctest/doctest.h>
#include <initializer_list>
#include <vector>

namespace casemate {
namespace {

Result<std::optional<RunOptions>> parse(std::initializer_list<const char*> arguments) {
    const std::vector<const char*> list(arguments);
    return parse_run_options(list);
}

std::string refusal(std::initializer_list<const char*> arguments) {
    const auto result = parse(arguments);
    if (result)
        return "";
    CHECK(result.error().blame() == Blame::usage);
    CHECK(result.error().message().find('\n') == std::string::npos);
    return result.error().message();
}

TEST_CASE("a full command line becomes a Config with units") {
    const auto run = parse({"--kernel", "vmlinux", "--initrd=root.cpio", "--cmdline", "quiet console=ttyS0",
                            "--memory", "5G", "--cpus", "8", "--disk", "a,b.img", "--disk", "c.img,ro",
                            "--net", "tap=tap0,mac=02:00:00:00:00:0a", "--net", "tap=tap1", "--force"});
    REQUIRE(run);
    const RunOptions options = run->value_or(RunOptions{});
    const Config& config = options.config;
    CHECK(config.kernel == "vmlinux");
    CHECK(config.initrd == "root.cpio");
    CHECK(config.command_line == "quiet console=ttyS0");
    CHECK(config.memory_bytes == 5_GiB);
    CHECK(config.cpus == 8);
    REQUIRE(config.disks.size() == 2);
    CHECK(config.disks[0].path == "a,b.img");
    CHECK_FALSE(config.disks[0].read_only);
    CHECK(config.disks[1].path == "c.img");
    CHECK(config.disks[1].read_only);
    REQUIRE(config.nets.size() == 2);
    CHECK(config.nets[0].tap == "tap0");
    CHECK(config.nets[0].mac == std::array<uint8_t, 6>{2, 0, 0, 0, 0, 10});
    CHECK_FALSE(config.nets[1].mac);
    CHECK(options.force);
}

TEST_CASE("locks have their options, and defaults that need none") {
    const auto plain = parse({"--kernel", "k"});
    REQUIRE(plain);
    const Config by_default = plain->value_or(RunOptions{}).config;
    CHECK(by_default.locks == LockMode::allowed);
    CHECK(by_default.lock_deadline == std::chrono::seconds(60));
    CHECK(by_default.protect.empty());
    CHECK(by_default.events_path.empty());
    CHECK(by_default.symbols_path.empty());
    CHECK(by_default.max_violations == 0);
    CHECK(by_default.audit_interval == std::chrono::milliseconds(100));

    const auto run =
        parse({"--kernel", "k", "--locks", "required", "--lock-deadline", "3600", "--protect", "mapping",
               "--events", "-", "--symbols=System.map", "--max-violations", "7", "--audit-interval=250"});
    REQUIRE(run);
    const Config config = run->value_or(RunOptions{}).config;
    CHECK(config.locks == LockMode::required);
    CHECK(config.lock_deadline == std::chrono::hours(1));
    CHECK(config.protect == std::vector{ProtectionKind::mapping});
    CHECK(config.events_path == "-");
    CHECK(config.symbols_path == "System.map");
    CHECK(config.max_violations == 7);
    CHECK(config.audit_interval == std::chrono::milliseconds(250));

    const auto off = parse({"--kernel", "k", "--locks", "off", "--protect", "auto", "--audit-interval", "0"});
    REQUIRE(off);
    CHECK(off->value_or(RunOptions{}).config.locks == LockMode::off);
    CHECK(off->value_or(RunOptions{}).config.audit_interval == std::chrono::milliseconds(0));
    CHECK(off->value_or(RunOptions{}).config.protect.empty());
}

TEST_CASE("sizes need a unit and must not overflow") {
    CHECK(parse_size("1K") == 1_KiB);
    CHECK(parse_size("16777215T") == 16777215 * 1024_GiB);
    CHECK_FALSE(parse_size("16777216T"));
    for (const char* bad : {"", "M", "12", "1.5G", "-1M", "1MB", " 1M", "0x10M", "99999999999999999999K"}) {
        CAPTURE(bad);
        CHECK_FALSE(parse_size(bad));
    }
}

TEST_CASE("--protect takes one kind, or several as layers") {
    const auto protect = [](const char* how) {
        const auto options = parse({"--kernel", "k", "--protect", how});
        REQUIRE(options);
        REQUIRE(*options);
        return (*options)->config.protect;
    };
    using enum ProtectionKind;
    CHECK(protect("auto").empty());
    CHECK(protect("slots") == std::vector{slots});
    CHECK(protect("mapping,slots") == std::vector{mapping, slots});
    CHECK(protect("attributes,slots,mapping") == std::vector{attributes, slots, mapping});
    CHECK(refusal({"--kernel", "k", "--protect", "slots,slots"}).find("slots is there twice") !=
          std::string::npos);
    CHECK(refusal({"--kernel", "k", "--protect", "slots,wall"}).find("wall is unknown") != std::string::npos);
}

TEST_CASE("each bad option is one line that names it") {
    CHECK(refusal({}).find("--kernel") != std::string::npos);
    for (const char* bad : {"0", "0M", "1M", "2T", "16385K", "256"}) {
        CAPTURE(bad);
        CHECK(refusal({"--kernel", "k", "--memory", bad}) != "");
    }
    for (const char* bad : {"0", "33", "-1", "two", ""}) {
        CAPTURE(bad);
        CHECK(refusal({"--kernel", "k", "--cpus", bad}).find("--cpus") != std::string::npos);
    }
    for (const char* bad :
         {"tap0", "mac=02:00:00:00:00:01", "tap=", "tap=t,mac=1", "tap=t,mac=01:00:00:00:00:01",
          "tap=t,mac=02-00-00-00-00-01", "tap=t,mac=02:00:00:00:00:1g"}) {
        CAPTURE(bad);
        CHECK(refusal({"--kernel", "k", "--net", bad}) != "");
    }
    struct Bad {
        const char* option;
        const char* value;
    };
    for (const auto& [option, value] : {Bad{"--locks", ""},
                                        Bad{"--locks", "yes"},
                                        Bad{"--locks", "Off"},
                                        Bad{"--lock-deadline", ""},
                                        Bad{"--lock-deadline", "0"},
                                        Bad{"--lock-deadline", "3601"},
                                        Bad{"--lock-deadline", "-1"},
                                        Bad{"--lock-deadline", "60s"},
                                        Bad{"--protect", ""},
                                        Bad{"--protect", "seccomp"},
                                        Bad{"--protect", "mapping,"},
                                        Bad{"--protect", ",mapping"},
                                        Bad{"--protect", "mapping,,slots"},
                                        Bad{"--protect", "mapping,slots,mapping"},
                                        Bad{"--protect", "auto,slots"},
                                        Bad{"--protect", "slots,auto"},
                                        Bad{"--events", ""},
                                        Bad{"--symbols", ""},
                                        Bad{"--max-violations", ""},
                                        Bad{"--max-violations", "0"},
                                        Bad{"--max-violations", "-1"},
                                        Bad{"--max-violations", "many"},
                                        Bad{"--max-violations", "18446744073709551616"},
                                        Bad{"--audit-interval", ""},
                                        Bad{"--audit-interval", "9"},
                                        Bad{"--audit-interval", "60001"},
                                        Bad{"--audit-interval", "-1"},
                                        Bad{"--audit-interval", "10ms"}}) {
        CAPTURE(option);
        CAPTURE(value);
        CHECK(refusal({"--kernel", "k", option, value}).find(option) != std::string::npos);
    }
    CHECK(refusal({"--kernel", "k", "--disk", ",ro"}).find("--disk") != std::string::npos);
    CHECK(refusal({"--kernel", "k", "--wibble"}).find("wibble") != std::string::npos);
    CHECK(refusal({"--kernel", "k", "stray"}).find("stray") != std::string::npos);
    CHECK(refusal({"--kernel"}) != "");
}

} // namespace
} // namespace casemate
