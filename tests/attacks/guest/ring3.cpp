// SPDX-License-Identifier: Apache-2.0
// The attacks that a program in ring 3 makes; the attack driver of the guest's kernel judges what came of
// them. It is linked statically, for the guest has no libraries.
#include "guard/casemate_abi.h"

#include <array>
#include <csetjmp>
#include <csignal>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>

#include <cpuid.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

namespace {

constexpr uint64_t page_bytes = 4096;

sigjmp_buf after_signal;

void on_signal(int number) {
    siglongjmp(after_signal, number);
}

constexpr const char* attack_path = "/sys/kernel/security/casemate-attack/attack";
constexpr const char* target_path = "/sys/kernel/security/casemate-attack/target";

bool tell(int fd, const std::string& text) {
    if (fd >= 0 && write(fd, text.data(), text.size()) >= 0)
        return true;
    std::perror(attack_path);
    return false;
}

bool tell(const std::string& text) {
    const int fd = open(attack_path, O_WRONLY | O_CLOEXEC);
    const bool told = tell(fd, text);
    close(fd);
    return told;
}

struct Target {
    uint64_t physical = 0;
    uint64_t value = 0; // to store there

    uint64_t offset() const { return physical % page_bytes; }
    uint64_t page() const { return physical - offset(); }
};

bool read_target(const std::string& wanted, Target& target) {
    std::FILE* const file = std::fopen(target_path, "re");
    if (file == nullptr) {
        std::perror(target_path);
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

// Between begin and end the CPU goes to another address space and back: to that of a child, which answers and
// does nothing else. Whoever comes back on a root that is not the kernel's may be killed.
bool root(const std::string& name) {
    std::array<int, 2> question{};
    std::array<int, 2> answer{};
    if (pipe(question.data()) != 0 || pipe(answer.data()) != 0)
        return false;
    const pid_t child = fork();
    if (child < 0)
        return false;
    char byte = 0;
    if (child == 0) {
        close(question[1]);
        while (read(question[0], &byte, 1) == 1 && write(answer[1], &byte, 1) == 1) {
        }
        _exit(0);
    }
    close(question[0]);
    close(answer[1]);
    (void)std::signal(SIGPIPE, SIG_IGN);
    if (!tell(name + " begin"))
        return false;
    const bool answered = write(question[1], &byte, 1) == 1 && read(answer[0], &byte, 1) == 1;
    return tell(name + (answered ? " end switched" : " end the child died"));
}

// As a user who is not root; the kernel's attacker then changes that.
bool cred(const std::string& name) {
    const int fd = open(attack_path, O_WRONLY | O_CLOEXEC);
    constexpr uid_t nobody = 65534;
    if (setresgid(nobody, nobody, nobody) != 0 || setresuid(nobody, nobody, nobody) != 0)
        return false;
    if (open(target_path, O_RDONLY | O_CLOEXEC) >= 0)
        return false;
    if (!tell(fd, name + " begin"))
        return false;
    const bool used = geteuid() == 0 && open(target_path, O_RDONLY | O_CLOEXEC) >= 0;
    return tell(fd, name + (used ? " end used to read a file of root's" : " end not used"));
}

bool core_pattern(const std::string& name) {
    const char* const made = "/tmp/casemate-attack-core"; // by the program that the pattern names
    unlink(made);
    if (!tell(name + " begin"))
        return false;
    const pid_t child = fork();
    if (child == 0) {
        (void)std::signal(SIGSEGV, SIG_DFL);
        // Whoever has changed its user leaves no core without the second call.
        if (setuid(65534) == 0 && prctl(PR_SET_DUMPABLE, 1) == 0)
            std::abort();
        _exit(1);
    }
    waitpid(child, nullptr, 0);
    struct stat status{};
    bool used = false;
    for (int tries = 0; tries < 500 && !used; ++tries) {
        used = stat(made, &status) == 0 && status.st_uid == 0;
        usleep(10000);
    }
    return tell(name + (used ? " end used: a program ran as root" : " end no program ran"));
}

} // namespace

int main(int count, char** words) {
    const std::string name = count == 2 ? words[1] : "";
    const std::string attack = name.substr(0, name.find('.'));
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
    if (attack == "pgd_text" || attack == "pgd_direct" || attack == "mm_pgd")
        return root(name) ? 0 : 1;
    if (attack == "cred")
        return cred(name) ? 0 : 1;
    if (attack == "core_pattern")
        return core_pattern(name) ? 0 : 1;
    std::fputs(
        "usage: ring3 devmem_map|devmem_write|user_mapping|user_hypercall|pgd_text|pgd_direct|mm_pgd|cred|"
        "core_pattern\n",
        stderr);
    return 2;
}
