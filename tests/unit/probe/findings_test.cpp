// SPDX-License-Identifier: Apache-2.0
#include "probe/host_report.hpp"

#include "reports.hpp"

#include <doctest/doctest.h>
#include <set>
#include <string_view>

namespace casemate {
namespace {

Finding find(const HostReport& report, std::string_view id) {
    for (const Finding& finding : findings(report))
        if (finding.id == id)
            return finding;
    FAIL("no finding ", id);
    return {};
}

TEST_CASE("a precise mapping is the best lock of a stock host, and NPT leaves tables verified") {
    const HostReport report = amd_npt_report();
    CHECK(is_usable(report));
    CHECK(best_protection(report) == ProtectionKind::mapping);
    CHECK(table_enforcement(report) == TableEnforcement::verified);
    const Finding tables = find(report, "locked_tables");
    CHECK(tables.answer == Answer::no);
    CHECK(tables.remedy.find("npt=0") != std::string::npos);
    CHECK(find(report, "roots").answer == Answer::no);
}

TEST_CASE("a walker that tolerates read-only tables gets them enforced") {
    const HostReport report = intel_noad_report();
    CHECK(table_enforcement(report) == TableEnforcement::enforced);
    CHECK(find(report, "locked_tables").answer == Answer::yes);
    CHECK(find(report, "locked_tables").remedy.empty());
    CHECK(find(report, "roots").answer == Answer::yes);
}

TEST_CASE("tables that tolerate the walk but let stores through are not enforced") {
    HostReport report = intel_noad_report();
    protection_report(report, ProtectionKind::mapping).walk.store_caught = false;
    CHECK(table_enforcement(report) == TableEnforcement::verified);
    CHECK(find(report, "locked_tables").answer == Answer::no);
}

TEST_CASE("an Intel host with EPT accessed and dirty bits is told about eptad=0") {
    HostReport report = intel_noad_report();
    protection_report(report, ProtectionKind::mapping).walk.tolerated = false;
    CHECK(find(report, "locked_tables").remedy.find("eptad=0") != std::string::npos);
}

TEST_CASE("attributes that deny writes are preferred, and their own walk tells about tables") {
    const HostReport report = attributes_report();
    CHECK(best_protection(report) == ProtectionKind::attributes);
    CHECK(find(report, "attributes").answer == Answer::yes);
    CHECK(find(report, "attributes").remedy.empty());
    CHECK(table_enforcement(report) == TableEnforcement::enforced);
    CHECK(find(report, "locked_tables").answer == Answer::yes);
    CHECK(find(report, "roots").answer == Answer::yes);
}

TEST_CASE("where attributes are missing the finding says which there are, and how to get more") {
    HostReport report = amd_npt_report();
    report.attributes = kvm_attribute_private;
    CHECK(best_protection(report) == ProtectionKind::mapping);
    const Finding finding = find(report, "attributes");
    CHECK(finding.answer == Answer::no);
    CHECK(finding.value == "this KVM has no memory attributes that deny writes for good (it has 0x8)");
    CHECK(finding.remedy.find("tools/host-kernel") != std::string::npos);
}

TEST_CASE("slots are chosen where the mapping does not hold, and nothing where neither does") {
    HostReport report = amd_npt_report();
    protection_report(report, ProtectionKind::mapping).store = StoreReport::none;
    CHECK(best_protection(report) == ProtectionKind::slots);
    protection_report(report, ProtectionKind::slots).store = StoreReport::none;
    CHECK(best_protection(report) == std::nullopt);
    CHECK(is_usable(report));
}

TEST_CASE("without the hypercall there is no lock, whatever the memory could do") {
    HostReport report = amd_npt_report();
    for (const HypercallReport hypercall : {HypercallReport::untested, HypercallReport::missing,
                                            HypercallReport::silent, HypercallReport::hangs}) {
        report.hypercall = hypercall;
        CHECK(best_protection(report) == std::nullopt);
    }
}

TEST_CASE("a software KVM is not usable and says how slow it is and that the hypercall hangs") {
    const HostReport report = software_report();
    CHECK_FALSE(is_usable(report));
    CHECK(find(report, "hardware").answer == Answer::no);
    CHECK(find(report, "speed").answer == Answer::no);
    CHECK(find(report, "speed").value.find("1000") != std::string::npos);
    CHECK(find(report, "hypercall").answer == Answer::no);
    CHECK(find(report, "hypercall").value.find("watchdog") != std::string::npos);
    CHECK(find(report, "mapping").answer == Answer::partly);
}

TEST_CASE("without permission the remedy is the group, and KVM's items are untested, not no") {
    const HostReport report = no_kvm_report(KvmAccess::denied);
    CHECK_FALSE(is_usable(report));
    const Finding kvm = find(report, "kvm");
    CHECK(kvm.answer == Answer::no);
    CHECK(kvm.value == "open /dev/kvm: Permission denied");
    CHECK(kvm.remedy.find("usermod") != std::string::npos);
    for (const char* const id : {"hypercall", "mapping", "slots", "locked_tables", "attributes", "msr_filter",
                                 "guest_memfd", "tsc_deadline", "speed"})
        CHECK(find(report, id).answer == Answer::untested);
}

TEST_CASE("every finding has an id of its own, a value and a meaning") {
    for (const HostReport& report : {amd_npt_report(), intel_noad_report(), software_report(),
                                     no_kvm_report(KvmAccess::absent), HostReport{}}) {
        std::set<std::string_view> ids;
        for (const Finding& finding : findings(report)) {
            CHECK(ids.insert(finding.id).second);
            CHECK_FALSE(std::string_view(finding.title).empty());
            CHECK_FALSE(finding.meaning.empty());
        }
    }
}

} // namespace
} // namespace casemate
