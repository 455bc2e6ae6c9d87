// SPDX-License-Identifier: Apache-2.0
#include "guard/lock.hpp"

namespace casemate {

const char* name_of(LockPolicy policy) {
    return policy == LockPolicy::read_only ? "read_only" : "die_on_write";
}

const char* name_of(LockKind kind) {
    switch (kind) {
    case LockKind::text:
        return "text";
    case LockKind::rodata:
        return "rodata";
    case LockKind::page_table:
        return "page_table";
    case LockKind::data:
        break;
    }
    return "data";
}

} // namespace casemate
