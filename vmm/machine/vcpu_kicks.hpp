// SPDX-License-Identifier: Apache-2.0
// VcpuKicks: brings vCPU threads out of KVM_RUN, from any other thread.
#pragma once

#include "kvm/vcpu.hpp"
#include "memory/layout.hpp"

#include <array>
#include <atomic>
#include <cstdint>
#include <mutex>
#include <optional>
#include <pthread.h>

namespace casemate {

// Two things are needed to interrupt KVM_RUN: the flag in the run page catches a thread that is about to
// enter it, the signal one that is inside.
class VcpuKicks {
public:
    // The process's handler for the signal, without which it would end the process.
    static void install_handler();

    // Of a vCPU's thread, around its loop: only then is the signal sent to it.
    void enter(const Vcpu& vcpu);
    void leave(const Vcpu& vcpu);

    // Makes the vCPU's thread leave KVM_RUN, or not enter it, once. Does not wait. Any thread.
    void kick(const Vcpu& vcpu);
    // What a vCPU's thread may be asked to do between two KVM_RUN.
    struct Looks {
        static constexpr uint32_t at_registers = 1; // Guard::look()
        static constexpr uint32_t at_progress = 2;  // Guard::check_progress()
    };
    // The same, and take_looks() has the bit once.
    void ask_for_look(const Vcpu& vcpu, uint32_t look);

    // On the vCPU's thread, after KVM_RUN ended with EINTR: before it looks at what a kick was for.
    static void rearm(const Vcpu& vcpu) { vcpu.request_exit(false); }
    uint32_t take_looks(const Vcpu& vcpu) { return m_looks.at(vcpu.index()).exchange(0); }

private:
    std::array<std::atomic<uint32_t>, layout::max_cpus> m_looks{};
    std::mutex m_mutex; // guards m_threads; held while a thread is signalled, so that it is still there
    std::array<std::optional<pthread_t>, layout::max_cpus> m_threads{};
};

} // namespace casemate
