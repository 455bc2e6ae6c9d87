// SPDX-License-Identifier: Apache-2.0
#include "devices/config_image.hpp"

#include "base/fd.hpp"

#include <algorithm>
#include <atomic>
#include <cassert>
#include <cstring>
#include <sys/mman.h>

namespace casemate {

Result<ConfigImage> ConfigImage::create(unsigned present) {
    assert(present <= slots);
    // The pages of the present functions, and behind them a slot without any.
    const uint64_t absent = present * function_bytes;
    const uint64_t file_bytes = absent + slot_bytes;
    const Fd file = TRY(create_memory_file("casemate-pci-configuration", file_bytes));
    Mapping pages = TRY(Mapping::shared(file.get(), file_bytes, PROT_READ | PROT_WRITE));
    TRY(pages.keep_from_children());
    std::ranges::fill(pages.bytes().subspan(absent), std::byte{0xff});

    Mapping image = TRY(Mapping::anonymous(size_bytes, page_bytes));
    for (unsigned slot = 0; slot < slots; ++slot) {
        TRY(image.replace(slot * slot_bytes, slot_bytes, file.get(), PROT_READ, absent));
        if (slot < present)
            TRY(image.replace(slot * slot_bytes, function_bytes, file.get(), PROT_READ,
                              slot * function_bytes));
    }
    return ConfigImage(std::move(pages), std::move(image));
}

void ConfigImage::update(unsigned slot, std::span<const std::byte> bytes) {
    std::byte* place = m_pages.data() + slot * function_bytes;
    for (; bytes.size() >= sizeof(uint32_t); bytes = bytes.subspan(sizeof(uint32_t))) {
        uint32_t value = 0;
        std::memcpy(&value, bytes.data(), sizeof(value));
        // The guest reads meanwhile.
        std::atomic_ref(*reinterpret_cast<uint32_t*>(place)).store(value, std::memory_order_relaxed);
        place += sizeof(value);
    }
}

} // namespace casemate
