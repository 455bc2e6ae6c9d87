# SPDX-License-Identifier: Apache-2.0
"""Measures casemate in one run of one emulated host:

  boot   the shipped guest kernel to user space and to its end, beside other
         monitors (--peer): time, exits by reason (KVM's tracepoints), private
         memory, CPU time to the first guest instruction
  disk   a disk whose file is on the host's tmpfs, beside other monitors:
         3,000 reads of 4 KiB, one at a time; 96 MiB read, and written with
         fsync; and what each of the reads costs in exits, interrupts, context
         switches and system calls
  net    a tap, beside other monitors: 64 MiB by TCP each way, and the round
         trip of a ping each way; a boot for each
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
import os
import subprocess
import sys
from pathlib import Path

from bench_boot import bench_boot
from bench_disk import bench_disk
from bench_end import bench_end
from bench_lane import LANES, ROOT
from bench_locks import bench_locks
from bench_net import bench_net
from bench_overhead import bench_overhead
from bench_peers import peers_of
from bench_protect import bench_protect
from bench_roots import bench_roots
from command_line import Options, Usage

BENCHES = {"boot": bench_boot, "disk": bench_disk, "net": bench_net, "locks": bench_locks, "protect": bench_protect,
           "roots": bench_roots, "end": bench_end, "overhead": bench_overhead}
WITH_PEERS = ["boot", "disk", "net"]

EPILOG = """\
Peers run by turns with casemate, with the same kernel, initrd, memory and
command line (console=ttyS0 quiet reboot=k), each with the devices that it gives
a guest by itself. kvmtool=PATH is the lkvm that was built there, and
kvmtool-bare=PATH the same without the network device that it gives each guest;
qemu is Debian's, -M pc -nodefaults, qemu=PATH another one; casemate=PATH is another
build. Ratios are casemate's numbers to the peer's, run by run, then the median;
bars are for the ratio to kvmtool. A peer's guest that does not end its task in
net within a minute is told as hung.

The host has one CPU, but for disk, net and end, which have two that never sleep:
counting exits with two can crash an emulated host. Times of disk and net are by
the guest's clock; where the host's differs, a line says so.
Compare numbers of one run only.

examples:
  meson setup build && ninja -C build && tools/bench boot --runs 5
  tools/bench disk --peer kvmtool=../kvmtool/lkvm --peer qemu
"""


def positive(text):
    if not text.isdecimal() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"'{text}' is not a number of 1 or more")
    return int(text)


def default_runs(what):
    return {"overhead": 30, "net": 3}.get(what, 5)


def main():
    p = Options(prog="tools/bench", description=__doc__, epilog=EPILOG)
    p.add_argument("what", choices=list(BENCHES))
    p.add_argument("--lane", choices=LANES, help="default amd-npt; of roots amd-shadow, which has all modes")
    p.add_argument("--runs", type=positive, metavar="N",
                   help="timed runs of each (default 5, of net 3; of overhead at most so many pairs, default 30)")
    p.add_argument("--memory", type=positive, default=128, metavar="MIB", help="of the guest (default 128)")
    p.add_argument("--peer", action="append", metavar="NAME[=PATH]",
                   help="of boot, disk and net: kvmtool=PATH, kvmtool-bare=PATH, qemu[=PATH] or casemate=PATH "
                        "(repeatable; default: qemu)")
    p.add_argument("--build", type=Path, default=ROOT / "build", metavar="DIR")
    p.add_argument("--json", action="store_true", help="print JSON instead of a table")
    o = p.parse_args()
    if o.what not in WITH_PEERS and o.peer:
        raise Usage(f"--peer goes with {', '.join(WITH_PEERS)}; {o.what} compares casemate with itself")
    o.peers = peers_of(o.peer) if o.what in WITH_PEERS else []
    o.runs = o.runs or default_runs(o.what)
    o.lane = o.lane or ("amd-shadow" if o.what == "roots" else "amd-npt")
    BENCHES[o.what](o)


if __name__ == "__main__":
    try:
        main()
    except Usage as e:
        sys.exit((print(f"bench: {e}", file=sys.stderr), 2)[1])
    except subprocess.CalledProcessError as e:
        sys.exit(f"bench: {os.path.basename(str(e.cmd[0]))} failed with status {e.returncode}")
