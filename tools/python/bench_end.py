# SPDX-License-Identifier: Apache-2.0
"""tools/bench end"""

from bench_lane import host_files, measure
from bench_results import print_again, print_json
from command_line import built

END_PEERS = {"reads": "disks read", "writes": "disks read, written and flushed"}
END_MEMORY = 256  # for the tables to walk


def bench_end(o):
    o.memory = max(o.memory, END_MEMORY)
    files = host_files(o) | {"attack_locks.elf": built(o.build, "tests/payloads/attack_locks.elf")}
    measured = measure(o, files, END_PEERS, cpus=2)
    results = {peer: {what: max(numbers) for what, numbers in values.items()} for peer, values in measured.items()}
    if o.json:
        print_json(o, {"peers": results})
        return
    print(f"| {o.lane}, 4 disks, the worst of {o.runs} | bar | " + " | ".join(END_PEERS[p] for p in results) +
          " |\n|---|---|" + "---|" * len(results))
    for title, what, bar in [("from the first of two SIGTERM to the end of the process", "end_s", "2 s"),
                             ("of it from the decision until no thread works for the guest", "threads_s", ""),
                             ("latest audit after its time", "audit_latest_s", "0.2 s")]:
        print(f"| {title} | {bar} | " + " | ".join(f"{r[what]:.2f} s" for r in results.values()) + " |")
    print_again(o)
