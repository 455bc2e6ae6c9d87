# SPDX-License-Identifier: Apache-2.0
"""tools/bench overhead"""

import math
import statistics

from bench_lane import guest_files, measure
from bench_results import print_again, print_json, span

OVERHEAD_PEERS = ["unlocked", "locked"]
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
    rows = {"user_space_s": "user space after", "work_s": "400 fork+exec, 200 pipes"}
    results = measure(o, guest_files(o, "tests/system/guest-load"), OVERHEAD_PEERS,
                      enough=lambda so_far: is_known(so_far, rows))
    numbers = {}
    for what in rows:
        ratios = ratios_by_pair(results, what)
        numbers[what] = {"pairs": len(ratios), "ratio": statistics.median(ratios),
                         "interval": median_interval(ratios), "ratios": ratios}
    if o.json:
        print_json(o, {"overhead": numbers})
        return
    print(f"| {o.lane}, 1 vCPU, {o.memory} MiB, ratio to casemate.locks=off | bar | median | 95% interval | width | "
          "pairs |\n|---|---|---|---|---|---|")
    for what, title in rows.items():
        n = numbers[what]
        interval = "too few pairs | -" if n["interval"] is None else \
            f"{span(n['interval'])} | {n['interval'][1] - n['interval'][0]:.3f}"
        print(f"| {title} | 1.03 | {n['ratio']:.3f} | {interval} | {n['pairs']} |")
    print_again(o)
