// SPDX-License-Identifier: Apache-2.0
#include "probe/render.hpp"

#include "reports.hpp"

#include <doctest/doctest.h>
#include <nlohmann/json.hpp>
#include <set>
#include <sstream>

namespace casemate {
namespace {

TEST_CASE("the table fits 100 columns and has no trailing blanks") {
    HostReport chatty = amd_npt_report();
    for (int i = 0; i < 40; ++i)
        protection_report(chatty, ProtectionKind::mapping).walk_note += " many words";
    for (const HostReport& report : {amd_npt_report(), intel_noad_report(), software_report(),
                                     no_kvm_report(KvmAccess::denied), chatty}) {
        std::istringstream lines(render_table(report));
        for (std::string line; std::getline(lines, line);) {
            CHECK(line.size() <= 100);
            CHECK((line.empty() || line.back() != ' '));
        }
    }
}

TEST_CASE("the table begins with the verdict") {
    CHECK(render_table(amd_npt_report())
              .starts_with(
                  "This host can run Linux guests.\n"
                  "  Kernel text and data:  can be locked by mapping\n"
                  "  Kernel page tables:    can be verified: a change is found at the next check\n"
                  "  Page-table roots:      can be compared at each context switch, without an exit\n\n"));
    CHECK(render_table(software_report())
              .starts_with("This host cannot run Linux guests at a useful speed.\n\n"));
    CHECK(render_table(no_kvm_report(KvmAccess::absent))
              .starts_with("This host cannot run guests: KVM cannot be used.\n\n"));
    HostReport unlocked = amd_npt_report();
    unlocked.hypercall = HypercallReport::missing;
    CHECK(render_table(unlocked).starts_with(
        "This host can run Linux guests.\nKernel memory cannot be locked"));
}

TEST_CASE("the table shows one answer a line, its title and its value beside it") {
    const std::string table = render_table(amd_npt_report());
    CHECK(table.find(
              "\nyes      lock by mapping            stopped at the store: EFAULT, memory unchanged\n") !=
          std::string::npos);
    CHECK(table.find("\nno       locked page tables         the CPU's table walk writes to them: ") !=
          std::string::npos);
    CHECK(render_table(no_kvm_report(KvmAccess::absent))
              .find("\n-        hypercall exits            not tried\n") != std::string::npos);
}

TEST_CASE("the JSON has the members that scripts choose by") {
    const auto json = nlohmann::json::parse(render_json(intel_noad_report()));
    CHECK(json.at("schema") == 1);
    CHECK(json.at("usable") == true);
    CHECK(json.at("protection") == "mapping");
    CHECK(json.at("tables") == "enforced");
    CHECK(json.at("roots") == "arena");
    CHECK(json.at("virtualization") == "vmx");
    CHECK(json.at("module") == "kvm_intel (ept=Y, eptad=N)");
    CHECK(json.at("speed_ratio").get<double>() == doctest::Approx(1.1));
    REQUIRE(json.at("findings").is_array());
    std::set<std::string> ids;
    for (const auto& finding : json.at("findings")) {
        ids.insert(finding.at("id").get<std::string>());
        const std::set<std::string> answers{"yes", "partly", "no", "untested"};
        CHECK(answers.contains(finding.at("answer").get<std::string>()));
        for (const char* const member : {"title", "value", "meaning", "remedy"})
            CHECK(finding.at(member).is_string());
        CHECK(finding.size() == 6);
    }
    CHECK(ids == std::set<std::string>{"kvm", "hardware", "speed", "hypercall", "mapping", "locked_tables",
                                       "roots", "slots", "attributes", "execution", "msr_filter", "mseal",
                                       "guest_memfd", "huge_pages", "io_uring", "tsc_deadline"});
}

TEST_CASE("the JSON of a host without KVM says so and has no speed") {
    const auto json = nlohmann::json::parse(render_json(no_kvm_report(KvmAccess::absent)));
    CHECK(json.at("usable") == false);
    CHECK(json.at("protection") == "none");
    CHECK(json.at("tables") == "verified");
    CHECK(json.at("roots") == "compare");
    CHECK(json.at("speed_ratio").is_null());
}

TEST_CASE("bytes that are not UTF-8 do not break the JSON") {
    HostReport report = no_kvm_report(KvmAccess::absent);
    report.access_error = "\xff\xfe";
    CHECK(nlohmann::json::accept(render_json(report)));
}

} // namespace
} // namespace casemate
