# SPDX-License-Identifier: Apache-2.0
"""tools/bench roots"""

import re
import statistics
import sys

from bench_lane import guest_files, measure, output
from bench_results import (KVM_EXIT_HYPERCALL, REASONS, by_run, by_turns, each_round, exits_of, print_again,
                           print_json, span, vendor_of)
from command_line import built

ROOT_PEERS = {mode: f"casemate.roots={mode}" for mode in ["off", "check", "compare", "arena"]}


def medians(dictionaries):
    names = dict.fromkeys(name for d in dictionaries for name in d)
    return {name: statistics.median(d.get(name, 0) for d in dictionaries) for name in names}


def add_up(lane, peer, runs):
    """KVM and the monitor must agree on the guest's calls, and two processes must have taken turns."""
    # In Bochs so much time goes by for the guest that its kernel's threads take turns too.
    most_switches = 4 if lane.startswith("intel") else 2.1
    for run in runs:
        for task, values in run.items():
            if task == "work":
                continue
            traced = values.get(f"kvm_userspace_exit.{KVM_EXIT_HYPERCALL}", 0)
            told = values["end.hypercalls"]
            # An audit that interrupts the way back into the guest is traced with the reason of the exit before.
            if not told <= traced <= told + values["end.audits"] + 2:
                sys.exit(f"bench: {peer}: {task}: KVM counted {traced:.0f} calls, the monitor {told:.0f}")
        switches = each_round(run, "ping_pong")["switches"]
        if not 1.98 <= switches <= most_switches:
            sys.exit(f"bench: {peer}: {switches:.3f} context switches a round, not 2 to {most_switches}")


def costs_of_looking(runs):
    """{audit|verification: {count, microseconds}}, of all workloads; what the monitor does not count is not there."""
    ends = [{what[4:]: n for what, n in run["work"].items() if what.startswith("end.")} for run in runs]
    names = {name for end in ends for name in end}
    costs = {}
    for what in ["audit", "verification"]:
        if {f"{what}s", f"{what}_microseconds"} <= names:
            count, time = (sum(end.get(name, 0) for end in ends) for name in [f"{what}s", f"{what}_microseconds"])
            costs[what] = {"count": count, "microseconds": time / count if count else None}
    return costs


def root_costs(o, peer, runs, base):
    add_up(o.lane, peer, runs)
    ping = medians([each_round(run, "ping_pong") for run in runs])
    switch = {what: n / ping["switches"] for what, n in ping.items()}
    life = medians([each_round(run, "fork_exec") for run in runs])
    ratios, fastest = (by_turns(*([run["work"][what] for run in side] for side in (runs, base)))
                       for what in ["work_s", "slice_s"])
    return {
        "user_space_s": statistics.median(run["work"]["user_space_s"] for run in runs),
        "work_s": statistics.median(run["work"]["work_s"] for run in runs),
        "work_ratio": statistics.median(ratios), "work_ratios": ratios,
        "slice_ratio": statistics.median(fastest), "slice_ratios": fastest,
        "switch_user_exits": exits_of(switch, "kvm_userspace_exit", REASONS["user"]),
        "switch_exits": exits_of(switch, "kvm_exit", REASONS[vendor_of(o)]),
        "life_calls": life["end.hypercalls"],
        "life_calls_by_kind": {what[4:]: n for what, n in sorted(life.items(), key=lambda e: -e[1])
                               if re.fullmatch(r"end\.(root|shadow)_\w+", what) and n >= 0.0005},
        "life_user_exits": exits_of(life, "kvm_userspace_exit", REASONS["user"]),
        "looking": costs_of_looking(runs)}


def roots_table(o, peers, alone):
    print(f"| {o.lane}, 1 vCPU, {o.memory} MiB, median of {o.runs} | bar | " +
          " | ".join(ROOT_PEERS[p] for p in peers) + " |\n|---|---|" + "---|" * len(peers))

    def row(title, show, bar=""):
        print(f"| {title} | {bar} | " + " | ".join(show(r) for r in peers.values()) + " |")

    def rows(title, of, kind):
        for name in dict.fromkeys(n for r in peers.values() for n in of(r)[kind]):
            row(f"{title}: {name}", lambda r: f"{of(r)[kind].get(name, 0):.3f}")

    row("a context switch, exits to user space", lambda r: f"{sum(r['switch_user_exits'].values()):.3f}",
        "check 1, compare 0.01, arena 0 more than off")
    rows("to user space", lambda r: r, "switch_user_exits")
    row("a context switch, all exits", lambda r: f"{sum(r['switch_exits'].values()):.3f}")
    rows("all", lambda r: r, "switch_exits")
    row("fork+exec+exit, hypercalls", lambda r: f"{r['life_calls']:.2f}", "arena 8")
    rows("counted by the monitor", lambda r: r, "life_calls_by_kind")
    row("400 fork+exec, 200 pipes (ratio to off)",
        lambda r: f"{r['work_s']:.2f} s ({r['work_ratio']:.3f}; {span(r['work_ratios'])})", "compare, arena 1.03")
    row("the fastest tenth of each run, likewise",
        lambda r: f"{r['slice_ratio']:.3f}; {span(r['slice_ratios'])}", "compare, arena 1.03")
    row("user space after", lambda r: f"{r['user_space_s']:.2f} s")
    for what in ["audit", "verification"]:
        def looking(r):
            cost = r["looking"].get(what)
            return "not counted" if cost is None else "none" if not cost["count"] else \
                f"{cost['microseconds']:.1f} us of {cost['count']:.0f}"
        row(f"{what}, in this lane", looking)
    print("\nIn the monitor, on this machine:\n\n| what | ns |\n|---|---|")
    for what, nanoseconds in alone.items():
        print(f"| {what} | {nanoseconds:,.0f} |")
    print_again(o)


def bench_roots(o):
    roots_bench = built(o.build, "tests/bench/roots_bench")
    files = guest_files(o, "tests/system/guest-load")
    measured = {peer: by_run(values) for peer, values in measure(o, files, ROOT_PEERS).items()}
    if not {"off", "check"} <= set(measured):
        sys.exit(f"bench: no numbers of casemate.roots=off and check in the {o.lane} host")
    if "arena" not in measured:
        print(f"bench: the {o.lane} host has no arena: its page walker has to write to tables", file=sys.stderr)
    peers = {peer: root_costs(o, peer, measured[peer], measured["off"]) for peer in ROOT_PEERS if peer in measured}
    lines = [line.rsplit(maxsplit=1) for line in output(roots_bench).splitlines()[1:]]
    alone = {what: float(nanoseconds) for what, nanoseconds in lines}
    if o.json:
        print_json(o, {"peers": peers, "here_ns": alone})
    else:
        roots_table(o, peers, alone)
