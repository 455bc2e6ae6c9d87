// SPDX-License-Identifier: Apache-2.0
// The attacks that a program in ring 3 makes; the attack driver of the guest's kernel judges what came of
// them. It is linked statically, for the guest has no libraries.
#include "guard/casemate_abi.h"

#include <csetjmp>
#include <csignal>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <string>

#include <cpuid.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

namespace {

constexpr uint64_t page_bytes = 4096;

sigjmp_buf after_signal;

void on_signal(int number) {
    siglongjmp(after_signal, number);
}

bool tell(const std::string& text) {
    const char* const path = "/sys/kernel/security/casemate-attack/attack";
    const int fd = open(path, O_WRONLY | O_CLOEXEC);
    if (fd < 0 || write(fd, text.data(), text.size()) < 0) {
        std::perror(path);
        return false;
    }
    close(fd);
    return true;
}

struct Target {
    uint64_t physical = 0;
    uint64_t value = 0; // to store there

    uint64_t offset() const { return physical % page_bytes; }
    uint64_t page() const { return physical - offset(); }
};

bool read_target(const std::string& wanted, Target& target) {
    const char* const path = "/sys/kernel/security/casemate-attack/target";
    std::FILE* const file = std::fopen(path, "re");
    if (file == nullptr) {
        std::perror(path);
        return false;
    }
    char name[16] = {};
    bool found = false;
    while (!found && std::fscanf(file, "%15s %lx %lx", name, &target.physical, &target.value) == 3)
        found = wanted == name;
    std::fclose(file);
    return found;
}

const char* store(void* page, const Target& target) {
    if (sigsetjmp(after_signal, 1) != 0)
        return "fault";
    *reinterpret_cast<volatile uint64_t*>(static_cast<char*>(page) + target.offset()) = target.value;
    return "stored";
}

bool devmem_map(const Target& target) {
    const int fd = open("/dev/mem", O_RDWR | O_CLOEXEC);
    void* const page =
        mmap(nullptr, page_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, static_cast<off_t>(target.page()));
    if (!tell("devmem_map begin"))
        return false;
    // While it uses the PAT, Linux lets no RAM be mapped.
    if (page == MAP_FAILED)
        return tell("devmem_map end skipped Linux refuses the mapping, boot with nopat");
    return tell(std::string("devmem_map end ") + store(page, target));
}

bool devmem_write(const Target& target) {
    const int fd = open("/dev/mem", O_WRONLY | O_CLOEXEC);
    if (!tell("devmem_write begin"))
        return false;
    if (fd < 0)
        return tell("devmem_write end skipped no /dev/mem");
    const ssize_t written =
        pwrite(fd, &target.value, sizeof target.value, static_cast<off_t>(target.physical));
    return tell(std::string("devmem_write end ") + (written < 0 ? "fault" : "written"));
}

bool user_mapping(const Target& target) {
    void* const page =
        mmap(nullptr, page_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
    if (page == MAP_FAILED)
        return false;
    char begin[64];
    std::snprintf(begin, sizeof begin, "user_mapping begin %lx", reinterpret_cast<uintptr_t>(page));
    return tell(begin) && tell(std::string("user_mapping end ") + store(page, target));
}

// LOCK of one page, by the instruction that suits the CPU.
int64_t lock(uint64_t page) {
    unsigned eax = 0;
    unsigned ebx = 0;
    unsigned ecx = 0;
    unsigned edx = 0;
    __get_cpuid(0, &eax, &ebx, &ecx, &edx);
    const uint64_t attributes =
        casemate_attributes(CASEMATE_CALL_LOCK, CASEMATE_POLICY_READ_ONLY, CASEMATE_KIND_DATA);
    uint64_t rax = CASEMATE_HYPERCALL; // NOLINT(misc-const-correctness): the instruction changes it
    if (ebx == signature_INTEL_ebx)
        asm volatile("vmcall" : "+a"(rax) : "b"(page), "c"(1UL), "d"(attributes) : "memory");
    else
        asm volatile("vmmcall" : "+a"(rax) : "b"(page), "c"(1UL), "d"(attributes) : "memory");
    return static_cast<int64_t>(rax);
}

bool user_hypercall(const Target& target) {
    if (!tell("user_hypercall begin"))
        return false;
    if (sigsetjmp(after_signal, 1) != 0)
        return tell("user_hypercall end fault");
    return tell("user_hypercall end returned " + std::to_string(lock(target.page())));
}

} // namespace

int main(int count, char** words) {
    const std::string name = count == 2 ? words[1] : "";
    Target target;
    if (!read_target(name == "devmem_write" ? "rodata" : "text", target))
        return 1;
    for (const int number : {SIGSEGV, SIGBUS, SIGILL})
        (void)std::signal(number, on_signal);
    if (name == "devmem_map")
        return devmem_map(target) ? 0 : 1;
    if (name == "devmem_write")
        return devmem_write(target) ? 0 : 1;
    if (name == "user_mapping")
        return user_mapping(target) ? 0 : 1;
    if (name == "user_hypercall")
        return user_hypercall(target) ? 0 : 1;
    std::fputs("usage: ring3 devmem_map|devmem_write|user_mapping|user_hypercall\n", stderr);
    return 2;
}
