// SPDX-License-Identifier: Apache-2.0
// Lock: a guest-physical range that never changes again, and what happens to who tries.
#pragma once

#include "guard/casemate_abi.h"
#include "memory/guest_range.hpp"

#include <cstdint>

namespace casemate {

enum class LockPolicy : uint8_t {
    read_only = CASEMATE_POLICY_READ_ONLY,
    die_on_write = CASEMATE_POLICY_DIE_ON_WRITE,
};

enum class LockKind : uint8_t {
    text = CASEMATE_KIND_TEXT,
    rodata = CASEMATE_KIND_RODATA,
    page_table = CASEMATE_KIND_PAGE_TABLE,
    data = CASEMATE_KIND_DATA,
};

struct Lock {
    GuestRange range; // whole pages
    LockPolicy policy = LockPolicy::read_only;
    LockKind kind = LockKind::data;
};

// "read_only", "die_on_write"; "text", "rodata", "page_table", "data": in events and messages.
const char* name_of(LockPolicy policy);
const char* name_of(LockKind kind);

} // namespace casemate
