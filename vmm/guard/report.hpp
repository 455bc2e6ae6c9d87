// SPDX-License-Identifier: Apache-2.0
// Report: a violation, or what an audit found, for people and for programs.
#pragma once

#include "base/event_log.hpp"
#include "guard/audit.hpp"
#include "guard/pinned_translation.hpp"
#include "guard/symbols.hpp"
#include "guard/violation.hpp"

#include <string>

namespace casemate {

// All three look up symbols, which takes milliseconds: limit the rate before, not after.

// One line for the log: "read-only text at gpa:0x1234 (_text+0x10): store of 8 bytes by vCPU 0 at ...".
[[gnu::cold]] std::string summary(const Violation& violation, const LoadedSymbols& symbols);
// The exit report, several lines of at most 100 columns of printable ASCII, without a trailing newline:
// reason, addresses, size, value, instruction with its bytes, function, lock, registers.
[[gnu::cold]] std::string report(const Violation& violation, const LoadedSymbols& symbols);
// The members of a "violation" event; what is not known is absent. tests/unit/guard/report_test.cpp has one
// of each.
[[gnu::cold]] EventFields event_fields(const Violation& violation, const LoadedSymbols& symbols);

// The same of a register that changed; the event is "audit".
[[gnu::cold]] std::string summary(const AuditDifference& difference, const LoadedSymbols& symbols);
[[gnu::cold]] std::string report(const AuditDifference& difference, const LoadedSymbols& symbols);
[[gnu::cold]] EventFields event_fields(const AuditDifference& difference, const LoadedSymbols& symbols);

// The same of a pinned address that leads elsewhere; the event is "audit" too.
[[gnu::cold]] std::string summary(const TranslationDifference& difference, const LoadedSymbols& symbols);
[[gnu::cold]] std::string report(const TranslationDifference& difference, const LoadedSymbols& symbols);
[[gnu::cold]] EventFields event_fields(const TranslationDifference& difference, const LoadedSymbols& symbols);

} // namespace casemate
