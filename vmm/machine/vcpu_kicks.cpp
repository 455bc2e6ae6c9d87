// SPDX-License-Identifier: Apache-2.0
#include "machine/vcpu_kicks.hpp"

#include <csignal>

namespace casemate {
namespace {

int kick_signal() {
    return SIGRTMIN;
}

} // namespace

void VcpuKicks::install_handler() {
    struct sigaction action{};
    action.sa_handler = [](int) {};
    sigaction(kick_signal(), &action, nullptr);
}

void VcpuKicks::enter(const Vcpu& vcpu) {
    // Whoever started us may have blocked every signal, and threads inherit that.
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, kick_signal());
    pthread_sigmask(SIG_UNBLOCK, &set, nullptr);
    const std::lock_guard lock(m_mutex);
    m_threads.at(vcpu.index()) = pthread_self();
}

void VcpuKicks::leave(const Vcpu& vcpu) {
    const std::lock_guard lock(m_mutex);
    m_threads.at(vcpu.index()).reset();
}

void VcpuKicks::kick(const Vcpu& vcpu) {
    vcpu.request_exit(true);
    const std::lock_guard lock(m_mutex);
    if (const auto& thread = m_threads.at(vcpu.index()))
        pthread_kill(*thread, kick_signal());
}

void VcpuKicks::ask_for_look(const Vcpu& vcpu, uint32_t look) {
    // One that is still to come has its flag in the run page already.
    if ((m_looks.at(vcpu.index()).fetch_or(look) & look) == 0)
        kick(vcpu);
}

} // namespace casemate
