// SPDX-License-Identifier: Apache-2.0
#include "kvm/system.hpp"

#include <cstdlib>
#include <doctest/doctest.h>
#include <filesystem>
#include <fstream>
#include <optional>
#include <string>

namespace casemate {
namespace {

// A directory as /sys/module, with the parameters that are given.
class Modules {
public:
    Modules(const std::optional<std::string>& npt, const std::optional<std::string>& ept) {
        std::string name = (std::filesystem::temp_directory_path() / "casemate-modules-XXXXXX").string();
        REQUIRE(mkdtemp(name.data()) != nullptr);
        path = name;
        put("kvm_amd/parameters", "npt", npt);
        put("kvm_intel/parameters", "ept", ept);
    }
    Modules(const Modules&) = delete;
    Modules& operator=(const Modules&) = delete;
    ~Modules() { std::filesystem::remove_all(path); }

    std::string path;

private:
    void put(const char* directory, const char* name, const std::optional<std::string>& value) const {
        if (!value)
            return;
        const std::filesystem::path parent = std::filesystem::path(path) / directory;
        std::filesystem::create_directories(parent);
        std::ofstream(parent / name) << *value;
    }
};

bool may_shadow(const std::optional<std::string>& npt, const std::optional<std::string>& ept) {
    return may_shadow_page_tables(Modules(npt, ept).path);
}

TEST_CASE("KVM may shadow page tables unless each module that is there says that it does not") {
    CHECK(may_shadow(std::nullopt, std::nullopt)); // another KVM, or none that tells
    CHECK_FALSE(may_shadow("Y\n", std::nullopt));
    CHECK_FALSE(may_shadow(std::nullopt, "Y\n"));
    CHECK_FALSE(may_shadow("Y\n", "Y\n"));
    CHECK(may_shadow("N\n", std::nullopt));
    CHECK(may_shadow(std::nullopt, "N\n"));
    CHECK(may_shadow("Y\n", "N\n"));
    CHECK(may_shadow("N\n", "Y\n"));
    CHECK(may_shadow("", std::nullopt));
    CHECK(may_shadow("0\n", std::nullopt));
    CHECK(may_shadow_page_tables("/nonexistent"));
}

} // namespace
} // namespace casemate
