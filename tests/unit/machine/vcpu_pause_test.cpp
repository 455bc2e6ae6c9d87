// SPDX-License-Identifier: Apache-2.0
// On the KVM of the machine that runs the tests, whatever kind it is; skipped where there is none.
#include "machine/vcpu_pause.hpp"

#include "memory/guest_memory.hpp"
#include "vm_here.hpp"

#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <doctest/doctest.h>
#include <memory>
#include <thread>
#include <vector>

namespace casemate {
namespace {

constexpr size_t cpus = 3;

// vCPUs that spin, each on a thread of its own, as the vCPU loop has it.
struct Spinners {
    GuestMemory memory;
    Vm vm;
    std::vector<Vcpu> vcpus;
    VcpuKicks kicks;
    VcpuPause pause;
    std::array<std::atomic<bool>, cpus> stopping{};
    std::array<std::atomic<bool>, cpus> running{};
    std::array<std::atomic<unsigned>, cpus> entries{};
    std::array<std::atomic<unsigned>, cpus> looks{};
    std::vector<std::thread> threads;

    static std::unique_ptr<Spinners> create() {
        auto vm = vm_here();
        if (!vm)
            return nullptr;
        return std::make_unique<Spinners>(*GuestMemory::create(1_MiB), std::move(*vm));
    }
    Spinners(GuestMemory ram, Vm machine)
        : memory(std::move(ram))
        , vm(std::move(machine)) {
        constexpr std::array<uint8_t, 2> spin{0xeb, 0xfe}; // JMP to itself
        REQUIRE(memory.write({0x1000}, std::as_bytes(std::span(spin))));
        REQUIRE(vm.set_memory_slot(0, {0}, memory.size(), memory.regions().front().memory.data()));
        VcpuKicks::install_handler();
        for (uint32_t i = 0; i < cpus; ++i) {
            vcpus.push_back(*vm.create_vcpu(i));
            kvm_sregs system = *vcpus.back().system_registers();
            system.cs.base = 0;
            system.cs.selector = 0;
            REQUIRE(vcpus.back().set_system_registers(system));
            REQUIRE(vcpus.back().set_registers({.rip = 0x1000, .rflags = 2}));
        }
        for (const Vcpu& vcpu : vcpus)
            threads.emplace_back([this, &vcpu] {
                kicks.enter(vcpu);
                run(vcpu);
                kicks.leave(vcpu);
            });
    }
    Spinners(const Spinners&) = delete;
    Spinners& operator=(const Spinners&) = delete;
    ~Spinners() { end(); }

    void run(const Vcpu& vcpu) {
        const uint32_t i = vcpu.index();
        for (;;) {
            pause.enter(vcpu);
            ++entries[i];
            running[i] = true;
            const int failure = vcpu.run();
            running[i] = false;
            pause.leave(vcpu);
            if (failure == EINTR)
                VcpuKicks::rearm(vcpu);
            if (stopping[i])
                return;
            if (failure != EINTR && failure != EAGAIN)
                return; // entries stay as they are
            if (kicks.take_looks(vcpu) != 0)
                ++looks[i];
        }
    }
    void ask_to_end(size_t i) {
        stopping[i] = true;
        kicks.kick(vcpus[i]);
    }
    void end() {
        for (size_t i = 0; i < cpus; ++i)
            ask_to_end(i);
        for (std::thread& thread : threads)
            thread.join();
        threads.clear();
    }
    void wait_for_entries(unsigned count) {
        for (size_t i = 0; i < cpus; ++i)
            while (entries[i] < count)
                std::this_thread::yield();
    }
    bool any_runs() const {
        return std::ranges::any_of(running, [](const auto& one) { return one.load(); });
    }
};

TEST_CASE("nothing runs during a change, and all run on after it") {
    const auto spinners = Spinners::create();
    if (!spinners)
        return;
    spinners->wait_for_entries(1);
    unsigned ran = 0;
    for (unsigned i = 0; i < 300; ++i) {
        bool changed = false;
        spinners->pause.with_stopped(spinners->vcpus, spinners->kicks, [&] {
            ran += spinners->any_runs() ? 1 : 0;
            changed = true;
            if (i % 16 == 0)
                std::this_thread::sleep_for(std::chrono::microseconds(500));
            ran += spinners->any_runs() ? 1 : 0;
        });
        REQUIRE(changed);
    }
    CHECK(ran == 0);
    const unsigned before = spinners->entries[0];
    spinners->kicks.kick(spinners->vcpus[0]);
    while (spinners->entries[0] == before)
        std::this_thread::yield();
}

TEST_CASE("kicks for other reasons at the same time get through, and let nothing run during a change") {
    const auto spinners = Spinners::create();
    if (!spinners)
        return;
    std::atomic<bool> done = false;
    std::thread asker([&] {
        for (unsigned i = 0; !done; ++i) {
            spinners->kicks.ask_for_look(spinners->vcpus[i % cpus], 1);
            std::this_thread::yield();
        }
    });
    unsigned ran = 0;
    for (unsigned i = 0; i < 300; ++i)
        spinners->pause.with_stopped(spinners->vcpus, spinners->kicks, [&] {
            ran += spinners->any_runs() ? 1 : 0;
            std::this_thread::yield();
            ran += spinners->any_runs() ? 1 : 0;
        });
    for (size_t i = 0; i < cpus; ++i)
        while (spinners->looks[i] < 3)
            std::this_thread::yield();
    done = true;
    asker.join();
    CHECK(ran == 0);
}

TEST_CASE("a vCPU that ends during a change, or has ended, keeps nobody waiting") {
    const auto spinners = Spinners::create();
    if (!spinners)
        return;
    spinners->wait_for_entries(1);
    spinners->pause.with_stopped(spinners->vcpus, spinners->kicks, [&] { spinners->ask_to_end(1); });
    spinners->threads[1].join();
    spinners->threads.erase(spinners->threads.begin() + 1);
    bool changed = false;
    spinners->pause.with_stopped(spinners->vcpus, spinners->kicks, [&] { changed = true; });
    CHECK(changed);
    CHECK_FALSE(spinners->running[1]);
}

// As a vCPU does in LOCK, while the machine ends.
TEST_CASE("a machine that ends while one of its vCPUs changes slots ends") {
    for (unsigned i = 0; i < 30; ++i) {
        const auto spinners = Spinners::create();
        if (!spinners)
            return;
        std::thread changer([&] {
            for (unsigned k = 0; k < 20; ++k)
                spinners->pause.with_stopped(spinners->vcpus, spinners->kicks, [] {});
        });
        if (i % 2 == 0)
            spinners->wait_for_entries(1);
        spinners->end();
        changer.join();
        CHECK_FALSE(spinners->any_runs());
    }
}

} // namespace
} // namespace casemate
