// SPDX-License-Identifier: Apache-2.0
#include "machine/guard_end.hpp"

#include <utility>

namespace casemate {
namespace {

EndReason end_reason(GuardEnd::Reason reason) {
    switch (reason) {
    case GuardEnd::Reason::die_on_write:
        return EndReason::die_on_write;
    case GuardEnd::Reason::too_many_violations:
        return EndReason::too_many_violations;
    case GuardEnd::Reason::root_mismatch:
        return EndReason::root_mismatch;
    case GuardEnd::Reason::unattributable:
        return EndReason::unattributable;
    case GuardEnd::Reason::audit_mismatch:
        return EndReason::audit_mismatch;
    case GuardEnd::Reason::host_failure:
        break;
    }
    return EndReason::host_failure;
}

} // namespace

MachineEnd machine_end(GuardEnd end) {
    return {
        .reason = end_reason(end.reason), .detail = std::move(end.summary), .report = std::move(end.report)};
}

} // namespace casemate
