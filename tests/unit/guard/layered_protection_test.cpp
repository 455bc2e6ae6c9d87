// SPDX-License-Identifier: Apache-2.0
#include "guard/layered_protection.hpp"

#include <array>
#include <doctest/doctest.h>
#include <fmt/core.h>
#include <memory>
#include <string>
#include <utility>
#include <vector>

namespace casemate {
namespace {

// Writes down what is asked of it.
class Layer final : public Protection {
public:
    Layer(const char* name, std::string& journal)
        : m_name(name)
        , m_journal(journal) {}
    bool fails = false;
    bool hangs = false;

    Result<void> protect(std::span<const GuestRange> ranges) override {
        m_journal += fmt::format("{} protects {}; ", m_name, ranges.size());
        return fails ? fail(Error(m_name)) : Result<void>();
    }
    Result<std::span<std::byte>> replace(const GuestRange&, const Fill& fill) override {
        m_journal += fmt::format("{} replaces; ", m_name);
        if (fails)
            return fail(Error(m_name));
        fill(m_bytes);
        return std::span<std::byte>(m_bytes);
    }
    std::string name() const override { return m_name; }
    bool may_hang_vcpus() const override { return hangs; }

private:
    const char* m_name;
    std::string& m_journal;
    std::array<std::byte, 8> m_bytes{};
};

struct Fixture {
    std::string journal;
    std::unique_ptr<Layer> made_first = std::make_unique<Layer>("first", journal);
    std::unique_ptr<Layer> made_last = std::make_unique<Layer>("last", journal);
    Layer& first = *made_first;
    Layer& last = *made_last;
    LayeredProtection layers = make();
    std::array<GuestRange, 2> ranges{GuestRange::of({0x1000}, 0x1000), GuestRange::of({0x5000}, 0x1000)};

    LayeredProtection make() {
        std::vector<std::unique_ptr<Protection>> both;
        both.push_back(std::move(made_first));
        both.push_back(std::move(made_last));
        return {"last,first", std::move(both),
                [this](const Error& error) { journal += "broken by " + error.message() + "; "; }};
    }
};

TEST_CASE("every layer protects, and the last gives the view of replaced pages") {
    Fixture f;
    CHECK(f.layers.name() == "last,first");
    CHECK(f.layers.protect(f.ranges));
    CHECK(f.journal == "first protects 2; last protects 2; ");
    f.journal.clear();
    const auto view =
        f.layers.replace(f.ranges[0], [](std::span<std::byte> bytes) { bytes[3] = std::byte{7}; });
    REQUIRE(view);
    CHECK((*view)[3] == std::byte{7});
    CHECK(f.journal == "first protects 1; last replaces; ");
}

TEST_CASE("where the first layer fails the others are not asked") {
    Fixture f;
    f.first.fails = true;
    CHECK_FALSE(f.layers.protect(f.ranges));
    CHECK_FALSE(f.layers.replace(f.ranges[0], [](std::span<std::byte>) {}));
    CHECK(f.journal == "first protects 2; first protects 1; ");
}

TEST_CASE("where a later layer fails the machine cannot go on") {
    Fixture f;
    f.last.fails = true;
    CHECK_FALSE(f.layers.protect(f.ranges));
    CHECK(f.journal == "first protects 2; last protects 2; broken by last; ");
    f.journal.clear();
    CHECK_FALSE(f.layers.replace(f.ranges[0], [](std::span<std::byte>) {}));
    CHECK(f.journal == "first protects 1; last replaces; broken by last; ");
}

TEST_CASE("one layer that may hang a vCPU is enough") {
    Fixture f;
    CHECK_FALSE(f.layers.may_hang_vcpus());
    f.first.hangs = true;
    CHECK(f.layers.may_hang_vcpus());
}

} // namespace
} // namespace casemate
