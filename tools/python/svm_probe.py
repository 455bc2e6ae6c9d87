# SPDX-License-Identifier: Apache-2.0
"""Whether this machine's QEMU emulates what kvm_amd with npt=0 relies on.

With shadow paging a guest must not see the root that it really runs on, so
KVM intercepts its reads of CR3. QEMU 10.0 looks for the intercept of CR0
instead when a guest reads any control register (target/i386/tcg/
decode-new.c.inc adds the register's number to an exit code unless that is 0,
which is CR0's), and KVM takes that one away once the guest pages: then
mov %cr3, %reg gives the shadow root. What QEMU does is tried, by the firmware
in tools/kvm-host-probe-svm.S."""

import hashlib
import subprocess
from pathlib import Path

from failures import HostFailure, find_program, need_programs, run_tool
from host_cache import cache_directory, locked, scratch

PAYLOAD = Path(__file__).resolve().parents[1] / "kvm-host-probe-svm.S"
BUILD = ["gcc", "-m32", "-nostdlib", "-static", "-no-pie", "-Wl,--oformat=binary,-Ttext=0xffff0000,--build-id=none",
         "-Wl,--entry=0xfffffff0", "-Wa,-mx86-used-note=no"]
DEBUG_EXIT = 0x501
EXIT_CODES = {0x03: "intercepted", 0x78: "not intercepted"}  # VMEXIT_CR3_READ, VMEXIT_HLT
SECONDS = 20


def shadow_paging_problem(cpu):
    """Why the emulator cannot run kvm_amd with npt=0, or None."""
    found = verdict(cpu)
    if found == "intercepted":
        return None
    if found == "not intercepted":
        return ("this QEMU does not intercept mov %cr3, so a guest sees its shadow page-table root; "
                "QEMU 7.2 (Debian 12) does")
    raise HostFailure(f"cannot find out whether this QEMU intercepts mov %cr3: {found}")


def verdict(cpu):
    """Kept by the content of QEMU and of the question, once there is an answer."""
    need_programs("qemu-system-x86_64", "gcc")
    qemu = find_program("qemu-system-x86_64")
    key = hashlib.sha256(cpu.encode())
    for file in [qemu, PAYLOAD, __file__]:
        key.update(Path(file).read_bytes())
    cache = cache_directory()
    kept = cache / f"svm-{key.hexdigest()[:20]}"
    if kept.exists():
        return kept.read_text()
    with locked(cache), scratch(cache) as new:
        found = ask(qemu, cpu, new / "firmware")
        if found in EXIT_CODES.values():
            (new / "verdict").write_text(found)
            (new / "verdict").rename(kept)
    return found


def ask(qemu, cpu, firmware):
    run_tool(*BUILD, "-o", firmware, PAYLOAD)
    command = [qemu, "-accel", "tcg", "-machine", "q35", "-cpu", cpu, "-m", "16", "-nodefaults", "-no-user-config",
               "-display", "none", "-no-reboot", "-bios", firmware,
               "-device", f"isa-debug-exit,iobase={DEBUG_EXIT},iosize=1"]
    try:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=SECONDS)
    except subprocess.TimeoutExpired:
        return f"no answer after {SECONDS} s"
    code, odd = divmod(done.returncode, 2)  # isa-debug-exit gives 2 * code + 1
    if odd and code in EXIT_CODES:
        return EXIT_CODES[code]
    lines = [line for line in done.stderr.decode(errors="replace").splitlines() if "warning:" not in line]
    return lines[-1] if lines else f"it ended with status {done.returncode}"
