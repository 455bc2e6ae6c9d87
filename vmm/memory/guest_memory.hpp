// SPDX-License-Identifier: Apache-2.0
// GuestMemory: the only way host code touches guest RAM. Checks address and length together, and asks the
// write gate before every write. RAM changes under our feet: what matters is copied once, checked, then used.
#pragma once

#include "base/error.hpp"
#include "base/mapping.hpp"
#include "memory/guest_range.hpp"

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <span>
#include <sys/uio.h>
#include <type_traits>
#include <utility>
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

// Held while host code may write guest RAM, from before the gate is asked until the bytes have landed.
class WriteTicket {
public:
    WriteTicket() = default;
    explicit WriteTicket(const GuestMemory& memory);
    WriteTicket(WriteTicket&& other) noexcept
        : m_memory(std::exchange(other.m_memory, nullptr))
        , m_generation(other.m_generation) {}
    WriteTicket& operator=(WriteTicket&& other) noexcept {
        std::swap(m_memory, other.m_memory);
        std::swap(m_generation, other.m_generation);
        return *this;
    }
    WriteTicket(const WriteTicket&) = delete;
    WriteTicket& operator=(const WriteTicket&) = delete;
    ~WriteTicket();

private:
    const GuestMemory* m_memory = nullptr;
    uint32_t m_generation = 0;
};

// Permission to let the host kernel read or write the listed memory (io_uring, readv) until the token dies.
// The vectors point into guest RAM and are valid only while the token lives.
class Transfer {
public:
    std::span<const iovec> vectors() const { return m_vectors; }
    uint64_t bytes() const { return m_bytes; }

private:
    friend class GuestMemory;
    std::vector<iovec> m_vectors;
    uint64_t m_bytes = 0;
    WriteTicket m_ticket; // when it goes into RAM
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
    // Host-side writes and transfers into RAM that have begun and not ended.
    uint32_t writes_in_flight() const { return m_writers[0].load() + m_writers[1].load(); }
    // Returns when every write that may have asked the gate before this call has landed. Later ones do not
    // prolong it. For whoever narrows the gate: publish first, then drain. One caller at a time, who holds no
    // ticket of its own.
    void drain_writes() const;

private:
    friend class WriteTicket;
    GuestMemory() = default;

    // Host address of the range when one region holds all of it; null otherwise or when empty.
    std::byte* find(const GuestRange& range) const;
    GuestResult<std::byte*> find_writable(const GuestRange& range) const;

    std::vector<Region> m_regions;
    uint64_t m_size = 0;
    const WriteGate* m_gate = nullptr;
    // Two generations of writers, as in sleepable RCU (linux v6.12 kernel/rcu/srcutree.c): new writers join
    // the current one, so the other can only fall.
    mutable std::array<std::atomic<uint32_t>, 2> m_writers{};
    mutable std::atomic<uint32_t> m_generation = 0;
};

} // namespace casemate
