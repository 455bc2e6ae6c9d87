// SPDX-License-Identifier: Apache-2.0
#include "cli/standard_output.hpp"

#include "base/error.hpp"
#include "base/log.hpp"
#include "machine/exit_status.hpp"

#include <cerrno>
#include <fcntl.h>
#include <unistd.h>

namespace casemate {

bool occupy_standard_descriptors() {
    for (int descriptor = STDIN_FILENO; descriptor <= STDERR_FILENO; ++descriptor)
        if (fcntl(descriptor, F_GETFD) < 0 && open("/dev/null", O_RDONLY) != descriptor) // NOLINT: inherited
            return false;
    return true;
}

int print(std::string_view text) {
    while (!text.empty()) {
        const ssize_t written = write(STDOUT_FILENO, text.data(), text.size());
        if (written < 0 && errno == EINTR)
            continue;
        if (written <= 0) {
            Log(STDERR_FILENO).host(Error::system("write to standard output", errno).message());
            return exit_status(EndReason::host_failure).status;
        }
        text.remove_prefix(static_cast<size_t>(written));
    }
    return 0;
}

} // namespace casemate
