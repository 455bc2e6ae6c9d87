# SPDX-License-Identifier: Apache-2.0
"""Runs tools/bench-host in an emulated host, with the files that it needs."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from bench_results import results_of
from command_line import built

ROOT = Path(__file__).resolve().parents[2]
TOOLS = ROOT / "tools"
LANES = ["native", "amd-npt", "amd-shadow", "intel-ept", "intel-noad"]


def output(*command):
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.strip()


def host_files(o):
    """{where: file}, for any bench"""
    scripts = {name: TOOLS / name
               for name in ["bench-host", "bench-monitors.sh", "bench-devices.sh", "private-memory.sh"]}
    return {"casemate": built(o.build, "vmm/casemate"), **scripts}


def guest_files(o, *programs):
    """The same, for guests that are Linux and have these programs of the build."""
    files = host_files(o) | {"before-kvm-run": built(o.build, "tests/system/before-kvm-run")}
    adds = [f"{TOOLS}/bench-init:/bench-init", *(f"{built(o.build, p)}:/bin/{Path(p).name}" for p in programs)]
    kernel = Path(output(TOOLS / "guest-kernel"))
    initrd = output(TOOLS / "guest-initramfs", *(word for add in adds for word in ["--add", add]))
    return files | {"vmlinux": kernel / "vmlinux", "bzimage": kernel / "bzImage", "initrd": initrd}


def measure(o, files, peers, bench=None, cpus=1, kernel=None, enough=lambda results: False):
    """{peer: {what: [values]}}, of one run of one host."""
    command = [TOOLS / "kvm-host", "--lane", o.lane, "--quiet", "--timeout", "3000"]
    if o.lane.startswith("amd"):
        command += ["--cpus", str(cpus)]
        if cpus > 1:  # who waits for another CPU is measured, not how the emulator wakes that up
            command.append("--awake")
    if kernel and o.lane != "native":
        command += ["--kernel", kernel]
    for name, file in files.items():
        command += ["--add", f"{file}:{name}"]
    print(f"bench: {o.runs} runs of each in the {o.lane} host ...", file=sys.stderr, flush=True)
    command += ["--", f"./bench-host {bench or o.what} {o.runs} {o.memory} {' '.join(peers)}"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as host:
        try:
            results = results_of((line.rstrip() for line in host.stdout), enough)
        finally:
            stopped = host.poll() is None
            if stopped:
                host.terminate()
    if host.returncode and not stopped:
        raise subprocess.CalledProcessError(host.returncode, command)
    return results


def start_here(o, results, commands, before_kvm_run):
    """Adds CPU time to the first guest entry on this machine: no guest has to run for it. A peer may refuse
    what casemate has to take."""
    if not os.access("/dev/kvm", os.R_OK | os.W_OK):
        return
    nothing, never = os.pipe()  # some monitors poll /dev/null for ever
    commands = dict(commands)
    with tempfile.TemporaryDirectory() as home:  # and some leave files there
        for _ in range(max(5, o.runs)):
            for peer, command in list(commands.items()):
                run = subprocess.run([before_kvm_run, *command], stdin=nothing, capture_output=True, text=True,
                                     env=os.environ | {"HOME": home})
                if run.returncode == 0:
                    results[peer]["start_here_us"].append(float(run.stdout))
                elif peer.startswith("peer-"):
                    print(f"bench: {peer} does not start on this machine: {reason_of(run.stderr)}", file=sys.stderr)
                    del commands[peer]
                else:
                    sys.exit(f"bench: {peer} does not start on this machine: {reason_of(run.stderr)}")
    os.close(nothing)
    os.close(never)


def reason_of(text):
    """What a program has said of its failure: the line that calls itself an error, or the last one. The words of
    who started it count where it has said nothing."""
    said = [line.strip() for line in text.splitlines()]
    lines = [line for line in said if not line.startswith("before-kvm-run:")] or said
    return next((line for line in lines if line.lower().startswith("error")), lines[-1] if lines else "it says nothing")
