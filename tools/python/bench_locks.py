# SPDX-License-Identifier: Apache-2.0
"""tools/bench locks"""

import sys

from bench_lane import guest_files, measure, output, start_here
from bench_results import KVM_EXIT_HYPERCALL, by_turns, print_again, print_json, span, summary, vendor_of
from command_line import built

# The first is what the others are compared with.
LOCK_PEERS = {"unlocked": "casemate.locks=off", "locked": "casemate.locks=read_only", "not-offered": "--locks off"}


def lock_calls(results):
    """How many exits locking made: KVM, the monitor and the guest must agree, run for run."""
    locked = results["locked"]
    seen = {f"KVM counted {int(n)}" for n in [*locked["traced_calls"],
                                              *locked.get(f"kvm_userspace_exit.{KVM_EXIT_HYPERCALL}", [])]}
    seen |= {f"the monitor counted {int(n)}" for n in locked["monitor_calls"]}
    seen |= {f"the guest counted {int(n)}" for n in locked["guest_calls"]}
    counts = {int(text.split()[-1]) for text in seen}
    if len(counts) != 1 or not locked["guest_calls"] or not locked["monitor_calls"] or counts == {0}:
        sys.exit(f"bench: the calls that lock the kernel do not add up: {', '.join(sorted(seen)) or 'none seen'}")
    for peer in ["unlocked", "not-offered"]:
        if f"kvm_userspace_exit.{KVM_EXIT_HYPERCALL}" in results[peer] or "guest_calls" in results[peer]:
            sys.exit(f"bench: {peer}: the guest made calls that it must not make")
    return counts.pop()


def locks_table(o, peers, calls, scaling):
    base = next(iter(peers.values()))
    locked = peers["locked"]
    print("| locking the kernel, " + f"{o.lane}, 1 vCPU | |\n|---|---|")
    print(f"| calls, each one exit to user space | {calls} |")
    print(f"| time by the guest's clock | {locked['guest_us']:,.0f} us |")
    print(f"| of it in host and monitor (traced runs) | {locked['monitor_us']:,.0f} us |")
    print(f"| of that the first FEATURES | {locked['features_us']:,.0f} us |\n")

    def row(title, value, show):
        cells = [f"{show(value(r))} ({value(r) / value(base):.3f})" if r is not base else show(value(r))
                 for r in peers.values()]
        print(f"| {title} | " + " | ".join(cells) + " |")

    print(f"| {o.lane}, 1 vCPU, {o.memory} MiB, median of {o.runs} (ratio) | " +
          " | ".join(LOCK_PEERS[p] for p in peers) + " |")
    print("|---|" + "---|" * len(peers))
    row("user space after", lambda r: r["user_space_s"], lambda v: f"{v:.2f} s")
    row("400 fork+exec, 200 pipes", lambda r: r["work_s"], lambda v: f"{v:.2f} s")
    row("exits to user space, boot", lambda r: sum(r["user_exits"].values()), lambda v: f"{v:,}")
    row("exits, boot", lambda r: sum(r["exits"].values()), lambda v: f"{v:,}")
    row("private memory", lambda r: r["private_kib"], lambda v: f"{v:,.0f} KiB")
    row("CPU time to first guest entry", lambda r: r["start_us"], lambda v: f"{v / 1000:.1f} ms")
    if all("start_here_us" in r for r in peers.values()):
        row("the same on this machine", lambda r: r["start_here_us"], lambda v: f"{v / 1000:.1f} ms")
    print("\nRange of the ratio, run by run: " + "; ".join(
        f"{LOCK_PEERS[p]}: boot {span(r['boot_ratios'])}, work {span(r['work_ratios'])}"
        for p, r in peers.items() if r is not base))
    print("\nOne-page locks in the monitor, on this machine:\n")
    print("| " + " | ".join(scaling[0]) + " |\n|" + "---|" * len(scaling[0]))
    for line in scaling[1:]:
        print("| " + " | ".join(line) + " |")
    print_again(o)


def scale_of_locks(program):
    """Rows of lock_bench; its first has the titles, which are divided by two spaces or more."""
    lines = output(program).splitlines()
    return [["locks", "lookup ns", "add ns", "table KiB", "mprotect ns", "host mappings added"],
            *(line.split() for line in lines[1:])]


def bench_locks(o):
    vendor = vendor_of(o)
    lock_bench = built(o.build, "tests/bench/lock_bench")
    files = guest_files(o)
    measured = measure(o, files, LOCK_PEERS)
    start = [files["casemate"], "run", "--force", "--memory", f"{o.memory}M", "--kernel", files["vmlinux"],
             "--initrd", files["initrd"]]
    start_here(o, measured, {"unlocked": start, "locked": start, "not-offered": [*start, "--locks", "off"]},
               files["before-kvm-run"])
    calls = lock_calls(measured)
    peers = {}
    for peer in LOCK_PEERS:
        ratios = {f"{name}_ratios": by_turns(measured[peer][what], measured["unlocked"][what])
                  for name, what in [("boot", "user_space_s"), ("work", "work_s")]}
        peers[peer] = summary(measured[peer], vendor) | ratios
    scaling = scale_of_locks(lock_bench)
    if o.json:
        print_json(o, {"calls": calls, "peers": peers,
                       "scaling": [dict(zip(scaling[0], map(float, line))) for line in scaling[1:]]})
    else:
        locks_table(o, peers, calls, scaling)
