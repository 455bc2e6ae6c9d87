// SPDX-License-Identifier: Apache-2.0
#include "cli/run_options.hpp"

#include "cli/option_values.hpp"
#include "machine/exit_status.hpp"

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
    const auto run =
        parse({"--kernel", "vmlinux", "--initrd=root.cpio", "--cmdline", "quiet console=ttyS0", "--memory",
               "5G", "--cpus", "8", "--disk", "a,b.img", "--disk", "c.img,ro", "--net",
               "tap=tap0,mac=02:00:00:00:00:0a", "--net", "mtu=1400,tap=tap1", "--force"});
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
    CHECK_FALSE(config.nets[0].mtu);
    CHECK_FALSE(config.nets[1].mac);
    CHECK(config.nets[1].mtu == 1400);
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

    const auto off = parse({"--kernel", "k", "--locks", "off"});
    REQUIRE(off);
    CHECK(off->value_or(RunOptions{}).config.locks == LockMode::off);
    const auto none = parse({"--kernel", "k", "--protect", "auto", "--audit-interval", "0"});
    REQUIRE(none);
    CHECK(none->value_or(RunOptions{}).config.audit_interval == std::chrono::milliseconds(0));
    CHECK(none->value_or(RunOptions{}).config.protect.empty());
}

TEST_CASE("sizes are bytes, need a unit and must not overflow") {
    CHECK(parse_memory("16384K") == 16_MiB);
    CHECK(parse_memory("96M") == 96_MiB);
    CHECK(parse_memory("5G") == 5_GiB);
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

struct Mistake {
    std::vector<const char*> arguments; // behind --kernel k
    const char* says;
};

// What people get wrong, and what they are told. Each is one line, of an error that is the user's.
TEST_CASE("every mistake has its own line") {
    const std::vector<Mistake> mistakes{
        {{"--wibble"}, "unknown option --wibble"},
        {{"-x"}, "unknown option -x"},
        {{"-memory", "96M"}, "unknown option -memory: did you mean --memory?"},
        {{"--mem", "96M"}, "unknown option --mem: did you mean --memory?"},
        {{"--lock", "off"}, "unknown option --lock: did you mean --locks?"},
        {{"--mem=96M"}, "unknown option --mem=96M: did you mean --memory?"},
        {{"---disk", "a"}, "unknown option ---disk: did you mean --disk?"},
        {{"--Memory", "96M"}, "unknown option --Memory"},
        {{"--=x"}, "unknown option --=x"},
        {{"stray"}, "unexpected argument 'stray'"},
        {{""}, "unexpected argument ''"},
        {{"-"}, "unexpected argument '-'"},
        {{"--", "--cpus"}, "unexpected argument '--cpus'"},
        {{"--memory"}, "--memory needs a value"},
        {{"--disk", "a.img", "--net"}, "--net needs a value"},
        {{"--initrd", "--cpus", "2"}, "--initrd needs a value, and --cpus is an option"},
        {{"--cmdline", "--disk=a.img"}, "--cmdline needs a value, and --disk=a.img is an option"},
        {{"--force=yes"}, "--force takes no value"},
        {{"--force="}, "--force takes no value"},
        {{"--help=all"}, "--help takes no value"},
        // Twice, where the last would win.
        {{"--kernel", "l"}, "--kernel is there twice"},
        {{"--initrd", "a", "--initrd", "b"}, "--initrd is there twice"},
        {{"--initrd", "a", "--initrd=a"}, "--initrd is there twice"},
        {{"--cmdline", "a", "--cmdline", "b"}, "--cmdline is there twice"},
        {{"--memory", "96M", "--memory", "97M"}, "--memory is there twice"},
        {{"--cpus", "1", "--cpus", "1"}, "--cpus is there twice"},
        {{"--locks", "off", "--locks", "required"}, "--locks is there twice"},
        {{"--events", "a", "--events", "b"}, "--events is there twice"},
        {{"--symbols", "a", "--symbols", "b"}, "--symbols is there twice"},
        {{"--force", "--force"}, "--force is there twice"},
        // Nothing where something has to be.
        {{"--initrd", ""}, "--initrd: give a file"},
        {{"--memory="}, "--memory: give a whole number and one of the units"},
        {{"--cpus="}, "--cpus: give 1 to 32"},
        {{"--disk="}, "--disk: give a file or a block device"},
        {{"--disk", ",ro"}, "--disk ,ro: give a file or a block device"},
        {{"--net="}, "--net: '' is not tap=IF, mac=M or mtu=N"},
        {{"--net", "tap="}, "tap='': the name of an interface has 1 to 15 characters"},
        {{"--net", "tap=t,mac="}, "mac='': give a unicast address"},
        {{"--net", "tap=t,mtu="}, "mtu='': give 68 to 65535 bytes"},
        {{"--locks="}, "--locks: give allowed, required or off"},
        {{"--lock-deadline="}, "--lock-deadline: give 1 to 3600 seconds"},
        {{"--protect="}, "--protect: a name is missing"},
        {{"--audit-interval="}, "--audit-interval: give 10 to 60000 milliseconds"},
        {{"--max-violations="}, "--max-violations: give a number from 1"},
        {{"--events="}, "--events: give a file"},
        {{"--symbols="}, "--symbols: give a file"},
        // Numbers and units.
        {{"--memory", "256"}, "--memory 256: give a whole number and one of the units"},
        {{"--memory", "256m"}, "--memory 256m: give a whole number and one of the units"},
        {{"--memory", "256MB"}, "--memory 256MB: give a whole number and one of the units"},
        {{"--memory", "256MiB"}, "--memory 256MiB: give a whole number and one of the units"},
        {{"--memory", "256 M"}, "--memory 256 M: give a whole number and one of the units"},
        {{"--memory", " 256M"}, "give a whole number and one of the units"},
        {{"--memory", "+256M"}, "give a whole number and one of the units"},
        {{"--memory", "-256M"}, "give a whole number and one of the units"},
        {{"--memory", "0x100M"}, "give a whole number and one of the units"},
        {{"--memory", "1.5G"}, "give a whole number and one of the units"},
        {{"--memory", "1e3M"}, "give a whole number and one of the units"},
        {{"--memory", "M"}, "give a whole number and one of the units"},
        {{"--memory", "99999999999999999999K"}, "give a whole number and one of the units"},
        {{"--memory", "0M"}, "--memory 0M: give 16 MiB to 1024 GiB in whole pages"},
        {{"--memory", "1M"}, "--memory 1M: give 16 MiB to 1024 GiB in whole pages"},
        {{"--memory", "2T"}, "--memory 2T: give 16 MiB to 1024 GiB in whole pages"},
        {{"--memory", "16385K"}, "in whole pages of 4 KiB"},
        {{"--memory", "16777216T"}, "--memory 16777216T: give 16 MiB"},
        {{"--memory", "16777217T"}, "--memory 16777217T: give 16 MiB"},
        {{"--cpus", "0"}, "--cpus 0: give 1 to 32"},
        {{"--cpus", "33"}, "--cpus 33: give 1 to 32"},
        {{"--cpus", "-1"}, "--cpus -1: give 1 to 32"},
        {{"--cpus", "0x2"}, "--cpus 0x2: give 1 to 32"},
        {{"--cpus", "1e0"}, "--cpus 1e0: give 1 to 32"},
        {{"--cpus", "2 "}, "--cpus 2 : give 1 to 32"},
        {{"--cpus", "4294967297"}, "--cpus 4294967297: give 1 to 32"},
        {{"--lock-deadline", "0", "--locks", "required"}, "--lock-deadline 0: give 1 to 3600"},
        {{"--lock-deadline", "3601"}, "--lock-deadline 3601: give 1 to 3600"},
        {{"--lock-deadline", "-1"}, "--lock-deadline -1: give 1 to 3600"},
        {{"--lock-deadline", "60s"}, "--lock-deadline 60s: give 1 to 3600"},
        {{"--max-violations", "0"}, "--max-violations 0: give a number from 1"},
        {{"--max-violations", "-1"}, "--max-violations -1: give a number from 1"},
        {{"--max-violations", "many"}, "--max-violations many: give a number from 1"},
        {{"--max-violations", "18446744073709551616"}, "give a number from 1"},
        {{"--audit-interval", "9"}, "--audit-interval 9: give 10 to 60000"},
        {{"--audit-interval", "60001"}, "--audit-interval 60001: give 10 to 60000"},
        {{"--audit-interval", "-1"}, "--audit-interval -1: give 10 to 60000"},
        {{"--audit-interval", "10ms"}, "--audit-interval 10ms: give 10 to 60000"},
        // Words.
        {{"--locks", "yes"}, "--locks yes: give allowed, required or off"},
        {{"--locks", "Off"}, "--locks Off: give allowed, required or off"},
        {{"--protect", "seccomp"}, "--protect seccomp: seccomp is unknown"},
        {{"--protect", "mapping,"}, "--protect mapping,: a name is missing"},
        {{"--protect", ",mapping"}, "--protect ,mapping: a name is missing"},
        {{"--protect", "mapping,,slots"}, "a name is missing"},
        {{"--protect", "mapping,slots,mapping"}, "mapping is there twice"},
        {{"--protect", "auto,slots"}, "auto stands alone"},
        {{"--protect", "slots,auto"}, "auto stands alone"},
        // What belongs to a network device.
        {{"--net", "tap0"}, "'tap0' is not tap=IF"},
        {{"--net", "tap"}, "'tap' is not tap=IF"},
        {{"--net", "mac=02:00:00:00:00:01"}, "name the tap interface"},
        {{"--net", "tap=t,"}, "'' is not tap=IF"},
        {{"--net", "tap=t,queues=2"}, "'queues=2' is not tap=IF"},
        {{"--net", "tap=t,tap=u"}, "tap= is there twice"},
        {{"--net", "tap=t,mac=02:00:00:00:00:01,mac=02:00:00:00:00:01"}, "mac= is there twice"},
        {{"--net", "tap=t,mtu=1400,mtu=1400"}, "mtu= is there twice"},
        {{"--net", "tap=0123456789abcdef"}, "the name of an interface has 1 to 15 characters"},
        {{"--net", "tap=t,mac=1"}, "mac='1': give a unicast address"},
        {{"--net", "tap=t,mac=01:00:00:00:00:01"}, "give a unicast address"},
        {{"--net", "tap=t,mac=ff:ff:ff:ff:ff:ff"}, "give a unicast address"},
        {{"--net", "tap=t,mac=00:00:00:00:00:00"}, "give a unicast address"},
        {{"--net", "tap=t,mac=02-00-00-00-00-01"}, "give a unicast address"},
        {{"--net", "tap=t,mac=02:00:00:00:00:1g"}, "give a unicast address"},
        {{"--net", "tap=t,mac=02:00:00:00:00:01:02"}, "give a unicast address"},
        {{"--net", "tap=t,mtu=67"}, "mtu='67': give 68 to 65535 bytes"},
        {{"--net", "tap=t,mtu=65536"}, "mtu='65536': give 68 to 65535 bytes"},
        {{"--net", "tap=t,mtu=-1"}, "mtu='-1': give 68 to 65535 bytes"},
        {{"--net", "tap=t,mtu=1400b"}, "mtu='1400b': give 68 to 65535 bytes"},
        // Each right, but not together.
        {{"--lock-deadline", "5"}, "--lock-deadline has no effect without --locks required"},
        {{"--lock-deadline", "5", "--locks", "off"}, "--lock-deadline has no effect"},
        {{"--locks", "off", "--protect", "auto"}, "--protect has no effect with --locks off"},
        {{"--locks", "off", "--audit-interval", "0"}, "--audit-interval has no effect with --locks off"},
        {{"--locks", "off", "--max-violations", "1"}, "--max-violations has no effect with --locks off"},
        {{"--symbols", "System.map", "--locks=off"}, "--symbols has no effect with --locks off"},
    };
    for (const Mistake& mistake : mistakes) {
        std::vector<const char*> arguments{"--kernel", "k"};
        arguments.insert(arguments.end(), mistake.arguments.begin(), mistake.arguments.end());
        CAPTURE(mistake.says);
        const auto result = parse_run_options(arguments);
        REQUIRE_FALSE(result);
        CHECK(result.error().blame() == Blame::usage);
        const std::string message = result.error().message();
        CAPTURE(message);
        CHECK(message.find(mistake.says) != std::string::npos);
        CHECK(message.find('\n') == std::string::npos);
    }
    CHECK(refusal({}).find("no kernel given: --kernel FILE") != std::string::npos);
    CHECK(refusal({"--kernel="}).find("--kernel: give a file") != std::string::npos);
    CHECK(refusal({"--kernel"}).find("--kernel needs a value") != std::string::npos);
    CHECK(refusal({"--cpus", "2"}).find("no kernel given") != std::string::npos);
}

TEST_CASE("values may look like options, and names have commas") {
    const auto run =
        parse({"--kernel=--initrd", "--cmdline", "-x --y", "--disk", "a,b,ro,ro", "--disk", "--x,rw", "--net",
               "tap=0123456789abcde,mtu=68", "--lock-deadline=9", "--locks=required", "--events", "-"});
    REQUIRE(run);
    REQUIRE(*run);
    const Config& config = (*run)->config;
    CHECK(config.kernel == "--initrd");
    CHECK(config.command_line == "-x --y");
    CHECK(config.disks.at(0).path == "a,b,ro");
    CHECK(config.disks.at(0).read_only);
    CHECK(config.disks.at(1).path == "--x,rw");
    CHECK(config.nets.at(0).mtu == 68);
    const auto empty = parse({"--kernel", "k", "--cmdline", ""});
    REQUIRE(empty);
    CHECK(empty->value_or(RunOptions{}).config.command_line.empty());
    CHECK(parse({"--kernel", "k", "--net", "tap=t,mtu=65535"}));
}

TEST_CASE("the help is asked for in three ways, and has every option") {
    for (const char* const way : {"--help", "-h", "-help"}) {
        CAPTURE(way);
        const auto help = parse({way});
        REQUIRE(help);
        CHECK_FALSE(*help);
    }
    for (const char* const option :
         {"kernel", "initrd", "cmdline", "memory", "cpus", "disk", "net", "locks", "lock-deadline", "protect",
          "audit-interval", "max-violations", "events", "symbols", "force", "help"})
        CHECK(run_help().find("\n  --" + std::string(option) + ' ') != std::string::npos);
    for (const ExitStatus& status : exit_statuses)
        CHECK(run_help().find(std::to_string(status.status) + ' ') != std::string::npos);
}

TEST_CASE("a record that is not complete is the host's failure, and hides no other end") {
    for (const ExitStatus& status : exit_statuses) {
        CHECK(process_status(status.reason, true) == status.status);
        CHECK(process_status(status.reason, false) == (status.status == 0 ? 1 : status.status));
    }
    CHECK(exit_status(EndReason::host_request).status == 25);
}

} // namespace
} // namespace casemate
