// SPDX-License-Identifier: Apache-2.0
// guest-load STEP ROUNDS: load for a guest kernel that a shell cannot make. Each step checks what the kernel
// did, and ends with the line "workload: STEP ok ROUNDS" or says what failed. Static: the guest has no
// libraries.
#include "load.hpp"

#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fcntl.h>
#include <string>
#include <sys/wait.h>
#include <unistd.h>

namespace load {
namespace {

constexpr decltype(&process_steps) files[] = {process_steps,   memory_steps, filter_steps,
                                              container_steps, file_steps,   address_space_steps,
                                              crowd_steps,     churn_steps,  disk_steps};

int usage() {
    (void)std::fputs("usage: guest-load STEP ROUNDS; the steps are:", stderr);
    for (const auto steps : files)
        for (const Step& step : steps())
            (void)std::fprintf(stderr, " %s", step.name);
    (void)std::fputs("\n", stderr);
    return 2;
}

} // namespace

const Step* find_step(const char* name) {
    for (const auto steps : files)
        for (const Step& step : steps())
            if (std::strcmp(step.name, name) == 0)
                return &step;
    return nullptr;
}

void expect_end(pid_t child, int want) {
    int status = -1;
    if (must("waitpid", waitpid(child, &status, 0)) != child || status != want)
        fail("a child ended with %#x instead of %#x", static_cast<unsigned>(status),
             static_cast<unsigned>(want));
}

pid_t fork_child() {
    return must("fork", fork());
}
void end_child(int status) {
    _exit(status);
}

ssize_t read_file(const char* path, std::span<char> buffer) {
    const int file = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
    if (file < 0)
        return -1;
    size_t have = 0;
    ssize_t count = 0;
    while (have + 1 < buffer.size() && (count = read(file, &buffer[have], buffer.size() - 1 - have)) > 0)
        have += static_cast<size_t>(count);
    const int error = errno;
    close(file);
    errno = error;
    buffer[have] = 0;
    return have == 0 && count < 0 ? -1 : static_cast<ssize_t>(have);
}

bool write_file(const char* path, const char* text) {
    const int file = open(path, O_WRONLY | O_CLOEXEC);
    if (file < 0)
        return false;
    const auto size = static_cast<ssize_t>(std::strlen(text));
    const bool whole = write(file, text, static_cast<size_t>(size)) == size;
    const int error = errno;
    close(file);
    errno = error;
    return whole;
}

} // namespace load

int main(int argc, char** argv) {
    using namespace load;
    if (argc != 3)
        return usage();
    const unsigned long number = std::strtoul(argv[2], nullptr, 10);
    if (std::strcmp(argv[1], answer_word) == 0)
        return static_cast<int>(number);
    const Step* const step = find_step(argv[1]);
    if (step == nullptr)
        return usage();
    const std::string prefix = std::string("workload: ") + step->name + " failed: ";
    failure::set_manner({.prefix = prefix.c_str(), .descriptor = STDOUT_FILENO, .status = 1});
    check(number > 0, "no rounds");
    step->run(static_cast<unsigned>(number));
    std::printf("workload: %s ok %lu\n", step->name, number);
    return 0;
}
