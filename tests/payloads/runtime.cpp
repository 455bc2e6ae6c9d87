// SPDX-License-Identifier: Apache-2.0
#include "runtime.hpp"

namespace payload {
namespace {

struct ExceptionFrame {
    uint64_t r15, r14, r13, r12, r11, r10, r9, r8, rbp, rdi, rsi, rdx, rcx, rbx, rax;
    uint64_t vector;
    uint64_t error;
    uint64_t rip, cs, rflags, rsp, ss;
};

} // namespace
} // namespace payload

extern "C" {
// The compiler may call these even in a freestanding program.
void* memset(void* destination, int value, size_t count) {
    auto* out = static_cast<unsigned char*>(destination);
    for (size_t i = 0; i < count; ++i)
        out[i] = static_cast<unsigned char>(value);
    return destination;
}
void* memcpy(void* destination, const void* source, size_t count) {
    auto* out = static_cast<unsigned char*>(destination);
    const auto* in = static_cast<const unsigned char*>(source);
    for (size_t i = 0; i < count; ++i)
        out[i] = in[i];
    return destination;
}
extern const unsigned char exception_stubs[];
extern const unsigned char leave_ring3_stub[];
extern const unsigned char interrupt_stub[];
extern const unsigned char catch_return[];
extern const unsigned char second_cpu_code[];
extern const unsigned char second_cpu_cr3[];
extern const unsigned char second_cpu_code_end[];
void call_catching(void (*function)(void*), void* argument, volatile uint64_t* saved_rsp);
void enter_ring3(uint64_t rip, uint64_t rsp, uint64_t first, uint64_t second);
void start_runtime(const unsigned char* boot_params);
void handle_exception(payload::ExceptionFrame& frame);
void run_second_cpu();
volatile uint64_t interrupts_seen; // counted by interrupt_stub
}

namespace payload {
namespace {

constexpr uint16_t code_selector = 0x10; // __BOOT_CS
constexpr uint16_t data_selector = 0x18;
constexpr uint16_t first_task_selector = 0x30;
constexpr unsigned cpus = 2;
constexpr uint64_t second_cpu_page = 0x8000; // free below the boot tables: vmm/memory/layout.hpp

struct [[gnu::packed]] Gate {
    uint16_t offset_low;
    uint16_t selector;
    uint16_t attributes;
    uint16_t offset_middle;
    uint32_t offset_high;
    uint32_t reserved;
};
static_assert(sizeof(Gate) == 16);

struct [[gnu::packed]] TablePointer {
    uint16_t limit;
    uint64_t base;
};

// SDM Vol. 3A, "Task Management in 64-bit Mode".
struct [[gnu::packed]] TaskState {
    uint32_t reserved0;
    uint64_t rsp[3];
    uint64_t reserved1;
    uint64_t ist[7];
    uint64_t reserved2;
    uint16_t reserved3;
    uint16_t io_map;
};
static_assert(sizeof(TaskState) == 104);

struct CatchPoint {
    volatile uint64_t rsp = 0;
    Caught caught;
};

Gate gates[256];
TaskState tasks[cpus];
// Null, unused, code, data, user data, user code, two TSS descriptors of two entries each, 32-bit code.
uint64_t gdt[7 + 2 * cpus] = {
    0, 0, 0x00af9b000000ffff, 0x00cf93000000ffff, 0x00cff3000000ffff, 0x00affb000000ffff, 0, 0,
    0, 0, 0x00cf9b000000ffff};
alignas(16) uint8_t exception_stacks[cpus][exception_stack_bytes];
alignas(16) uint8_t ring0_stacks[cpus][exception_stack_bytes];
alignas(16) uint8_t ring3_stack[16384];
CatchPoint* volatile catch_points[cpus];
const unsigned char* boot_parameters;
const char* command_line = "";

void (*second_cpu_function)(void*);
void* second_cpu_argument;
volatile bool second_cpu_alive;
volatile bool second_cpu_done;

bool starts_with(const char* text, const char* prefix) {
    for (; *prefix != 0; ++text, ++prefix)
        if (*text != *prefix)
            return false;
    return true;
}

// The first word of the command line that starts with `prefix`, behind the prefix; null when there is none.
const char* find_word(const char* prefix) {
    for (const char* at = command_line; *at != 0; ++at)
        if ((at == command_line || at[-1] == ' ') && starts_with(at, prefix)) {
            while (*prefix++ != 0)
                ++at;
            return at;
        }
    return nullptr;
}

unsigned this_cpu() {
    uint16_t task;
    asm volatile("str %0" : "=r"(task));
    return task == first_task_selector + 16 ? 1 : 0;
}

void set_gate(unsigned vector, const unsigned char* target, unsigned ist, unsigned ring) {
    const auto handler = reinterpret_cast<uint64_t>(target);
    gates[vector] = {.offset_low = static_cast<uint16_t>(handler),
                     .selector = code_selector,
                     .attributes = static_cast<uint16_t>(0x8e00 | ring << 13 | ist),
                     .offset_middle = static_cast<uint16_t>(handler >> 16),
                     .offset_high = static_cast<uint32_t>(handler >> 32),
                     .reserved = 0};
}

void set_gates(unsigned ist) {
    for (unsigned vector = 0; vector < 256; ++vector)
        set_gate(vector, vector < 32 ? exception_stubs + 16UL * vector : interrupt_stub, ist, 0);
    set_gate(vector_leave_ring3, leave_ring3_stub, ist, 3);
}

void load_tables(unsigned cpu) {
    TaskState& task = tasks[cpu];
    task.rsp[0] = reinterpret_cast<uint64_t>(ring0_stacks[cpu] + exception_stack_bytes);
    task.ist[0] = reinterpret_cast<uint64_t>(exception_stacks[cpu] + exception_stack_bytes);
    task.io_map = sizeof(TaskState);
    const auto base = reinterpret_cast<uint64_t>(&task);
    // SDM Vol. 3A, "TSS Descriptor in 64-bit mode": available, present.
    gdt[6 + 2 * cpu] =
        (sizeof(TaskState) - 1) | (base & 0xffffff) << 16 | 0x89ULL << 40 | (base >> 24 & 0xff) << 56;
    gdt[7 + 2 * cpu] = base >> 32;
    const TablePointer gdt_pointer{sizeof(gdt) - 1, reinterpret_cast<uint64_t>(gdt)};
    const TablePointer idt_pointer{sizeof(gates) - 1, reinterpret_cast<uint64_t>(gates)};
    asm volatile("lgdt %0" ::"m"(gdt_pointer));
    asm volatile("ltr %0" ::"r"(static_cast<uint16_t>(first_task_selector + 16 * cpu)));
    asm volatile("lidt %0" ::"m"(idt_pointer));
}

} // namespace

void print(const char* text) {
    while (*text != 0) {
        size_t count = 0;
        while (count < 16 && text[count] != 0) // the transmit FIFO's size
            ++count;
        while ((in8(com1 + 5) & 0x20) == 0) {
        }
        asm volatile("rep outsb" : "+S"(text), "+c"(count) : "d"(com1) : "memory");
    }
}

void print_hex(uint64_t value) {
    char text[19] = "0x0000000000000000";
    for (int i = 17; i > 1; --i, value >>= 4)
        text[i] = "0123456789abcdef"[value & 15];
    print(text);
}

void print_decimal(int64_t value) {
    char text[21];
    unsigned at = sizeof(text) - 1;
    text[at] = 0;
    uint64_t rest = value < 0 ? -static_cast<uint64_t>(value) : static_cast<uint64_t>(value);
    do {
        text[--at] = static_cast<char>('0' + rest % 10);
        rest /= 10;
    } while (rest != 0);
    if (value < 0)
        text[--at] = '-';
    print(text + at);
}

void report(bool good, const char* name) {
    print(good ? "ok " : "not ok ");
    print(name);
    print("\n");
}

void power_off() {
    // SLP_EN and the S5 type that the DSDT's \_S5 names.
    for (;;)
        out8(sleep_control, 0x20 | (5 << 2));
}

bool command_line_has(const char* word) {
    const char* const end = find_word(word);
    return end != nullptr && (*end == 0 || *end == ' ');
}

uint64_t command_line_number(const char* name, uint64_t fallback) {
    const char* at = find_word(name);
    if (at == nullptr || *at != '=')
        return fallback;
    uint64_t value = 0;
    for (++at; *at >= '0' && *at <= '9'; ++at)
        value = value * 10 + static_cast<uint64_t>(*at - '0');
    return value;
}

bool command_line_names(const char* name) {
    const char* const at = find_word(name);
    return at != nullptr && *at == '=';
}

bool command_line_is(const char* name, const char* value) {
    const char* at = find_word(name);
    if (at == nullptr || *at != '=')
        return false;
    for (++at; *value != 0; ++at, ++value)
        if (*at != *value)
            return false;
    return *at == 0 || *at == ' ';
}

bool equal(const char* a, const char* b) {
    return starts_with(a, b) && starts_with(b, a);
}

uint64_t ram_end() {
    // Linux x86 boot protocol, "The Zero Page": e820_entries, e820_table of (address, size, type).
    uint64_t end = 0;
    for (unsigned i = 0; i < boot_parameters[0x1e8]; ++i) {
        uint64_t entry[2];
        memcpy(entry, boot_parameters + 0x2d0 + 20UL * i, sizeof(entry));
        if (boot_parameters[0x2d0 + 20 * i + 16] == 1 && entry[0] < pci_window && entry[0] + entry[1] > end)
            end = entry[0] + entry[1];
    }
    return end;
}

void spin(uint64_t rounds) {
    for (uint64_t i = 0; i < rounds; ++i)
        pause();
}

uint64_t supported_xcr0() {
    if ((cpuid(1).ecx >> 26 & 1) == 0)
        return 0;
    uint64_t supported = cpuid(0xd).eax & 0xe7;
    // KVM recomputes leaf 0xd from what it saw set, so AVX alone tells on some hosts.
    if ((cpuid(1).ecx >> 28 & 1) != 0)
        supported |= 7;
    if ((supported & 0xe0) != 0xe0)
        supported &= 7;
    return supported;
}

void enable_extensions() {
    uint64_t cr0 = read_cr0();
    cr0 &= ~0xcULL; // EM, TS
    cr0 |= 0x22;    // MP, NE
    write_cr0(cr0);
    uint64_t cr4;
    asm volatile("mov %%cr4, %0" : "=r"(cr4));
    cr4 |= 0x600; // OSFXSR, OSXMMEXCPT
    const uint64_t xcr0 = supported_xcr0();
    if (xcr0 != 0)
        cr4 |= 1 << 18; // OSXSAVE
    asm volatile("mov %0, %%cr4" ::"r"(cr4));
    if (xcr0 != 0)
        asm volatile("xsetbv" ::"c"(0), "a"(static_cast<uint32_t>(xcr0)), "d"(0));
    asm volatile("fninit");
}

Caught catch_exceptions(void (*function)(void*), void* argument) {
    CatchPoint point;
    const unsigned cpu = this_cpu();
    CatchPoint* const outer = catch_points[cpu];
    catch_points[cpu] = &point;
    call_catching(function, argument, &point.rsp);
    asm volatile("" ::: "memory"); // handle_exception() wrote the point
    catch_points[cpu] = outer;
    return point.caught;
}

void use_exception_stack(uint64_t top) {
    tasks[this_cpu()].ist[0] = top;
    set_gates(1);
}

void use_own_exception_stack() {
    const unsigned cpu = this_cpu();
    use_exception_stack(reinterpret_cast<uint64_t>(exception_stacks[cpu] + exception_stack_bytes));
}

void use_current_stack_for_exceptions() {
    set_gates(0);
}

void set_ring0_stack(uint64_t top) {
    tasks[this_cpu()].rsp[0] = top;
}

Caught run_in_ring3(void (*function)(uint64_t, uint64_t), uint64_t first, uint64_t second) {
    return catch_exceptions([&] {
        // As after a call: the stack is 8 off.
        enter_ring3(reinterpret_cast<uint64_t>(function),
                    reinterpret_cast<uint64_t>(ring3_stack + sizeof(ring3_stack) - 8), first, second);
    });
}

void enable_local_apic() {
    store<uint32_t>(local_apic + 0xf0, 0x1ff); // software enable, spurious vector 0xff
    store<uint32_t>(local_apic + 0x80, 0);     // task priority
}

bool start_second_cpu(void (*function)(void*), void* argument) {
    enable_local_apic();
    second_cpu_function = function;
    second_cpu_argument = argument;
    second_cpu_alive = false;
    second_cpu_done = false;
    memcpy(reinterpret_cast<void*>(second_cpu_page), second_cpu_code,
           static_cast<size_t>(second_cpu_code_end - second_cpu_code));
    store<uint32_t>(second_cpu_page + static_cast<uint64_t>(second_cpu_cr3 - second_cpu_code),
                    static_cast<uint32_t>(read_cr3()));
    constexpr uint64_t interrupt_command = local_apic + 0x300;
    store<uint32_t>(interrupt_command + 0x10, 1U << 24);
    store<uint32_t>(interrupt_command, 0xc500); // INIT, level, assert
    // A start-up interrupt counts only once INIT has been taken, so it is repeated.
    for (unsigned tries = 0; tries < 20000 && !second_cpu_alive; ++tries) {
        store<uint32_t>(interrupt_command, 0x4600 | second_cpu_page >> 12);
        spin(1000);
    }
    return second_cpu_alive;
}

bool second_cpu_is_done() {
    return second_cpu_done;
}

} // namespace payload

void start_runtime(const unsigned char* boot_params) {
    using namespace payload;
    boot_parameters = boot_params;
    // Linux x86 boot protocol: hdr.cmd_line_ptr.
    command_line = reinterpret_cast<const char*>(
        static_cast<uint64_t>(*reinterpret_cast<const uint32_t*>(boot_params + 0x228)));
    set_gates(1);
    load_tables(0);
}

void run_second_cpu() {
    using namespace payload;
    catch_points[1] = nullptr;
    load_tables(1);
    enable_extensions();
    second_cpu_alive = true;
    second_cpu_function(second_cpu_argument);
    second_cpu_done = true;
}

void handle_exception(payload::ExceptionFrame& frame) {
    using namespace payload;
    uint64_t cr2;
    asm volatile("mov %%cr2, %0" : "=r"(cr2));
    CatchPoint* const point = catch_points[this_cpu()];
    if (point != nullptr && point->rsp != 0) {
        point->caught = {.happened = true,
                         .vector = frame.vector,
                         .error = frame.error,
                         .rip = frame.rip,
                         .cr2 = cr2,
                         .rax = frame.rax};
        frame.rip = reinterpret_cast<uint64_t>(catch_return);
        frame.rsp = point->rsp;
        frame.rflags = 2;
        frame.cs = code_selector;
        frame.ss = data_selector;
        return;
    }
    print("not ok exception ");
    print_hex(frame.vector);
    print(" error ");
    print_hex(frame.error);
    print(" rip ");
    print_hex(frame.rip);
    print(" cr2 ");
    print_hex(cr2);
    print("\n");
    power_off();
}
