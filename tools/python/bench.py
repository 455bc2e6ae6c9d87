# SPDX-License-Identifier: Apache-2.0
"""Measures casemate in one run of one emulated host:

  boot   the shipped guest kernel to user space, beside Debian's QEMU: time,
         exits by reason (KVM's tracepoints), private memory, CPU time to the
         first guest instruction
  locks  what locks cost: the calls that lock the kernel, boot and a workload
         with and without them, and how lookups scale
  protect  what each protection costs, side by side on the host kernel that has
         them all (tools/host-kernel): boot, a workload, memory, exits, locks a
         second, memory areas and slots
  roots  what guarding page-table roots costs in each mode that the lane has:
         exits of a context switch, calls of a process's life, a workload,
         audits and verifications
  end    a guest that keeps four disks as busy as it can and makes the monitor
         walk its tables: how late audits come, and how long it takes from the
         first of two SIGTERM until the process has ended
  overhead  what all of it costs, as the guest takes it without being told: boot
         and a workload against casemate.locks=off, pair by pair, until the
         median ratio is known well enough, or --runs pairs
"""

import argparse
import json
import math
import os
import re
import statistics
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

from command_line import Options, Usage, built

ROOT = Path(__file__).resolve().parents[2]
TOOLS = ROOT / "tools"
PEERS = {"casemate-vmlinux": "casemate, vmlinux", "casemate-bzimage": "casemate, bzImage",
         "qemu-bzimage": "QEMU -M pc, bzImage"}
# The first is what the others are compared with.
LOCK_PEERS = {"unlocked": "casemate.locks=off", "locked": "casemate.locks=read_only", "not-offered": "--locks off"}
PROTECT_PEERS = {"unlocked": "casemate.locks=off", "attributes": "attributes", "mapping": "mapping", "slots": "slots"}
ROOT_PEERS = {mode: f"casemate.roots={mode}" for mode in ["off", "check", "compare", "arena"]}
END_PEERS = {"reads": "disks read", "writes": "disks read, written and flushed"}
END_MEMORY = 256 # for the tables to walk
OVERHEAD_PEERS = ["unlocked", "locked"]
LANES = ["native", "amd-npt", "amd-shadow", "intel-ept", "intel-noad"]
KVM_EXIT_HYPERCALL = 3
QEMU_ROMS = ["/usr/share/seabios/bios-256k.bin", "/usr/share/qemu/linuxboot_dma.bin", "/usr/share/qemu/kvmvapic.bin"]

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

EPILOG = """\
The host has one CPU, but for `end`: counting exits with two can crash an
emulated host.
Compare numbers of one run only.

example:
  meson setup build && ninja -C build && tools/bench boot --runs 5
"""


def output(*command):
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.strip()


def start_here(o, files):
    """CPU time to the first guest entry on this machine: no guest has to run for it."""
    if not os.access("/dev/kvm", os.R_OK | os.W_OK):
        return
    casemate = [files["casemate"], "run", "--force", "--memory", f"{o.memory}M"]
    vmlinux = ["--kernel", files["vmlinux"], "--initrd", files["initrd"]]
    commands = {"casemate-vmlinux": [*casemate, *vmlinux],
                "casemate-bzimage": [*casemate, "--kernel", files["bzimage"], "--initrd", files["initrd"]],
                "locked": [*casemate, *vmlinux], "unlocked": [*casemate, *vmlinux],
                "not-offered": [*casemate, "--locks", "off", *vmlinux]}
    if "qemu-bzimage" in o.peers:
        commands["qemu-bzimage"] = [files["qemu-system-x86_64"], "-M", "pc,accel=kvm", "-nodefaults",
                                    "-no-user-config", "-display", "none", "-m", str(o.memory),
                                    "-kernel", files["bzimage"], "-initrd", files["initrd"]]
    for _ in range(max(5, o.runs)):
        for peer in o.peers:
            used = subprocess.run([files["before-kvm-run"], *commands[peer]], check=True, capture_output=True,
                                  text=True).stdout
            yield f"{peer} start_here_us {used.strip()}"


def results_of(lines, enough):
    """{peer: {what: [values]}}, of lines as they come, until there are enough."""
    results = defaultdict(lambda: defaultdict(list))
    for line in lines:
        peer, what, value = line.split(" ", 2)
        if what == "error":
            sys.exit(f"bench: {peer} failed: {value}")
        results[peer][what].append(float(value))
        if enough(results):
            break
    return results


def files_of(o):
    """{where: file}, for the host"""
    if o.what == "end":
        return {"casemate": built(o.build, "vmm/casemate"), "bench-host": TOOLS / "bench-host",
                "attack_locks.elf": built(o.build, "tests/payloads/attack_locks.elf")}
    programs = {"casemate": built(o.build, "vmm/casemate"), "before-kvm-run": built(o.build, "tests/system/before-kvm-run")}
    kernel = Path(output(TOOLS / "guest-kernel"))
    load = ["--add", f"{built(o.build, 'tests/system/guest-load')}:/bin/guest-load"] if o.what in ("protect", "roots", "overhead") else []
    initrd = output(TOOLS / "guest-initramfs", "--add", f"{TOOLS}/bench-init:/bench-init", *load)
    files = {**programs, "vmlinux": kernel / "vmlinux", "bzimage": kernel / "bzImage", "initrd": initrd,
             "bench-host": TOOLS / "bench-host"}
    if "qemu-bzimage" in o.peers:
        files |= {"qemu-system-x86_64": output("which", "qemu-system-x86_64"),
                  **{f"roms/{Path(rom).name}": rom for rom in QEMU_ROMS}}
    return files


def measure(o, enough=lambda results: False):
    """{peer: {what: [values]}}"""
    files = files_of(o)
    command = [TOOLS / "kvm-host", "--lane", o.lane, "--quiet", "--timeout", "3000"]
    if o.lane != "native" and o.what != "end":
        command += ["--cpus", "1"]
    if o.what == "protect":
        files["lock_rate.elf"] = built(o.build, "tests/payloads/lock_rate.elf")
        if o.lane != "native":
            output(TOOLS / "host-kernel")
            command += ["--kernel", "attributes"]
    for name, file in files.items():
        command += ["--add", f"{file}:{name}"]
    print(f"bench: {o.runs} runs of each in the {o.lane} host ...", file=sys.stderr, flush=True)
    command += ["--", f"./bench-host {o.what} {o.runs} {o.memory} {' '.join(o.peers)}"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as host:
        try:
            results = results_of((line.rstrip() for line in host.stdout), enough)
        finally:
            stopped = host.poll() is None
            if stopped:
                host.terminate()
    if host.returncode and not stopped:
        raise subprocess.CalledProcessError(host.returncode, command)
    if o.what in ("boot", "locks"):
        for peer, values in results_of(start_here(o, files), enough).items():
            results[peer] |= values
    return results


def summary(values, vendor):
    """One peer's numbers: medians of what was timed, and counts."""
    def exits(event):
        counts = {int(k.split(".")[1]): int(v[0]) for k, v in values.items() if k.startswith(event + ".")}
        names = REASONS["user" if event == "kvm_userspace_exit" else vendor]
        return {names.get(k, hex(k)): n for k, n in sorted(counts.items(), key=lambda item: -item[1])}

    timed = {what: statistics.median(values[what])
             for what in ["user_space_s", "power_off_s", "start_us", "start_here_us", "private_kib", "work_s",
                          "guest_us", "monitor_us", "features_us", "memory_s", "slice_s", "areas", "slots",
                          "locks_per_s", "lock_areas", "lock_slots", "all_exits", "user_space_exits"] if values[what]}
    return timed | {"exits": exits("kvm_exit"), "user_exits": exits("kvm_userspace_exit")}


def table(o, results):
    rows = {"user space after": lambda r: f"{r['user_space_s']:.2f} s",
            "power-off after": lambda r: f"{r['power_off_s']:.2f} s",
            "exits to user space": lambda r: f"{sum(r['user_exits'].values()):,}",
            "exits, all": lambda r: f"{sum(r['exits'].values()):,}",
            "private memory": lambda r: f"{r['private_kib']:,.0f} KiB",
            "CPU time to first guest entry": lambda r: f"{r['start_us'] / 1000:.1f} ms",
            "the same on this machine": lambda r: f"{r['start_here_us'] / 1000:.1f} ms"}
    print(f"| {o.lane}, 1 vCPU, {o.memory} MiB, median of {o.runs} | " +
          " | ".join(PEERS[p] for p in results) + " |")
    print("|---|" + "---|" * len(results))
    if not all("start_here_us" in r for r in results.values()):
        del rows["the same on this machine"]
    for name, show in rows.items():
        print(f"| {name} | " + " | ".join(show(r) for r in results.values()) + " |")
    for kind, title in [("user_exits", "to user space"), ("exits", "all")]:
        names = list(dict.fromkeys(n for r in results.values() for n in r[kind]))
        for name in names:
            print(f"| {title}: {name} | " + " | ".join(f"{r[kind].get(name, 0):,}" for r in results.values()) + " |")
    print(f"\nAgain: tools/bench boot --lane {o.lane} --runs {o.runs}")


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
    print(f"\nLoad of this machine: {os.getloadavg()[0]:.1f}. Again: tools/bench locks --lane {o.lane} --runs {o.runs}")


def span(ratios):
    return f"{min(ratios):.3f} to {max(ratios):.3f}"


def scale_of_locks(program):
    """Rows of lock_bench; its first has the titles, which are divided by two spaces or more."""
    lines = output(program).splitlines()
    return [["locks", "lookup ns", "add ns", "table KiB", "mprotect ns", "host mappings added"],
            *(line.split() for line in lines[1:])]


def vendor_of(o):
    return "intel" if o.lane.startswith("intel") else "amd"


def bench_boot(o):
    vendor = vendor_of(o)
    results = {peer: summary(values, vendor) for peer, values in measure(o).items()}
    if o.json:
        print(json.dumps({"lane": o.lane, "runs": o.runs, "memory_mib": o.memory, "peers": results}, indent=2))
    else:
        table(o, results)


def bench_locks(o):
    vendor = vendor_of(o)
    o.peers = list(LOCK_PEERS)
    lock_bench = built(o.build, "tests/bench/lock_bench")
    measured = measure(o)
    calls = lock_calls(measured)
    peers = {}
    for peer in o.peers:
        # In turns, so the runs of one number had the same neighbours.
        ratios = {f"{name}_ratios": [a / b for a, b in zip(measured[peer][what], measured[o.peers[0]][what])]
                  for name, what in [("boot", "user_space_s"), ("work", "work_s")]}
        peers[peer] = summary(measured[peer], vendor) | ratios
    scaling = scale_of_locks(lock_bench)
    if o.json:
        print(json.dumps({"lane": o.lane, "runs": o.runs, "memory_mib": o.memory, "calls": calls, "peers": peers,
                          "scaling": [dict(zip(scaling[0], map(float, line))) for line in scaling[1:]]}, indent=2))
    else:
        locks_table(o, peers, calls, scaling)


# --- protections -------------------------------------------------------------


def bench_protect(o):
    o.peers = list(PROTECT_PEERS)
    measured = measure(o)
    base = measured["unlocked"]
    peers = {}
    for peer, values in measured.items():
        ratios = {f"{what}_ratio": statistics.median(a / b for a, b in zip(values[what], base[what]))
                  for what in ["user_space_s", "memory_s", "work_s"]}
        peers[peer] = summary(values, vendor_of(o)) | ratios
    if o.json:
        print(json.dumps({"lane": o.lane, "runs": o.runs, "memory_mib": o.memory, "peers": peers}, indent=2))
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
    print(f"\nLoad of this machine: {os.getloadavg()[0]:.1f}. Again: tools/bench protect --lane {o.lane} --runs {o.runs}")


# --- roots -------------------------------------------------------------------


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


def medians(dictionaries):
    names = dict.fromkeys(name for d in dictionaries for name in d)
    return {name: statistics.median(d.get(name, 0) for d in dictionaries) for name in names}


def exits_of(costs, event, names):
    """{reason: exits}; what hardly ever happens is a matter of chance."""
    exits = {int(what.split(".")[1]): n for what, n in costs.items() if what.startswith(event + ".")}
    return {names.get(k, hex(k)): round(n, 3) for k, n in sorted(exits.items(), key=lambda e: -e[1]) if n >= 0.0005}


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
    # In turns, so the runs of one number had the same neighbours.
    ratios, fastest = ([run["work"][what] / other["work"][what] for run, other in zip(runs, base)]
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
    print(f"\nLoad of this machine: {os.getloadavg()[0]:.1f}. Again: tools/bench roots --lane {o.lane} --runs {o.runs}")


def bench_roots(o):
    o.peers = list(ROOT_PEERS)
    roots_bench = built(o.build, "tests/bench/roots_bench")
    measured = {peer: by_run(values) for peer, values in measure(o).items()}
    if not {"off", "check"} <= set(measured):
        sys.exit(f"bench: no numbers of casemate.roots=off and check in the {o.lane} host")
    if "arena" not in measured:
        print(f"bench: the {o.lane} host has no arena: its page walker has to write to tables", file=sys.stderr)
    peers = {peer: root_costs(o, peer, measured[peer], measured["off"]) for peer in ROOT_PEERS if peer in measured}
    lines = [line.rsplit(maxsplit=1) for line in output(roots_bench).splitlines()[1:]]
    alone = {what: float(nanoseconds) for what, nanoseconds in lines}
    if o.json:
        print(json.dumps({"lane": o.lane, "runs": o.runs, "memory_mib": o.memory, "peers": peers,
                          "here_ns": alone}, indent=2))
    else:
        roots_table(o, peers, alone)


# --- the end -----------------------------------------------------------------


def bench_end(o):
    o.peers, o.memory = list(END_PEERS), max(o.memory, END_MEMORY)
    results = {peer: {what: max(numbers) for what, numbers in values.items()} for peer, values in measure(o).items()}
    if o.json:
        print(json.dumps({"lane": o.lane, "runs": o.runs, "memory_mib": o.memory, "peers": results}, indent=2))
        return
    print(f"| {o.lane}, 4 disks, the worst of {o.runs} | bar | " + " | ".join(END_PEERS[p] for p in results) +
          " |\n|---|---|" + "---|" * len(results))
    for title, what, bar in [("from the first of two SIGTERM to the end of the process", "end_s", "2 s"),
                             ("of it from the decision until no thread works for the guest", "threads_s", ""),
                             ("latest audit after its time", "audit_latest_s", "0.2 s")]:
        print(f"| {title} | {bar} | " + " | ".join(f"{r[what]:.2f} s" for r in results.values()) + " |")
    print(f"\nLoad of this machine: {os.getloadavg()[0]:.1f}. Again: tools/bench end --lane {o.lane} --runs {o.runs}")


# --- overhead ----------------------------------------------------------------

ENOUGH = 0.03  # width of the interval


def median_interval(values):
    """A 95% confidence interval of the median, by order statistics: whatever the distribution. None: too few."""
    n = len(values)
    below, total = 0, 0.0  # so many values may be left out at each end
    for k in range(n // 2):
        total += math.comb(n, k) / 2**n
        if total > 0.025:
            break
        below = k + 1
    ordered = sorted(values)
    return (ordered[below - 1], ordered[n - below]) if below else None


def ratios_by_pair(results, what):
    """Of the pairs that are there whole."""
    sides = [{name.split("/")[0]: values[0] for name, values in results.get(peer, {}).items()
              if name.endswith(f"/{what}")} for peer in OVERHEAD_PEERS]
    return [sides[1][pair] / sides[0][pair] for pair in sides[0] if pair in sides[1]]


def is_known(results, whats):
    intervals = [median_interval(ratios_by_pair(results, what)) for what in whats]
    return all(i and i[1] - i[0] <= ENOUGH for i in intervals)


def bench_overhead(o):
    o.peers = OVERHEAD_PEERS
    rows = {"user_space_s": "user space after", "work_s": "400 fork+exec, 200 pipes"}
    results = measure(o, lambda so_far: is_known(so_far, rows))
    numbers = {}
    for what in rows:
        ratios = ratios_by_pair(results, what)
        numbers[what] = {"pairs": len(ratios), "ratio": statistics.median(ratios),
                         "interval": median_interval(ratios), "ratios": ratios}
    if o.json:
        print(json.dumps({"lane": o.lane, "memory_mib": o.memory, "overhead": numbers}, indent=2))
        return
    print(f"| {o.lane}, 1 vCPU, {o.memory} MiB, ratio to casemate.locks=off | bar | median | 95% interval | width | "
          "pairs |\n|---|---|---|---|---|---|")
    for what, title in rows.items():
        n = numbers[what]
        interval = "too few pairs | -" if n["interval"] is None else \
            f"{span(n['interval'])} | {n['interval'][1] - n['interval'][0]:.3f}"
        print(f"| {title} | 1.03 | {n['ratio']:.3f} | {interval} | {n['pairs']} |")
    print(f"\nLoad of this machine: {os.getloadavg()[0]:.1f}. Again: tools/bench overhead --lane {o.lane} --runs {o.runs}")


def positive(text):
    if not text.isdecimal() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"'{text}' is not a number of 1 or more")
    return int(text)


BENCHES = {"boot": bench_boot, "locks": bench_locks, "protect": bench_protect, "roots": bench_roots,
           "end": bench_end, "overhead": bench_overhead}


def main():
    p = Options(prog="tools/bench", description=__doc__, epilog=EPILOG)
    p.add_argument("what", choices=list(BENCHES))
    p.add_argument("--lane", choices=LANES, help="default amd-npt; of roots amd-shadow, which has all modes")
    p.add_argument("--runs", type=positive, metavar="N",
                   help="timed runs of each (default 5; of overhead at most so many pairs, default 30)")
    p.add_argument("--memory", type=positive, default=128, metavar="MIB", help="of the guest (default 128)")
    p.add_argument("--peers", nargs="+", choices=list(PEERS), metavar="PEER",
                   help=f"of boot: of {' '.join(PEERS)} (default: all)")
    p.add_argument("--build", type=Path, default=ROOT / "build", metavar="DIR")
    p.add_argument("--json", action="store_true", help="print JSON instead of a table")
    o = p.parse_args()
    if o.what != "boot" and o.peers:
        raise Usage(f"--peers goes with boot; {o.what} compares casemate with itself")
    o.peers = o.peers or list(PEERS)
    o.runs = o.runs or (30 if o.what == "overhead" else 5)
    o.lane = o.lane or ("amd-shadow" if o.what == "roots" else "amd-npt")
    BENCHES[o.what](o)


if __name__ == "__main__":
    try:
        main()
    except Usage as e:
        sys.exit((print(f"bench: {e}", file=sys.stderr), 2)[1])
    except subprocess.CalledProcessError as e:
        sys.exit(f"bench: {os.path.basename(str(e.cmd[0]))} failed with status {e.returncode}")
