# SPDX-License-Identifier: Apache-2.0
"""tools/bench protect"""

import statistics

from bench_lane import TOOLS, guest_files, measure, output
from bench_results import by_turns, print_again, print_json, summary, vendor_of
from command_line import built

PROTECT_PEERS = {"unlocked": "casemate.locks=off", "attributes": "attributes", "mapping": "mapping", "slots": "slots"}


def bench_protect(o):
    files = guest_files(o, "tests/system/guest-load")
    files["lock_rate.elf"] = built(o.build, "tests/payloads/lock_rate.elf")
    if o.lane != "native":
        output(TOOLS / "host-kernel")
    measured = measure(o, files, PROTECT_PEERS, kernel="attributes")
    base = measured["unlocked"]
    peers = {}
    for peer, values in measured.items():
        ratios = {f"{what}_ratio": statistics.median(by_turns(values[what], base[what]))
                  for what in ["user_space_s", "memory_s", "work_s"]}
        peers[peer] = summary(values, vendor_of(o)) | ratios
    if o.json:
        print_json(o, {"peers": peers})
        return
    print(f"| {o.lane}, 1 vCPU, {o.memory} MiB, median of {o.runs} (ratio to unlocked) | " +
          " | ".join(PROTECT_PEERS[p] for p in peers) + " |\n|---|" + "---|" * len(peers))

    def row(title, show, skip_base=False):
        print(f"| {title} | " + " | ".join("-" if skip_base and p == "unlocked" else show(r)
                                           for p, r in peers.items()) + " |")

    for title, what in [("user space after", "user_space_s"), ("32 MiB touched ten times", "memory_s"),
                        ("400 fork+exec, 200 pipes", "work_s")]:
        row(title, lambda r: f"{r[what]:.2f} s ({r[f'{what}_ratio']:.3f})")
    row("exits to user space, boot", lambda r: f"{r['user_space_exits']:,.0f}")
    row("exits, boot", lambda r: f"{r['all_exits']:,.0f}")
    row("memory areas of the monitor, kernel locked", lambda r: f"{r['areas']:.0f}")
    row("memory slots more than without locks", lambda r: f"{r['slots']:.0f}")
    row("one-page locks a second, 1,000 apart", lambda r: f"{r['locks_per_s']:,.0f}", True)
    row("memory areas with them", lambda r: f"{r['lock_areas']:,.0f}", True)
    row("memory slots more with them", lambda r: f"{r['lock_slots']:,.0f}", True)
    print_again(o)
