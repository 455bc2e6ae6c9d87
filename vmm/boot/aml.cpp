// SPDX-License-Identifier: Apache-2.0
#include "boot/aml.hpp"

namespace casemate::aml {

namespace {

// ACPI 6.4, 20.3 "AML Byte Stream Byte Values".
enum Opcode : uint8_t {
    op_zero = 0x00,
    op_one = 0x01,
    op_name = 0x08,
    op_byte = 0x0a,
    op_word = 0x0b,
    op_dword = 0x0c,
    op_string = 0x0d,
    op_qword = 0x0e,
    op_scope = 0x10,
    op_buffer = 0x11,
    op_package = 0x12,
    op_method = 0x14,
    op_extended = 0x5b,
    op_argument = 0x68,
    op_or = 0x7d,
    op_notify = 0x86,
    op_create_dword_field = 0x8a,
    op_equal = 0x93,
    op_if = 0xa0,
    op_return = 0xa4,
    extended_device = 0x82,
};

void put(Bytes& out, uint64_t value, unsigned bytes) {
    for (unsigned i = 0; i < bytes; ++i)
        out.push_back(static_cast<std::byte>(value >> (8 * i)));
}
void put(Bytes& out, const Bytes& more) {
    out.insert(out.end(), more.begin(), more.end());
}
void put(Bytes& out, const Name& path) {
    for (const char c : path.encoded())
        out.push_back(static_cast<std::byte>(c));
}
void put(Bytes& out, Terms terms) {
    for (const Term& term : terms)
        put(out, term.bytes);
}

// ACPI 6.4, 20.2.4 "Package Length Encoding": the length counts its own bytes.
void put_package(Bytes& out, const Bytes& contents) {
    constexpr uint64_t one_byte_limit = 1 << 6;
    const uint64_t size = contents.size();
    if (size + 1 < one_byte_limit) {
        put(out, size + 1, 1);
    } else {
        unsigned following = 1;
        while (size + 1 + following >= uint64_t{1} << (4 + 8 * following))
            ++following;
        const uint64_t length = size + 1 + following;
        put(out, (following << 6) | (length & 0xf), 1);
        put(out, length >> 4, following);
    }
    put(out, contents);
}

Term with_package(std::initializer_list<uint8_t> opcode, const Bytes& contents) {
    Term term;
    for (const uint8_t byte : opcode)
        put(term.bytes, byte, 1);
    put_package(term.bytes, contents);
    return term;
}

unsigned hexadecimal_digit(char c) {
    if (c >= '0' && c <= '9')
        return static_cast<unsigned>(c - '0');
    return static_cast<unsigned>((c | 0x20) - 'a' + 10);
}

} // namespace

Term integer(uint64_t value) {
    Term term;
    if (value == 0)
        put(term.bytes, op_zero, 1);
    else if (value == 1)
        put(term.bytes, op_one, 1);
    else if (value <= UINT8_MAX) {
        put(term.bytes, op_byte, 1);
        put(term.bytes, value, 1);
    } else if (value <= UINT16_MAX) {
        put(term.bytes, op_word, 1);
        put(term.bytes, value, 2);
    } else if (value <= UINT32_MAX) {
        put(term.bytes, op_dword, 1);
        put(term.bytes, value, 4);
    } else {
        put(term.bytes, op_qword, 1);
        put(term.bytes, value, 8);
    }
    return term;
}

Term string(std::string_view text) {
    Term term;
    put(term.bytes, op_string, 1);
    for (const char c : text)
        term.bytes.push_back(static_cast<std::byte>(c));
    put(term.bytes, 0, 1);
    return term;
}

Term package(Terms elements) {
    Bytes contents;
    put(contents, elements.size(), 1);
    put(contents, elements);
    return with_package({op_package}, contents);
}

Term buffer(std::span<const std::byte> bytes) {
    Bytes contents = integer(bytes.size()).bytes;
    contents.insert(contents.end(), bytes.begin(), bytes.end());
    return with_package({op_buffer}, contents);
}

Term eisa_id(const char (&id)[8]) {
    // ACPI 6.4, 19.3.4 "ASL Macros": three letters of 5 bits, four digits, big-endian.
    uint32_t value = 0;
    for (unsigned i = 0; i < 3; ++i)
        value = value << 5 | (static_cast<unsigned>(id[i] - '@') & 0x1f);
    for (unsigned i = 3; i < 7; ++i)
        value = value << 4 | hexadecimal_digit(id[i]);
    Term term;
    put(term.bytes, op_dword, 1);
    put(term.bytes, __builtin_bswap32(value), 4);
    return term;
}

Term uuid(const char (&text)[37]) {
    // ACPI 6.4, 19.6.142 "ToUUID": the first three groups are little-endian. Positions in the text:
    constexpr std::array<uint8_t, 16> order{6, 4, 2, 0, 11, 9, 16, 14, 19, 21, 24, 26, 28, 30, 32, 34};
    std::array<std::byte, 16> bytes{};
    for (size_t i = 0; i < bytes.size(); ++i)
        bytes[i] = static_cast<std::byte>(hexadecimal_digit(text[order[i]]) << 4 |
                                          hexadecimal_digit(text[order[i] + 1]));
    return buffer(bytes);
}

Term resource_template(std::initializer_list<Resource> resources) {
    Bytes contents;
    for (const Resource& resource : resources)
        put(contents, resource.bytes);
    put(contents, 0x79, 1); // end tag
    put(contents, 0, 1);    // no checksum
    return buffer(contents);
}

Term name(Name path, const Term& value) {
    Term term;
    put(term.bytes, op_name, 1);
    put(term.bytes, path);
    put(term.bytes, value.bytes);
    return term;
}

Term scope(Name path, Terms contents) {
    Bytes bytes;
    put(bytes, path);
    put(bytes, contents);
    return with_package({op_scope}, bytes);
}

Term device(Name path, Terms contents) {
    Bytes bytes;
    put(bytes, path);
    put(bytes, contents);
    return with_package({op_extended, extended_device}, bytes);
}

Term method(Name path, unsigned arguments, Concurrency concurrency, Terms body) {
    Bytes bytes;
    put(bytes, path);
    put(bytes, arguments | (concurrency == Concurrency::serialized ? 1U << 3 : 0U), 1);
    put(bytes, body);
    return with_package({op_method}, bytes);
}

Term argument(unsigned index) {
    Term term;
    put(term.bytes, op_argument + index, 1);
    return term;
}

Term object(Name path) {
    Term term;
    put(term.bytes, path);
    return term;
}

Term notify(Name path, uint64_t value) {
    Term term;
    put(term.bytes, op_notify, 1);
    put(term.bytes, path);
    put(term.bytes, integer(value).bytes);
    return term;
}

Term return_value(const Term& value) {
    Term term;
    put(term.bytes, op_return, 1);
    put(term.bytes, value.bytes);
    return term;
}

Term when(const Term& condition, Terms body) {
    Bytes bytes = condition.bytes;
    put(bytes, body);
    return with_package({op_if}, bytes);
}

Term equal(const Term& left, const Term& right) {
    Term term;
    put(term.bytes, op_equal, 1);
    put(term.bytes, left.bytes);
    put(term.bytes, right.bytes);
    return term;
}

Term or_into(Name destination, const Term& left, const Term& right) {
    Term term;
    put(term.bytes, op_or, 1);
    put(term.bytes, left.bytes);
    put(term.bytes, right.bytes);
    put(term.bytes, destination);
    return term;
}

Term create_dword_field(const Term& source, uint64_t byte_offset, Name field) {
    Term term;
    put(term.bytes, op_create_dword_field, 1);
    put(term.bytes, source.bytes);
    put(term.bytes, integer(byte_offset).bytes);
    put(term.bytes, field);
    return term;
}

// The section numbers below are ACPI 6.4's.

Resource ports(uint16_t start, uint8_t count) {
    Resource resource; // 6.4.2.5 "I/O Port Descriptor"
    put(resource.bytes, 0x47, 1);
    put(resource.bytes, 1, 1); // decodes 16 bits
    put(resource.bytes, start, 2);
    put(resource.bytes, start, 2);
    put(resource.bytes, 1, 1); // alignment
    put(resource.bytes, count, 1);
    return resource;
}

Resource interrupt(uint32_t global_system_interrupt, Trigger trigger, Polarity polarity) {
    Resource resource; // 6.4.3.6 "Extended Interrupt Descriptor"
    put(resource.bytes, 0x89, 1);
    put(resource.bytes, 6, 2);
    put(resource.bytes,
        1U | (trigger == Trigger::edge ? 1U << 1 : 0U) | (polarity == Polarity::active_low ? 1U << 2 : 0U),
        1); // consumed, not shared
    put(resource.bytes, 1, 1);
    put(resource.bytes, global_system_interrupt, 4);
    return resource;
}

Resource fixed_memory(uint32_t start, uint32_t bytes) {
    Resource resource; // 6.4.3.4 "32-Bit Fixed Memory Range Descriptor"
    put(resource.bytes, 0x86, 1);
    put(resource.bytes, 9, 2);
    put(resource.bytes, 1, 1); // writable
    put(resource.bytes, start, 4);
    put(resource.bytes, bytes, 4);
    return resource;
}

Resource memory_window(uint32_t start, uint32_t bytes) {
    Resource resource; // 6.4.3.5.2 "DWord Address Space Descriptor"
    put(resource.bytes, 0x87, 1);
    put(resource.bytes, 23, 2);
    put(resource.bytes, 0, 1);    // memory
    put(resource.bytes, 0x0c, 1); // produced; both ends fixed
    put(resource.bytes, 1, 1);    // writable, not cacheable
    put(resource.bytes, 0, 4);    // granularity
    put(resource.bytes, start, 4);
    put(resource.bytes, uint64_t{start} + bytes - 1, 4);
    put(resource.bytes, 0, 4); // translation
    put(resource.bytes, bytes, 4);
    return resource;
}

Resource bus_numbers(uint16_t first, uint16_t count) {
    Resource resource; // 6.4.3.5.3 "Word Address Space Descriptor"
    put(resource.bytes, 0x88, 1);
    put(resource.bytes, 13, 2);
    put(resource.bytes, 2, 1);    // bus numbers
    put(resource.bytes, 0x0c, 1); // produced; both ends fixed
    put(resource.bytes, 0, 1);
    put(resource.bytes, 0, 2); // granularity
    put(resource.bytes, first, 2);
    put(resource.bytes, uint64_t{first} + count - 1, 2);
    put(resource.bytes, 0, 2); // translation
    put(resource.bytes, count, 2);
    return resource;
}

} // namespace casemate::aml
