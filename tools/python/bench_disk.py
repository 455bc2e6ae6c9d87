# SPDX-License-Identifier: Apache-2.0
"""tools/bench disk"""

from bench_lane import guest_files, measure
from bench_peers import JUDGE
from bench_results import (REASONS, by_run, each_round, exits_of, medians_of, print_again, print_json, print_ratios,
                           ratios_to_peers, vendor_of)

OURS = "casemate-bzimage"
ROWS = {"reads_s": ("3,000 reads of 4 KiB, one at a time", 0.9),
        "read_s": ("96 MiB read, 1 MiB at a time, mean of 8", 0.81),
        "write_s": ("96 MiB written, then fsync, mean of 4", 0.93)}
OFTEN = 0.05  # what happens less often for a read is not the read's


def costs_of_request(o, events):
    """{title: {what: number}} of one read."""
    cost = each_round(by_run(events)[0], "reads")
    return {"exits to user space": exits_of(cost, "kvm_userspace_exit", REASONS["user"]),
            "exits, all": exits_of(cost, "kvm_exit", REASONS[vendor_of(o)]),
            "interrupts": {"all": sum(n for what, n in cost.items() if what.startswith("kvm_inj_virq."))},
            "context switches of the host": {"all": sum(n for what, n in cost.items()
                                                        if what.startswith("sched_switch."))},
            "system calls in the host": {what.partition(".")[2].removeprefix("sys_"): round(n, 3)
                                         for what, n in sorted(cost.items(), key=lambda e: -e[1])
                                         if what.startswith("sys_enter.") and n >= 0.0005}}


def requests_table(costs, titles):
    print("\n| each of these reads, one host CPU | " + " | ".join(titles[peer] for peer in costs) + " |\n|---|" +
          "---|" * len(costs))
    for title in next(iter(costs.values())):
        print(f"| {title} | " + " | ".join(f"{sum(c[title].values()):.3f}" for c in costs.values()) + " |")
        for name in dict.fromkeys(name for c in costs.values() for name, n in c[title].items()
                                  if name != "all" and n >= OFTEN):
            print(f"| {title}: {name} | " + " | ".join(f"{c[title].get(name, 0):.3f}" for c in costs.values()) + " |")


def bench_disk(o):
    titles = {OURS: "casemate"} | {peer.key: peer.title for peer in o.peers}
    files = guest_files(o, "tests/bench/bench-io")
    for peer in o.peers:
        files |= peer.files()
    measured = measure(o, files, titles, cpus=2)
    # Events are counted with one CPU: tracepoints switched on with two can crash an emulated host.
    events = measure(o, files, titles, bench="requests")
    costs = {peer: costs_of_request(o, events[peer]) for peer in titles}
    ratios = ratios_to_peers(measured, OURS, ROWS)
    if o.json:
        print_json(o, {"peers": medians_of(measured), "ratios_by_run": ratios, "requests": costs})
        return
    print_ratios(o, f"{o.lane}, 2 host CPUs, 1 vCPU, {o.memory} MiB", ROWS, titles, measured, ratios, JUDGE,
                 lambda what, value: f"{value:.2f} s")
    requests_table(costs, titles)
    print_again(o)
