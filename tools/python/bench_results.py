# SPDX-License-Identifier: Apache-2.0
"""What tools/bench-host has printed, and what the benches make of it."""

import json
import os
import statistics
import sys
from collections import defaultdict

KVM_EXIT_HYPERCALL = 3

# Linux arch/x86/include/uapi/asm/{svm,vmx}.h and include/uapi/linux/kvm.h
REASONS = {
    "amd": {0x60: "interrupt", 0x61: "nmi", 0x64: "interrupt window", 0x72: "cpuid", 0x78: "hlt", 0x7b: "port",
            0x7c: "msr", 0x81: "vmmcall", 0x400: "page fault", 0x4d: "#NM", 0x4e: "#PF", 0x65: "cr0 selective",
            0x6e: "rdpmc", 0x73: "rsm", 0x77: "pause", 0x79: "invlpg", 0x87: "rdtscp", 0x89: "wbinvd", 0x8d: "xsetbv",
            0x00: "read cr0", 0x03: "read cr3", 0x04: "read cr4", 0x10: "write cr0", 0x13: "write cr3",
            0x14: "write cr4", 0x37: "write dr7"},
    "intel": {0: "exception", 1: "interrupt", 7: "interrupt window", 10: "cpuid", 12: "hlt", 18: "vmcall",
              28: "control register", 29: "debug register", 30: "port", 31: "rdmsr", 32: "wrmsr",
              48: "page fault", 49: "mmio", 52: "preemption timer", 54: "wbinvd", 55: "xsetbv"},
    "user": {2: "port", 5: "hlt", 6: "mmio", 8: "shutdown", 10: "interrupted", 24: "system event",
             0: "error or none", 3: "hypercall", 12: "tpr access", 29: "rdmsr", 30: "wrmsr"},
}


def results_of(lines, enough=lambda results: False):
    """{peer: {what: [values]}}, of lines "PEER WHAT VALUE" as they come, until there are enough. None is the
    value of what a guest of a peer that has hung owes."""
    results = defaultdict(lambda: defaultdict(list))
    for line in lines:
        peer, what, value = line.split(" ", 2)
        if what == "error":
            sys.exit(f"bench: {peer} failed: {value}")
        elif what == "hung":
            results[peer][value].append(None)
        else:
            results[peer][what].append(float(value))
        if enough(results):
            break
    return results


def vendor_of(o):
    return "intel" if o.lane.startswith("intel") else "amd"


def summary(values, vendor):
    """One peer's numbers: medians of what was timed, and counts."""
    def exits(event):
        counts = {int(k.split(".")[1]): int(v[0]) for k, v in values.items() if k.startswith(event + ".")}
        names = REASONS["user" if event == "kvm_userspace_exit" else vendor]
        return {names.get(k, hex(k)): n for k, n in sorted(counts.items(), key=lambda item: -item[1])}

    timed = {what: statistics.median(values[what])
             for what in ["user_space_s", "ended_s", "start_us", "start_here_us", "private_kib", "work_s",
                          "guest_us", "monitor_us", "features_us", "memory_s", "slice_s", "areas", "slots",
                          "locks_per_s", "lock_areas", "lock_slots", "all_exits", "user_space_exits"] if values[what]}
    return timed | {"exits": exits("kvm_exit"), "user_exits": exits("kvm_userspace_exit")}


def span(ratios):
    return f"{min(ratios):.3f} to {max(ratios):.3f}"


def by_turns(ours, theirs):
    """Ratios of the runs of one number, which had the same neighbours; where both ended."""
    return [a / b for a, b in zip(ours, theirs) if a is not None and b is not None]


def ratios_to_peers(measured, ours, whats):
    """{peer: {what: [ratios]}}; none where the peer has hung each time."""
    return {peer: {what: by_turns(measured[ours][what], values[what]) for what in whats}
            for peer, values in measured.items() if peer != ours}


def median(values):
    """Of those that are there; None: all have hung."""
    there = [value for value in values if value is not None]
    return statistics.median(there) if there else None


def medians_of(measured):
    """{peer: {what: {"median": ..., "runs": [...]}}}"""
    return {peer: {what: {"median": median(runs), "runs": runs} for what, runs in values.items()}
            for peer, values in measured.items()}


def ratio_cell(ratios, bar=None):
    """The median, from where to where, and what it has to be at most."""
    if not ratios:
        return ""
    ranging = f"; {span(ratios)}" if len(ratios) > 1 else ""
    middle = statistics.median(ratios)
    limit = "" if bar is None else f", bar {bar:g}" if middle <= bar else f", **above** the bar {bar:g}"
    return f"{middle:.3f}{ranging}{limit}"


def clocks_apart(values, what):
    """[(run, guest's, host's)] where the guest's clock and another one tell different times of the same task."""
    pairs = zip(values[what], values.get(f"host.{what}", []))
    return [(run, ours, theirs) for run, (ours, theirs) in enumerate(pairs, 1)
            if ours is not None and theirs is not None and abs(ours - theirs) > 0.1 + 0.1 * theirs]


def print_ratios(o, where, rows, titles, measured, ratios, judge, show):
    """A table of what was timed: rows are {what: (title, bar)}, the bar is for the ratio to the judge."""
    print(f"| {where}, median of {o.runs} | " + " | ".join(titles.values()) +
          "".join(f" | casemate / {titles[peer]}" for peer in ratios) + " |")
    print("|---|" + "---|" * (len(titles) + len(ratios)))

    def cell(runs, what):
        value, hung = median(runs), sum(run is None for run in runs)
        words = [] if value is None else [show(what, value)]
        return ", ".join(words + ([f"hung {hung} of {len(runs)}"] if hung else []))

    for what, (title, bar) in rows.items():
        print(f"| {title} | " + " | ".join(cell(measured[peer][what], what) for peer in titles) +
              "".join(f" | {ratio_cell(r[what], bar if peer == f'peer-{judge}' else None)}"
                      for peer, r in ratios.items()) + " |")
    for peer in titles:
        for what, (title, _) in rows.items():
            for run, ours, theirs in clocks_apart(measured[peer], what):
                print(f"\nClocks disagree: {titles[peer]}, {title}, run {run}: {ours:.2f} s in the guest, "
                      f"{theirs:.2f} s in the host")


def by_run(values):
    """[{task: {what: value}}], from names of RUN/TASK/WHAT."""
    runs = defaultdict(lambda: defaultdict(dict))
    for name, (value,) in values.items():
        run, task, what = name.split("/")
        runs[int(run)][task][what] = value
    return [runs[run] for run in sorted(runs)]


def each_round(run, step):
    """What a round costs: the step's longer task less its shorter one, for each did the same otherwise."""
    (few, short), (many, long) = sorted((int(task.rpartition(".")[2]), values) for task, values in run.items()
                                        if task.rpartition(".")[0] == step)
    return {what: (long.get(what, 0) - short.get(what, 0)) / (many - few) for what in {**short, **long}}


def exits_of(costs, event, names):
    """{reason: exits}; what hardly ever happens is a matter of chance."""
    exits = {int(what.split(".")[1]): n for what, n in costs.items() if what.startswith(event + ".")}
    return {names.get(k, hex(k)): round(n, 3) for k, n in sorted(exits.items(), key=lambda e: -e[1]) if n >= 0.0005}


def print_json(o, numbers):
    print(json.dumps({"lane": o.lane, "runs": o.runs, "memory_mib": o.memory, **numbers}, indent=2))


def print_again(o, more=""):
    print(f"\nLoad of this machine: {os.getloadavg()[0]:.1f}. Again: tools/bench {o.what} --lane {o.lane} "
          f"--runs {o.runs}{more}")
