// SPDX-License-Identifier: Apache-2.0
// Locks single pages that have a free one between them, for tools/bench: locks=N on the command line. Says
// "bench: user space" when all are locked and stays for a while, so that the host can look.
#include "hypercall.hpp"

extern "C" void payload_main() {
    using namespace payload;
    constexpr uint64_t first = 16 << 20;
    constexpr uint64_t stay_cycles = 3'000'000'000;
    const uint64_t locks = command_line_number("locks", 1000);
    report(find_casemate(), "found casemate");
    // As in a guest that uses its memory: KVM has mapped it, by large pages where it can.
    for (uint64_t page = first; page < ram_end(); page += page_bytes)
        store<uint64_t>(page, page);
    uint64_t taken = 0;
    while (taken < locks && lock(first + 2 * taken * page_bytes, 1, CASEMATE_POLICY_READ_ONLY) == 0)
        ++taken;
    report(taken == locks, "took all locks");
    print("bench: user space\n");
    for (const uint64_t begin = time_stamp(); time_stamp() - begin < stay_cycles;)
        pause();
    power_off();
}
