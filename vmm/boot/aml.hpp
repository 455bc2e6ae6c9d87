// SPDX-License-Identifier: Apache-2.0
// AML: builds the byte code of an ACPI namespace from terms. Only what our DSDT says can be said.
// ACPI 6.4, 20.2 "AML Grammar Definition" and 6.4 "Resource Data Types for ACPI".
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <span>
#include <string_view>
#include <vector>

namespace casemate::aml {

using Bytes = std::vector<std::byte>;

// Not constexpr and never defined: calling one ends the compilation of a malformed name.
void name_segment_must_have_one_to_four_capitals_digits_or_underscores();
void too_many_name_segments();

// A NameString such as "_CRS" or "\\_SB.PCI0", checked and encoded at compile time.
class Name {
public:
    template <size_t Size>
    consteval Name(const char (&text)[Size]) {
        size_t position = 0;
        if (text[0] == '\\')
            put(text[position++]);
        std::array<char, 4 * max_segments> segments{};
        size_t count = 0;
        for (bool more = true; more; ++count) {
            if (count == max_segments)
                too_many_name_segments();
            size_t length = 0;
            for (; position < Size - 1 && text[position] != '.'; ++position, ++length) {
                const char c = text[position];
                const bool letter = (c >= 'A' && c <= 'Z') || c == '_';
                if (length == 4 || !(letter || (length > 0 && c >= '0' && c <= '9')))
                    name_segment_must_have_one_to_four_capitals_digits_or_underscores();
                segments[4 * count + length] = c;
            }
            if (length == 0)
                name_segment_must_have_one_to_four_capitals_digits_or_underscores();
            for (; length < 4; ++length)
                segments[4 * count + length] = '_';
            more = position++ < Size - 1;
        }
        if (count == 2)
            put(0x2e); // DualNamePrefix
        else if (count > 2) {
            put(0x2f); // MultiNamePrefix
            put(static_cast<char>(count));
        }
        for (size_t i = 0; i < 4 * count; ++i)
            put(segments[i]);
    }
    std::span<const char> encoded() const { return std::span(m_encoded).first(m_size); }

private:
    static constexpr size_t max_segments = 4;
    constexpr void put(char c) { m_encoded[m_size++] = c; }

    std::array<char, 3 + 4 * max_segments> m_encoded{};
    size_t m_size = 0;
};

// One object, statement or expression.
struct Term {
    Bytes bytes;
};
// One descriptor of a resource template.
struct Resource {
    Bytes bytes;
};
using Terms = std::initializer_list<Term>;

// Data.
Term integer(uint64_t value);
Term string(std::string_view text);
Term package(Terms elements);
Term buffer(std::span<const std::byte> contents);
// "PNP0A08" as the integer that _HID and _CID want.
Term eisa_id(const char (&id)[8]);
// "33db4d5b-1ff7-401c-9657-7441c03dd766" as a buffer in ACPI's mixed byte order.
Term uuid(const char (&text)[37]);
Term resource_template(std::initializer_list<Resource> resources);

// Declarations.
Term name(Name path, const Term& value);
Term scope(Name path, Terms contents);
Term device(Name path, Terms contents);
enum class Concurrency { not_serialized, serialized };
Term method(Name path, unsigned arguments, Concurrency concurrency, Terms body);

// Statements and expressions.
Term argument(unsigned index);
Term object(Name path);
Term notify(Name path, uint64_t value);
Term return_value(const Term& value);
Term when(const Term& condition, Terms body);
Term equal(const Term& left, const Term& right);
// destination = left | right
Term or_into(Name destination, const Term& left, const Term& right);
Term create_dword_field(const Term& buffer, uint64_t byte_offset, Name field);

// Resources.
enum class Trigger { level, edge };
enum class Polarity { active_high, active_low };
Resource ports(uint16_t start, uint8_t count);
Resource interrupt(uint32_t global_system_interrupt, Trigger trigger, Polarity polarity);
Resource fixed_memory(uint32_t start, uint32_t bytes);
// What a bridge passes down.
Resource memory_window(uint32_t start, uint32_t bytes);
Resource bus_numbers(uint16_t first, uint16_t count);

} // namespace casemate::aml
