// SPDX-License-Identifier: Apache-2.0
// Renders a HostReport: as a table for people, as JSON for scripts.
#pragma once

#include "probe/host_report.hpp"

#include <string>

namespace casemate {

// Lines of at most 100 columns.
[[gnu::cold]] std::string render_table(const HostReport& report);
// One object and a newline. Members are added, never renamed; "schema" grows when one has to be.
[[gnu::cold]] std::string render_json(const HostReport& report);

} // namespace casemate
