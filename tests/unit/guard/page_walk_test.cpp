// SPDX-License-Identifier: Apache-2.0
#include "guard/page_walk.hpp"

#include <doctest/doctest.h>

namespace casemate {
namespace {

constexpr uint64_t ram_bytes = 16_MiB;
constexpr uint64_t root = 0x10000;
constexpr uint64_t present = 1, writable = 2, user = 4, large = 0x80, no_execute = 1ULL << 63U;
constexpr uint64_t all = present | writable | user;

struct Tables {
    GuestMemory memory = GuestMemory::create(ram_bytes).value();
    kvm_sregs state{};

    void put(uint64_t table, uint64_t index, uint64_t entry) const {
        REQUIRE(memory.store(GuestPhysical{table + 8 * index}, entry));
    }
    void put_32(uint64_t table, uint64_t index, uint32_t entry) const {
        REQUIRE(memory.store(GuestPhysical{table + 4 * index}, entry));
    }
    std::optional<Translation> at(uint64_t linear) const { return translate(memory, state, {linear}); }
    void leads(uint64_t linear, uint64_t physical, uint64_t bytes) const {
        const auto found = at(linear);
        REQUIRE(found);
        CHECK(found->address.value == physical);
        CHECK(found->page_bytes == bytes);
    }
};

Tables long_mode() {
    Tables tables;
    tables.state.cr0 = 0x80000011;
    tables.state.cr4 = 0x20;
    tables.state.efer = 0xd00;
    tables.state.cr3 = root;
    return tables;
}

// Maps 0xffff888000201000 through tables at root + 0x1000, 0x2000, 0x3000 to 0x5000.
constexpr uint64_t linear_4k = 0xffff888000201000;
Tables four_levels(uint64_t pgd_bits = all, uint64_t pud_bits = all, uint64_t pmd_bits = all,
                   uint64_t pte_bits = all) {
    Tables tables = long_mode();
    tables.put(root, 273, (root + 0x1000) | pgd_bits);
    tables.put(root + 0x1000, 0, (root + 0x2000) | pud_bits);
    tables.put(root + 0x2000, 1, (root + 0x3000) | pmd_bits);
    tables.put(root + 0x3000, 1, 0x5000 | pte_bits);
    return tables;
}

TEST_CASE("without paging addresses are themselves, below 4 GiB") {
    Tables tables;
    tables.leads(0, 0, 4_GiB);
    tables.leads(0xffffffff, 0xffffffff, 4_GiB);
    CHECK_FALSE(tables.at(4_GiB));
    CHECK(tables.at(5)->writable);
    tables.state.efer = 0x500; // left over
    CHECK_FALSE(tables.at(4_GiB));
}

TEST_CASE("4-level paging: 4 KiB, 2 MiB and 1 GiB pages") {
    const Tables tables = four_levels();
    tables.leads(linear_4k, 0x5000, 4_KiB);
    tables.leads(linear_4k + 0xfff, 0x5fff, 4_KiB);
    CHECK_FALSE(tables.at(linear_4k + 0x1000));
    CHECK_FALSE(tables.at(linear_4k - 1));
    tables.put(root + 0x2000, 2, 0x600000 | large | all);
    tables.leads(linear_4k - 0x201000 + 0x5fffff, 0x7fffff, 2_MiB);
    tables.put(root + 0x2000, 2, 0x600000 | 0x1000 | large | all); // PAT of a large page is no address bit
    tables.leads(linear_4k - 0x201000 + 0x400001, 0x600001, 2_MiB);
    tables.put(root + 0x1000, 1, 0xffc0000000 | large | all); // outside RAM: still a translation
    tables.leads(linear_4k - 0x201000 + 1_GiB + 0x12345, 0xffc0012345, 1_GiB);
}

TEST_CASE("rights are those of all levels together") {
    CHECK(four_levels().at(linear_4k)->writable);
    CHECK(four_levels().at(linear_4k)->user);
    CHECK_FALSE(four_levels().at(linear_4k)->no_execute);
    for (int level = 0; level < 4; ++level) {
        const auto bits = [&](int wanted, uint64_t value) { return wanted == level ? value : all; };
        const auto with = [&](uint64_t value) {
            return four_levels(bits(0, value), bits(1, value), bits(2, value), bits(3, value)).at(linear_4k);
        };
        CHECK_FALSE(with(present | user)->writable);
        CHECK(with(present | user)->user);
        CHECK_FALSE(with(present | writable)->user);
        CHECK(with(all | no_execute)->no_execute);
        CHECK_FALSE(with(writable | user));
    }
}

TEST_CASE("reserved bits end the walk") {
    CHECK_FALSE(four_levels(all | large).at(linear_4k)); // PS of a PML4E
    const Tables tables = four_levels();
    tables.put(root + 0x2000, 1, 0x600000 | 0x2000 | large | all);
    CHECK_FALSE(tables.at(linear_4k));
    tables.put(root + 0x2000, 1, 0x600000 | large | all);
    CHECK(tables.at(linear_4k));
    tables.put(root + 0x1000, 0, 0x40000000 | 0x2000 | large | all);
    CHECK_FALSE(tables.at(linear_4k));
    Tables not_executable = four_levels(all, all, all, all | no_execute);
    CHECK(not_executable.at(linear_4k));
    not_executable.state.efer = 0x500; // without NXE
    CHECK_FALSE(not_executable.at(linear_4k));
    // Ignored bits are no address bits.
    four_levels(all | 0x7ffULL << 52U, all, all | 0xe00, all | 0x7ffULL << 52U)
        .leads(linear_4k, 0x5000, 4_KiB);
}

TEST_CASE("CR3's PCID, LAM and other bits are no address") {
    Tables tables = four_levels();
    tables.state.cr3 |= 0xfff | 7ULL << 61U;
    tables.leads(linear_4k, 0x5000, 4_KiB);
}

TEST_CASE("addresses must be canonical") {
    const Tables tables = four_levels();
    CHECK_FALSE(tables.at(linear_4k & ~(1ULL << 63U)));
    CHECK_FALSE(tables.at(linear_4k & ~(1ULL << 48U)));
    CHECK_FALSE(tables.at(0x0000888000201000));
    tables.put(root, 255, (root + 0x1000) | all);
    CHECK(tables.at(0x00007f8000201000));
    CHECK_FALSE(tables.at(0x00017f8000201000));
}

TEST_CASE("5-level paging") {
    Tables tables = four_levels();
    tables.state.cr4 |= 1U << 12U;
    tables.state.cr3 = root + 0x8000;
    CHECK_FALSE(tables.at(linear_4k));
    tables.put(root + 0x8000, 511, root | all);
    tables.leads(linear_4k, 0x5000, 4_KiB);
    tables.put(root + 0x8000, 256, root | all);
    tables.leads((linear_4k & ((1ULL << 48U) - 1)) | 0xff00ULL << 48U, 0x5000, 4_KiB);
    CHECK_FALSE(tables.at((linear_4k & ((1ULL << 48U) - 1)) | 0xfe00ULL << 48U));
    tables.put(root + 0x8000, 511, root | all | large);
    CHECK_FALSE(tables.at(linear_4k));
}

TEST_CASE("PAE paging") {
    Tables tables;
    tables.state.cr0 = 0x80000011;
    tables.state.cr4 = 0x20;
    tables.state.efer = 0x800;
    tables.state.cr3 = root + 0x20; // aligned to 32 bytes
    tables.put(root + 0x20, 3, (root + 0x1000) | present);
    tables.put(root + 0x1000, 511, (root + 0x2000) | all);
    tables.put(root + 0x2000, 511, 0x7000 | all | no_execute);
    tables.leads(0xfffff123, 0x7123, 4_KiB);
    CHECK(tables.at(0xfffff123)->writable); // a PDPTE says nothing about rights
    CHECK(tables.at(0xfffff123)->no_execute);
    CHECK_FALSE(tables.at(0xfffff123 + 4_GiB));
    CHECK_FALSE(tables.at(0x123));
    tables.put(root + 0x1000, 510, 0xc00000 | all | large);
    tables.leads(0xffdfffff, 0xdfffff, 2_MiB);
    tables.put(root + 0x1000, 510, 0xc00000 | 0x2000 | all | large);
    CHECK_FALSE(tables.at(0xffdfffff));
    tables.put(root + 0x2000, 511, 0x7000 | all | 1ULL << 52U);
    CHECK_FALSE(tables.at(0xfffff123));
    tables.put(root + 0x2000, 511, 0x7000 | all);
    CHECK(tables.at(0xfffff123));
    for (const unsigned bit : {52U, 62U}) {
        tables.put(root + 0x1000, 511, (root + 0x2000) | all | 1ULL << bit);
        CHECK_FALSE(tables.at(0xfffff123));
    }
    tables.put(root + 0x1000, 511, (root + 0x2000) | all);
    CHECK(tables.at(0xfffff123));
    for (const unsigned bit : {1U, 2U, 5U, 8U, 52U, 63U}) {
        tables.put(root + 0x20, 3, (root + 0x1000) | present | 1ULL << bit);
        CHECK_FALSE(tables.at(0xfffff123));
    }
}

TEST_CASE("32-bit paging, with 4 MiB pages of 36 bits when CR4.PSE allows") {
    Tables tables;
    tables.state.cr0 = 0x80000011;
    tables.state.cr3 = root | 0x18; // PWT and PCD
    tables.put_32(root, 1023, (root + 0x1000) | all);
    tables.put_32(root + 0x1000, 1023, 0x9000 | present | user);
    tables.leads(0xfffffabc, 0x9abc, 4_KiB);
    CHECK_FALSE(tables.at(0xfffffabc)->writable);
    CHECK(tables.at(0xfffffabc)->user);
    CHECK_FALSE(tables.at(0xffffe000));
    CHECK_FALSE(tables.at(0));
    tables.put_32(root, 1, 0x00c0f000 | large | all); // bits 15:12 of the entry
    // Without PSE, PS is ignored and this is a table.
    tables.put_32(0x00c0f000, 0, 0xa000 | all);
    tables.leads(0x400123, 0xa123, 4_KiB);
    tables.state.cr4 = 0x10;
    tables.leads(0x400123, 0x700c00123, 4_MiB);
    tables.leads(0x7fffff, 0x700ffffff, 4_MiB);
    for (const unsigned bit : {17U, 21U}) {
        tables.put_32(root, 1, static_cast<uint32_t>(0x00c00000 | large | all | 1U << bit));
        CHECK_FALSE(tables.at(0x400123));
    }
}

TEST_CASE("tables outside RAM, and tables that point to themselves, end the walk") {
    Tables tables = long_mode();
    tables.state.cr3 = ram_bytes;
    CHECK_FALSE(tables.at(0));
    tables.state.cr3 = ~0ULL;
    CHECK_FALSE(tables.at(0));
    tables.state.cr3 = root;
    tables.put(root, 0, ram_bytes | all);
    CHECK_FALSE(tables.at(0));
    tables.put(root, 0, (ram_bytes - 4_KiB) | all);
    CHECK_FALSE(tables.at(0)); // RAM, and zero there
    tables.put(root, 511, root | all);
    tables.leads(~0ULL - 7, root + 0xff8, 4_KiB);
}

} // namespace
} // namespace casemate
