// SPDX-License-Identifier: Apache-2.0
#include "guard/violation.hpp"

namespace casemate {

const char* name_of(ViolationSource source) {
    switch (source) {
    case ViolationSource::store:
        return "store";
    case ViolationSource::emulated_store:
        return "emulated_store";
    case ViolationSource::host_write:
        return "host_write";
    case ViolationSource::msr_write:
        return "msr_write";
    case ViolationSource::kvm_write:
        return "kvm_write";
    case ViolationSource::changed_table:
        return "changed_table";
    case ViolationSource::root:
        return "root";
    case ViolationSource::unattributable:
        break;
    }
    return "unattributable";
}

} // namespace casemate
