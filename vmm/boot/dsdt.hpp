// SPDX-License-Identifier: Apache-2.0
// DSDT: what ACPI says of the machine's devices that no bus can enumerate.
#pragma once

#include "boot/aml.hpp"

namespace casemate {

// The AML that follows the DSDT's table header.
aml::Bytes dsdt_code();

} // namespace casemate
