# SPDX-License-Identifier: Apache-2.0
"""tools/bench boot"""

import statistics

from bench_lane import guest_files, measure, start_here
from bench_peers import JUDGE
from bench_results import by_turns, print_again, print_json, ratio_cell, summary, vendor_of

OURS = {"casemate-vmlinux": "casemate, vmlinux", "casemate-bzimage": "casemate, bzImage"}
COMPARED = "casemate-bzimage"  # as the peers have the bzImage too
BARS = {"user_space_s": 0.85, "ended_s": 0.85, "user_exits": 0.2, "exits": 0.4}


def ratios_to(measured, peers, peer):
    """{what: [ratios]} of casemate to the peer; of counts, which are the same in each run, there is one."""
    timed = {what: by_turns(measured[COMPARED][what], measured[peer][what]) for what in ["user_space_s", "ended_s"]}
    return timed | {what: [sum(peers[COMPARED][what].values()) / sum(peers[peer][what].values())]
                    for what in ["user_exits", "exits"]}


def table(o, results, titles, ratios):
    rows = {"user_space_s": ("user space after", lambda r: f"{r['user_space_s']:.2f} s"),
            "ended_s": ("end after", lambda r: f"{r['ended_s']:.2f} s"),
            "user_exits": ("exits to user space", lambda r: f"{sum(r['user_exits'].values()):,}"),
            "exits": ("exits, all", lambda r: f"{sum(r['exits'].values()):,}"),
            "private_kib": ("private memory", lambda r: f"{r['private_kib']:,.0f} KiB"),
            "start_us": ("CPU time to first guest entry", lambda r: f"{r['start_us'] / 1000:.1f} ms"),
            "start_here_us": ("the same on this machine",
                              lambda r: f"{r['start_here_us'] / 1000:.1f} ms" if "start_here_us" in r else "-")}
    if not any("start_here_us" in r for r in results.values()):
        del rows["start_here_us"]
    print(f"| {o.lane}, 1 vCPU, {o.memory} MiB, median of {o.runs} | " + " | ".join(titles.values()) +
          "".join(f" | casemate, bzImage / {titles[peer]}" for peer in ratios) + " |")
    print("|---|" + "---|" * (len(results) + len(ratios)))
    for what, (name, show) in rows.items():
        print(f"| {name} | " + " | ".join(show(r) for r in results.values()) +
              "".join(f" | {ratio_cell(r.get(what), BARS.get(what) if peer == f'peer-{JUDGE}' else None)}"
                      for peer, r in ratios.items()) + " |")
    for kind, title in [("user_exits", "to user space"), ("exits", "all")]:
        for name in dict.fromkeys(n for r in results.values() for n in r[kind]):
            print(f"| {title}: {name} | " + " | ".join(f"{r[kind].get(name, 0):,}" for r in results.values()) +
                  " | " * len(ratios) + " |")
    print_again(o)


def bench_boot(o):
    titles = OURS | {peer.key: peer.title for peer in o.peers}
    files = guest_files(o)
    for peer in o.peers:
        files |= peer.files()
    measured = measure(o, files, titles)
    casemate = [files["casemate"], "run", "--force", "--memory", f"{o.memory}M", "--initrd", files["initrd"],
                "--kernel"]
    start_here(o, measured, {"casemate-vmlinux": [*casemate, files["vmlinux"]],
                             "casemate-bzimage": [*casemate, files["bzimage"]],
                             **{peer.key: peer.start(o, files) for peer in o.peers}}, files["before-kvm-run"])
    results = {peer: summary(measured[peer], vendor_of(o)) for peer in titles}
    ratios = {peer.key: ratios_to(measured, results, peer.key) for peer in o.peers}
    if o.json:
        medians = {peer: {what: statistics.median(runs) for what, runs in r.items()} for peer, r in ratios.items()}
        print_json(o, {"peers": results, "ratios": medians, "ratios_by_run": ratios})
    else:
        table(o, results, titles, ratios)
