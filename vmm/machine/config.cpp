// SPDX-License-Identifier: Apache-2.0
#include "machine/config.hpp"

namespace casemate {

const char* name_of(LockMode mode) {
    switch (mode) {
    case LockMode::allowed:
        return "allowed";
    case LockMode::required:
        return "required";
    case LockMode::off:
        break;
    }
    return "off";
}

} // namespace casemate
