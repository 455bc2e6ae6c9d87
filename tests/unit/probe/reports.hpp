// SPDX-License-Identifier: Apache-2.0
// Synthetic host reports: what the kinds of hosts that Casemate knows answer.
#pragma once

#include "probe/host_report.hpp"

namespace casemate {

inline HostReport amd_npt_report() {
    HostReport report;
    report.access = KvmAccess::open;
    report.kind = KvmKind::svm;
    report.module = "kvm_amd (npt=Y)";
    report.speed = {.ratio = 1.1, .useful = true};
    report.hypercall = HypercallReport::exits;
    protection_report(report, ProtectionKind::attributes) = {
        .store = StoreReport::missing,
        .store_note = "this KVM has no memory attributes that deny writes for good; boot another"};
    protection_report(report, ProtectionKind::mapping) = {
        .store = StoreReport::efault_at_store,
        .walk = {.tested = true, .tolerated = false, .store_caught = false},
        .walk_note = "KVM_RUN failed: Bad address"};
    protection_report(report, ProtectionKind::slots) = {
        .store = StoreReport::mmio_past_store,
        .walk = {.tested = true, .tolerated = false, .store_caught = false}};
    report.msr_filter = true;
    report.attributes = 0;
    report.guest_memfd = false;
    report.tsc_deadline = true;
    report.mseal = true;
    report.huge_pages = HugePages::got;
    report.io_uring_policy = 0;
    return report;
}

inline HostReport intel_noad_report() {
    HostReport report = amd_npt_report();
    report.kind = KvmKind::vmx;
    report.module = "kvm_intel (ept=Y, eptad=N)";
    for (const ProtectionKind kind : {ProtectionKind::mapping, ProtectionKind::slots}) {
        protection_report(report, kind).walk = {.tested = true, .tolerated = true, .store_caught = true};
        protection_report(report, kind).walk_note.clear();
    }
    return report;
}

// Intel's, with the kernel of tools/host-kernel.
inline HostReport attributes_report() {
    HostReport report = amd_npt_report();
    report.kind = KvmKind::vmx;
    report.module = "kvm_intel (ept=Y, eptad=Y)";
    report.attributes = 0x10007;
    protection_report(report, ProtectionKind::attributes) = {
        .store = StoreReport::told_at_store,
        .walk = {.tested = true, .tolerated = true, .store_caught = true}};
    return report;
}

inline HostReport software_report() {
    HostReport report = intel_noad_report();
    report.kind = KvmKind::software;
    report.module = "kvm_pvm";
    report.speed = {.ratio = 1000, .useful = false};
    report.hypercall = HypercallReport::hangs;
    report.hypercall_note = "KVM_RUN did not return; the watchdog stopped it";
    protection_report(report, ProtectionKind::mapping).store = StoreReport::mmio_past_store;
    return report;
}

inline HostReport no_kvm_report(KvmAccess access) {
    HostReport report;
    report.access = access;
    report.kind = KvmKind::software;
    report.access_error = "open /dev/kvm: Permission denied; add yourself to its group: log in again";
    return report;
}

} // namespace casemate
