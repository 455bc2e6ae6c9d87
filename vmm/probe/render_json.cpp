// SPDX-License-Identifier: Apache-2.0
#include "probe/render.hpp"

#include <nlohmann/json.hpp>

namespace casemate {
namespace {

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
    return "untested";
}

const char* word(KvmKind kind) {
    switch (kind) {
    case KvmKind::vmx:
        return "vmx";
    case KvmKind::svm:
        return "svm";
    case KvmKind::software:
        return "software";
    case KvmKind::unknown:
        break;
    }
    return "unknown";
}

} // namespace

std::string render_json(const HostReport& report) {
    nlohmann::ordered_json json;
    json["schema"] = 1;
    json["usable"] = is_usable(report);
    const auto best = best_protection(report);
    json["protection"] = best ? name_of(*best) : "none";
    json["tables"] = table_enforcement(report) == TableEnforcement::enforced ? "enforced" : "verified";
    json["roots"] = root_mode(report) == RootMode::arena ? "arena" : "compare";
    json["virtualization"] = word(report.kind);
    json["module"] = report.module;
    json["speed_ratio"] = nullptr;
    if (report.speed.ratio)
        json["speed_ratio"] = *report.speed.ratio;
    json["findings"] = nlohmann::ordered_json::array();
    for (const Finding& finding : findings(report)) {
        nlohmann::ordered_json item;
        item["id"] = finding.id;
        item["title"] = finding.title;
        item["answer"] = word(finding.answer);
        item["value"] = finding.value;
        item["meaning"] = finding.meaning;
        item["remedy"] = finding.remedy;
        json["findings"].push_back(std::move(item));
    }
    // Values come from the kernel: bytes that are not UTF-8 are replaced, not thrown about.
    return json.dump(2, ' ', false, nlohmann::ordered_json::error_handler_t::replace) + '\n';
}

} // namespace casemate
