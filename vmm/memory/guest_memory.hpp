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
#include <functional>
#include <span>
#include <stop_token>
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
    // may_write() refused a write to the range, and it does not happen. The refused write holds no ticket any
    // more, but its thread may hold those of other writes, which only it can end (a disk's transfers): this
    // must not wait for anybody who waits in GuestMemory::drain_writes().
    virtual void refused(const GuestRange& range) const;
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

// RAM is private anonymous memory with one mapping, here: no file or descriptor is behind it, and no child of
// this process shares or inherits it (MADV_DONTFORK). So a page that deny_writes() made read-only here has no
// writable alias anywhere. /proc/self/mem is what remains: the host's kernel writes through it into read-only
// and sealed pages too (FOLL_FORCE; linux v6.12 fs/proc/base.c: proc_mem_foll_force), and nothing of the
// monitor opens it.
// The pages of replace_pages() are shared memory with two mappings: here they are read-only, and stay so (the
// file behind them takes no writable mapping any more, not by mprotect(2) or FOLL_FORCE either), and the one
// that can change them is the caller's. No descriptor of the file is left.
class GuestMemory {
public:
    struct Region {
        GuestPhysical start;
        Mapping memory;
    };

    // RAM of `size_bytes` (a multiple of 4 KiB), split around the hole below 4 GiB as layout.hpp says.
    // Transparent huge pages are asked for.
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

    // The same of 8-byte aligned words that a guest may be changing, each read at once: page-table entries.
    GuestResult<void> read_words(GuestPhysical address, std::span<uint64_t> words) const;

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

    // For the gate's owner alone, who undoes what the guest did to memory that no one may write: stores an
    // 8-byte aligned word at once, without asking the gate. The page was not handed to deny_writes().
    GuestResult<void> restore(GuestPhysical address, uint64_t value) const;

    // Which way a transfer moves bytes, seen from guest RAM.
    enum class Direction { out_of_ram, into_ram };
    // All ranges are checked, or none is granted. Adjacent ranges are not merged; empty ones are left out.
    GuestResult<Transfer> begin_transfer(std::span<const GuestRange> ranges, Direction direction) const;
    // Host-side writes and transfers into RAM that have begun and not ended.
    uint32_t writes_in_flight() const {
        return (m_writers[0].load() & ~abandoned) + (m_writers[1].load() & ~abandoned);
    }
    // Returns when every write that may have asked the gate before this call has landed. Later ones do not
    // prolong it. For whoever narrows the gate: publish first, then drain. One caller at a time, who holds no
    // ticket of its own. False when `ending` was requested, at which it and every later one ends at once:
    // writes may still be under way.
    bool drain_writes(const std::stop_token& ending) const;

    // A sealed page stays, with its contents, until the process ends: nothing can unmap it, also not the
    // destructor. That is for processes that end with their machine, or lock little.
    enum class Sealing {
        where_possible, // kernels from 6.10 that do not forbid mseal(2); elsewhere as `never`
        never, // read-only pages are unmapped like all others; a fault in the monitor could undo them
    };
    // Makes whole pages of RAM read-only for the guest, for KVM and for this process: all ranges, or on
    // failure none. The ranges ascend, do not overlap and were not denied before. When it returns, no vCPU
    // has a stale mapping (mprotect goes through KVM's MMU notifier). The gate has refused them since before
    // a drain_writes(), for a host write to such a page would end this process. One caller at a time.
    Result<void> deny_writes(std::span<const GuestRange> ranges, Sealing sealing);
    // Replaces whole pages of RAM, in one region, by others with the contents that `fill` gives them, given
    // zeroed ones. For the guest, for KVM and for this process they are read-only as after deny_writes(),
    // with what that asks of the gate; only the view that is returned changes them, at once for all. None of
    // them was denied before. On failure they stay as they were, or, when the host's kernel had no memory
    // half-way, are zeroed. Fails before it needs what the host does not have. One caller at a time.
    Result<Mapping> replace_pages(const GuestRange& range,
                                  const std::function<void(std::span<std::byte>)>& fill, Sealing sealing);
    // The bytes of whole pages of RAM, in one region, which nothing but the caller may write to: it keeps the
    // guest and KVM from that, has the gate refuse them, and has drained. They live as long as this.
    std::span<std::byte> bytes_behind(const GuestRange& range) const;
    // How much of this memory will stay.
    uint64_t sealed_bytes() const;

private:
    friend class WriteTicket;
    GuestMemory() = default;
    void abandon_drains() const;

    // Host address of the range when one region holds all of it; null otherwise or when empty.
    std::byte* find(const GuestRange& range) const;
    // Whether a write may go ahead; asked by who holds a ticket.
    bool may_write(const GuestRange& range) const;
    // Hands the host address to `write` with a ticket held, once the gate has agreed.
    template <typename Write>
    GuestResult<void> write_with(const GuestRange& range, Write write) const;
    struct Place {
        Mapping* mapping = nullptr; // none: not in one region
        uint64_t offset = 0;
    };
    Place place_of(const GuestRange& range);

    std::vector<Region> m_regions;
    uint64_t m_size = 0;
    const WriteGate* m_gate = nullptr;
    // Some page is read-only that the gate knows nothing of: no host write is safe any more.
    std::atomic<bool> m_unknown_read_only = false;
    // Two generations of writers, as in sleepable RCU (linux v6.12 kernel/rcu/srcutree.c): new writers join
    // the current one, so the other can only fall.
    // The top bit ends a drain.
    static constexpr uint32_t abandoned = 1U << 31U;
    mutable std::array<std::atomic<uint32_t>, 2> m_writers{};
    mutable std::atomic<uint32_t> m_generation = 0;
};

} // namespace casemate
