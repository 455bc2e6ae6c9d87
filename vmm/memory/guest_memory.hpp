// SPDX-License-Identifier: Apache-2.0
// GuestMemory: the only way host code touches guest RAM. Checks address and length together, and asks the
// write gate before every write. RAM changes under our feet: what matters is copied once, checked, then used.
#pragma once

#include "base/error.hpp"
#include "base/mapping.hpp"
#include "memory/guest_range.hpp"

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <span>
#include <sys/uio.h>
#include <type_traits>
#include <vector>

namespace casemate {

// Says which guest-physical ranges host code may write. Thread-safe; called for every write.
class WriteGate {
public:
    WriteGate() = default;
    WriteGate(const WriteGate&) = delete;
    WriteGate& operator=(const WriteGate&) = delete;
    virtual ~WriteGate() = default;
    virtual bool may_write(const GuestRange& range) const = 0;
};

class GuestMemory;

// Permission to let the host kernel read or write the listed memory (io_uring, readv) until the token dies.
// The vectors point into guest RAM and are valid only while the token lives.
class Transfer {
public:
    Transfer() = default;
    Transfer(Transfer&& other) noexcept;
    Transfer& operator=(Transfer&& other) noexcept;
    Transfer(const Transfer&) = delete;
    Transfer& operator=(const Transfer&) = delete;
    ~Transfer();

    std::span<const iovec> vectors() const { return m_vectors; }
    uint64_t bytes() const { return m_bytes; }

private:
    friend class GuestMemory;
    std::vector<iovec> m_vectors;
    uint64_t m_bytes = 0;
    const GuestMemory* m_writing_to = nullptr;
};

class GuestMemory {
public:
    struct Region {
        GuestPhysical start;
        Mapping memory;
    };

    // RAM of `size_bytes` (a multiple of 4 KiB), split around the hole below 4 GiB as layout.hpp says.
    // Private anonymous memory with transparent huge pages asked for.
    static Result<GuestMemory> create(uint64_t size_bytes);
    GuestMemory(GuestMemory&& other) noexcept;
    GuestMemory& operator=(GuestMemory&&) = delete;
    GuestMemory(const GuestMemory&) = delete;
    GuestMemory& operator=(const GuestMemory&) = delete;
    ~GuestMemory() = default;

    // For memory slots and e820; host code that wants bytes uses the calls below.
    std::span<const Region> regions() const { return m_regions; }
    uint64_t size() const { return m_size; }
    bool is_ram(const GuestRange& range) const { return range.empty() || find(range) != nullptr; }

    // Not owned; set before any vCPU runs. Without one every write to RAM is allowed.
    void set_write_gate(const WriteGate* gate) { m_gate = gate; }

    // Copies out of or into RAM: all or nothing. Empty ranges succeed. Any thread.
    GuestResult<void> read(GuestRange range, std::span<std::byte> destination) const;
    GuestResult<void> write(GuestPhysical address, std::span<const std::byte> source) const;
    // Sets every byte of the range to zero.
    GuestResult<void> clear(GuestRange range) const;

    // One copy of a structure, to be checked and used from the copy alone.
    template <typename T>
        requires std::is_trivially_copyable_v<T>
    GuestResult<T> fetch(GuestPhysical address) const {
        T value;
        const auto range = GuestRange::from_guest(GuestValue(address.value), GuestValue(uint64_t{sizeof(T)}));
        if (!range)
            return std::unexpected(range.error());
        if (const auto done = read(*range, std::as_writable_bytes(std::span(&value, 1))); !done)
            return std::unexpected(done.error());
        return value;
    }
    template <typename T>
        requires std::is_trivially_copyable_v<T>
    GuestResult<void> store(GuestPhysical address, const T& value) const {
        return write(address, std::as_bytes(std::span(&value, 1)));
    }

    // Ring indices and flags, 2-byte aligned: one atomic access each, ordered as virtio 1.2, 2.7.13 needs.
    GuestResult<uint16_t> load_acquire(GuestPhysical address) const;
    GuestResult<void> store_release(GuestPhysical address, uint16_t value) const;

    // Which way a transfer moves bytes, seen from guest RAM.
    enum class Direction { out_of_ram, into_ram };
    // All ranges are checked, or none is granted. Adjacent ranges are not merged; empty ones are left out.
    GuestResult<Transfer> begin_transfer(std::span<const GuestRange> ranges, Direction direction) const;
    // Transfers into RAM that have begun and not ended; LOCK drains them.
    uint32_t writes_in_flight() const { return m_writes_in_flight.load(std::memory_order_acquire); }

private:
    friend class Transfer;
    GuestMemory() = default;

    // Host address of the range when one region holds all of it; null otherwise or when empty.
    std::byte* find(const GuestRange& range) const;
    GuestResult<std::byte*> find_writable(const GuestRange& range) const;

    std::vector<Region> m_regions;
    uint64_t m_size = 0;
    const WriteGate* m_gate = nullptr;
    mutable std::atomic<uint32_t> m_writes_in_flight = 0;
};

} // namespace casemate
