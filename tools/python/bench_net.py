# SPDX-License-Identifier: Apache-2.0
"""tools/bench net"""

from bench_lane import guest_files, measure
from bench_peers import JUDGE
from bench_results import medians_of, print_again, print_json, print_ratios, ratios_to_peers

OURS = "casemate-bzimage"
ROWS = {"to_guest_s": ("64 MiB by TCP to the guest", 0.9), "from_guest_s": ("64 MiB by TCP from the guest", None),
        "ping_us": ("ping of the guest, median of 200", 0.84),
        "guest_ping_us": ("ping by the guest, median of 200", None)}


def bench_net(o):
    titles = {OURS: "casemate"} | {peer.key: peer.title for peer in o.peers}
    files = guest_files(o, "tests/bench/bench-io")
    files["bench-io"] = o.build / "tests/bench/bench-io"
    for peer in o.peers:
        files |= peer.files()
    measured = measure(o, files, titles, cpus=2)
    ratios = ratios_to_peers(measured, OURS, ROWS)
    if o.json:
        print_json(o, {"peers": medians_of(measured), "ratios_by_run": ratios})
        return
    print_ratios(o, f"{o.lane}, 2 host CPUs, 1 vCPU, {o.memory} MiB", ROWS, titles, measured, ratios, JUDGE,
                 lambda what, value: f"{value:,.0f} us" if what.endswith("_us") else f"{value:.2f} s")
    print_again(o)
