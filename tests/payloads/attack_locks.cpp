// SPDX-License-Identifier: Apache-2.0
// Attacks on locks other than by the form of a store: attack=GROUP chooses one.
#include "attack_locks.hpp"

namespace payload {
namespace {

struct Group {
    const char* name;
    void (*run)();
};
constexpr Group groups[] = {
    {"write_protect", attack_write_protect},
    {"aliases", attack_aliases},
    {"frames", attack_frames},
    {"straddle", attack_straddle},
    {"harmless", attack_harmless},
    {"devices", attack_devices},
    {"paravirt", attack_paravirt},
    {"paravirt_cpu", attack_paravirt_cpu},
    {"hypercalls", attack_hypercalls},
    {"many_locks", attack_many_locks},
    {"ring3", attack_ring3},
    {"reset", attack_reset},
    {"self", attack_self},
    {"roots", attack_roots},
    {"root_calls", attack_root_calls},
    {"registers", attack_registers},
    {"translation", attack_translation},
    {"second_cpu", attack_second_cpu},
    {"rewriting", attack_rewriting},
    {"transfer", attack_transfer},
    {"consumers", attack_consumers},
    {"starts", attack_starts},
    {"flood", attack_flood},
    {"walks", attack_walks},
    {"busy", attack_busy},
};

} // namespace
} // namespace payload

void payload_main() {
    using namespace payload;
    start_attacks();
    for (const Group& group : groups)
        if (command_line_is("attack", group.name)) {
            group.run();
            finish_attacks();
        }
    print("not ok attack= takes one of:");
    for (const Group& group : groups) {
        print(" ");
        print(group.name);
    }
    print("\n");
    power_off();
}
