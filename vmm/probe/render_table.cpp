// SPDX-License-Identifier: Apache-2.0
#include "probe/render.hpp"

#include <algorithm>
#include <fmt/core.h>
#include <string_view>

namespace casemate {
namespace {

constexpr size_t columns = 100;
constexpr size_t title_columns = 27;
constexpr size_t text_column = 9 + title_columns;

const char* word(Answer answer) {
    switch (answer) {
    case Answer::yes:
        return "yes";
    case Answer::partly:
        return "partly";
    case Answer::no:
        return "no";
    case Answer::untested:
        break;
    }
    return "-";
}

// Appends `text` as lines that fit beside the first columns: the first continues the current line, a word
// that is longer than a line stays whole.
void append_wrapped(std::string& out, std::string_view text) {
    size_t column = text_column;
    while (!text.empty()) {
        const size_t length = std::min(text.find(' '), text.size());
        if (column != text_column) {
            if (column + 1 + length > columns) {
                out += '\n';
                out.append(text_column, ' ');
                column = text_column;
            } else {
                out += ' ';
                ++column;
            }
        }
        out += text.substr(0, length);
        column += length;
        text.remove_prefix(std::min(length + 1, text.size()));
    }
    out += '\n';
}

void append_paragraph(std::string& out, std::string_view text) {
    if (text.empty())
        return;
    out.append(text_column, ' ');
    append_wrapped(out, text);
}

std::string verdict(const HostReport& report) {
    if (report.access != KvmAccess::open)
        return "This host cannot run guests: KVM cannot be used.\n";
    if (!report.speed.useful)
        return "This host cannot run Linux guests at a useful speed.\n";
    const std::string text = "This host can run Linux guests.\n";
    const auto best = best_protection(report);
    if (!best)
        return text + "Kernel memory cannot be locked here.\n";
    const char* const tables = table_enforcement(report) == TableEnforcement::enforced
                                   ? "can be enforced: nothing could write to them"
                                   : "can be verified: a change is found at the next check";
    const char* const roots = root_mode(report) == RootMode::arena
                                  ? "can be kept in an arena: no exit, none can be forged"
                                  : "can be compared at each context switch, without an exit";
    return text + fmt::format("  Kernel text and data:  can be locked by {}\n  Kernel page tables:    {}\n  "
                              "Page-table roots:      {}\n",
                              name_of(*best), tables, roots);
}

} // namespace

std::string render_table(const HostReport& report) {
    std::string out = verdict(report) + '\n';
    for (const Finding& finding : findings(report)) {
        out += fmt::format("{:<9}{:<{}}", word(finding.answer), finding.title, title_columns);
        append_wrapped(out, finding.value);
        append_paragraph(out, finding.meaning);
        if (!finding.remedy.empty())
            append_paragraph(out, "-> " + finding.remedy);
    }
    return out;
}

} // namespace casemate
