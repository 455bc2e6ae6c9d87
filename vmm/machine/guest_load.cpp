// SPDX-License-Identifier: Apache-2.0
#include "machine/guest_load.hpp"

#include "boot/initrd.hpp"

#include <pthread.h>
#include <system_error>
#include <utility>

namespace casemate {
namespace {

Result<LoadedGuest> load(const GuestMemory& memory, const GuestLoad::Paths& paths) {
    LoadedGuest guest{.kernel = TRY(load_kernel(memory, paths.kernel.c_str())), .initrd = std::nullopt};
    if (!paths.initrd.empty())
        guest.initrd = TRY(load_initrd(memory, guest.kernel, paths.initrd.c_str()));
    return guest;
}

} // namespace

Result<std::unique_ptr<GuestLoad>> GuestLoad::begin(const GuestMemory& memory, Paths paths) {
    std::unique_ptr<GuestLoad> started(new GuestLoad);
    GuestLoad& self = *started;
    try {
        self.m_thread =
            std::thread([&self, &memory, paths = std::move(paths)] { self.m_loaded = load(memory, paths); });
    } catch (const std::system_error& failure) {
        return fail(Error::system("start a thread to load the guest", failure.code().value())
                        .hint("raise the limit on processes"));
    }
    pthread_setname_np(self.m_thread.native_handle(), "load");
    return started;
}

GuestLoad::~GuestLoad() {
    if (m_thread.joinable())
        m_thread.join();
}

Result<LoadedGuest> GuestLoad::finish() {
    m_thread.join();
    return std::move(m_loaded);
}

} // namespace casemate
