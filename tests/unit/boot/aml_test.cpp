// SPDX-License-Identifier: Apache-2.0
// The expected bytes are encoded by hand from ACPI 6.4, 6.4 and 20.2; the ASL they stand for is beside them.
#include "boot/aml.hpp"

#include <algorithm>
#include <doctest/doctest.h>

namespace casemate::aml {
namespace {

Bytes bytes(std::initializer_list<int> values) {
    Bytes result;
    for (const int value : values)
        result.push_back(static_cast<std::byte>(value));
    return result;
}
Bytes encoded(const Name& path) {
    const auto part = std::as_bytes(path.encoded());
    return {part.begin(), part.end()};
}

TEST_CASE("names are padded and prefixed by their number of segments") {
    CHECK(encoded("_CRS") == bytes({'_', 'C', 'R', 'S'}));
    CHECK(encoded("RTC") == bytes({'R', 'T', 'C', '_'}));
    CHECK(encoded("\\_SB") == bytes({'\\', '_', 'S', 'B', '_'}));
    CHECK(encoded("\\_SB.PCI0") == bytes({'\\', 0x2e, '_', 'S', 'B', '_', 'P', 'C', 'I', '0'}));
    CHECK(encoded("A.B.C") == bytes({0x2f, 3, 'A', '_', '_', '_', 'B', '_', '_', '_', 'C', '_', '_', '_'}));
}

TEST_CASE("integers take the shortest form, also at the edges") {
    CHECK(integer(0).bytes == bytes({0x00}));
    CHECK(integer(1).bytes == bytes({0x01}));
    CHECK(integer(2).bytes == bytes({0x0a, 2}));
    CHECK(integer(0xff).bytes == bytes({0x0a, 0xff}));
    CHECK(integer(0x100).bytes == bytes({0x0b, 0x00, 0x01}));
    CHECK(integer(0xffff).bytes == bytes({0x0b, 0xff, 0xff}));
    CHECK(integer(0x10000).bytes == bytes({0x0c, 0, 0, 1, 0}));
    CHECK(integer(0xffffffff).bytes == bytes({0x0c, 0xff, 0xff, 0xff, 0xff}));
    CHECK(integer(0x100000000).bytes == bytes({0x0e, 0, 0, 0, 0, 1, 0, 0, 0}));
}

TEST_CASE("package lengths grow a byte exactly where the shorter form ends") {
    const auto prefix = [](size_t contents, size_t wanted) {
        // Buffer contents: a size term of 2 or 3 bytes and the data.
        const size_t size_term = contents <= 0xff + 2 ? 2 : 3;
        const std::vector<std::byte> data(contents - size_term);
        const Bytes whole = buffer(data).bytes;
        CHECK(whole.size() == 1 + wanted + contents);
        return Bytes(whole.begin() + 1, whole.begin() + 1 + static_cast<std::ptrdiff_t>(wanted));
    };
    CHECK(prefix(62, 1) == bytes({0x3f}));
    CHECK(prefix(63, 2) == bytes({0x41, 0x04})); // 65 = 1 | 4 << 4
    CHECK(prefix(4093, 2) == bytes({0x4f, 0xff}));
    CHECK(prefix(4094, 3) == bytes({0x81, 0x00, 0x01})); // 4097
}

TEST_CASE("identifiers are packed as the ASL macros pack them") {
    CHECK(eisa_id("PNP0A08").bytes == bytes({0x0c, 0x41, 0xd0, 0x0a, 0x08}));
    CHECK(eisa_id("PNP0C0C").bytes == bytes({0x0c, 0x41, 0xd0, 0x0c, 0x0c}));
    CHECK(uuid("33db4d5b-1ff7-401c-9657-7441c03dd766").bytes ==
          bytes({0x11, 0x13, 0x0a, 0x10, 0x5b, 0x4d, 0xdb, 0x33, 0xf7, 0x1f,
                 0x1c, 0x40, 0x96, 0x57, 0x74, 0x41, 0xc0, 0x3d, 0xd7, 0x66}));
    CHECK(string("QEMU0001").bytes == bytes({0x0d, 'Q', 'E', 'M', 'U', '0', '0', '0', '1', 0}));
}

TEST_CASE("declarations nest their contents") {
    // Name (_S5, Package () { 5, 0 })
    CHECK(name("_S5", package({integer(5), integer(0)})).bytes ==
          bytes({0x08, '_', 'S', '5', '_', 0x12, 0x05, 0x02, 0x0a, 0x05, 0x00}));
    // Device (PWRB) { Name (_UID, One) }
    CHECK(device("PWRB", {name("_UID", integer(1))}).bytes ==
          bytes({0x5b, 0x82, 0x0b, 'P', 'W', 'R', 'B', 0x08, '_', 'U', 'I', 'D', 0x01}));
    // Scope (\_SB) { }
    CHECK(scope("\\_SB", {}).bytes == bytes({0x10, 0x06, '\\', '_', 'S', 'B', '_'}));
    // Method (_EVT, 1, Serialized) { Notify (PWRB, 0x80) }
    CHECK(method("_EVT", 1, Concurrency::serialized, {notify("PWRB", 0x80)}).bytes ==
          bytes({0x14, 0x0d, '_', 'E', 'V', 'T', 0x09, 0x86, 'P', 'W', 'R', 'B', 0x0a, 0x80}));
}

TEST_CASE("statements keep the order of their operands") {
    // If ((Arg0 == 2)) { Return (Arg3) }
    CHECK(when(equal(argument(0), integer(2)), {return_value(argument(3))}).bytes ==
          bytes({0xa0, 0x07, 0x93, 0x68, 0x0a, 0x02, 0xa4, 0x6b}));
    // CreateDWordField (Arg3, Zero, CDW1)
    CHECK(create_dword_field(argument(3), 0, "CDW1").bytes == bytes({0x8a, 0x6b, 0x00, 'C', 'D', 'W', '1'}));
    // CDW1 |= 4
    CHECK(or_into("CDW1", object("CDW1"), integer(4)).bytes ==
          bytes({0x7d, 'C', 'D', 'W', '1', 0x0a, 0x04, 'C', 'D', 'W', '1'}));
}

TEST_CASE("resource descriptors are those of the ASL macros") {
    // IO (Decode16, 0x03F8, 0x03F8, 0x01, 0x08)
    CHECK(ports(0x3f8, 8).bytes == bytes({0x47, 0x01, 0xf8, 0x03, 0xf8, 0x03, 0x01, 0x08}));
    // Interrupt (ResourceConsumer, Edge, ActiveHigh, Exclusive) { 4 }
    CHECK(interrupt(4, Trigger::edge, Polarity::active_high).bytes ==
          bytes({0x89, 0x06, 0x00, 0x03, 0x01, 0x04, 0x00, 0x00, 0x00}));
    // Interrupt (ResourceConsumer, Level, ActiveLow, Exclusive) { 5 }
    CHECK(interrupt(5, Trigger::level, Polarity::active_low).bytes ==
          bytes({0x89, 0x06, 0x00, 0x05, 0x01, 0x05, 0x00, 0x00, 0x00}));
    // Memory32Fixed (ReadWrite, 0xE0000000, 0x00100000)
    CHECK(fixed_memory(0xe0000000, 0x100000).bytes ==
          bytes({0x86, 0x09, 0x00, 0x01, 0, 0, 0, 0xe0, 0, 0, 0x10, 0}));
    // DWordMemory (ResourceProducer, PosDecode, MinFixed, MaxFixed, NonCacheable, ReadWrite, 0, 0xC0000000,
    // 0xDFFFFFFF, 0, 0x20000000)
    CHECK(memory_window(0xc0000000, 0x20000000).bytes ==
          bytes({0x87, 0x17, 0x00, 0x00, 0x0c, 0x01, 0, 0, 0, 0, 0, 0, 0,
                 0xc0, 0xff, 0xff, 0xff, 0xdf, 0,    0, 0, 0, 0, 0, 0, 0x20}));
    // WordBusNumber (ResourceProducer, MinFixed, MaxFixed, PosDecode, 0, 0, 0, 0, 1)
    CHECK(bus_numbers(0, 1).bytes ==
          bytes({0x88, 0x0d, 0x00, 0x02, 0x0c, 0x00, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0}));
    CHECK(resource_template({}).bytes == bytes({0x11, 0x05, 0x0a, 0x02, 0x79, 0x00}));
}

} // namespace
} // namespace casemate::aml
