# SPDX-License-Identifier: Apache-2.0
"""Other monitors that tools/bench runs beside casemate, by turns in the same host."""

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from command_line import Usage

QEMU_ROMS = ["/usr/share/seabios/bios-256k.bin", "/usr/share/qemu/linuxboot_dma.bin", "/usr/share/qemu/kvmvapic.bin"]


@dataclass
class Kind:
    title: str
    default: str | None  # a program of this machine


# tools/bench-monitors.sh has their options.
KINDS = {"kvmtool": Kind("kvmtool", None), "kvmtool-bare": Kind("kvmtool without a NIC", None),
         "qemu": Kind("QEMU -M pc", "qemu-system-x86_64"), "casemate": Kind("other casemate", None)}
# What the numbers of a bench have to be, beside this peer's.
JUDGE = "kvmtool"


@dataclass
class Peer:
    name: str
    program: Path

    @property
    def key(self):
        """Its name in the host, of the program as of the results."""
        return f"peer-{self.name}"

    @property
    def title(self):
        return KINDS[self.name].title

    def files(self):
        """{where: file}, for the host"""
        roms = {f"roms/{Path(rom).name}": rom for rom in QEMU_ROMS} if self.name == "qemu" else {}
        return {self.key: self.program, **roms}

    def start(self, o, files):
        """The words that start it on this machine."""
        kernel, initrd = str(files["bzimage"]), str(files["initrd"])
        kvmtool = [self.program, "run", "--console", "serial", "--cpus", "1", "--mem", str(o.memory),
                   "--kernel", kernel, "--initrd", initrd]
        return {"kvmtool": kvmtool, "kvmtool-bare": [*kvmtool, "--network", "mode=none"],
                "qemu": [self.program, "-M", "pc,accel=kvm", "-nodefaults", "-no-user-config", "-display", "none",
                         "-m", str(o.memory), "-kernel", kernel, "-initrd", initrd],
                "casemate": [self.program, "run", "--force", "--memory", f"{o.memory}M", "--kernel", kernel,
                             "--initrd", initrd]}[self.name]


def peer_of(text):
    """Of "NAME" or "NAME=PATH"."""
    name, equals, path = text.partition("=")
    if name not in KINDS:
        raise Usage(f"--peer {text}: no peer '{name}' is known; {', '.join(KINDS)} are")
    default = KINDS[name].default
    if not equals:
        if not default:
            raise Usage(f"--peer {name}: where is its program? --peer {name}=PATH")
        path = shutil.which(default)
        if not path:
            raise Usage(f"--peer {name}: {default} is not installed; run tools/setup, or say --peer {name}=PATH")
    program = Path(path)
    if not program.is_file():
        raise Usage(f"--peer {text}: {program} is not a file" if program.exists() else
                    f"--peer {text}: '{path}': no such file")
    if not os.access(program, os.R_OK | os.X_OK):
        raise Usage(f"--peer {text}: {program} is not readable and executable")
    with open(program, "rb") as file:
        head = file.read(20)
    # System V ABI, ELF header: 64-bit, little-endian, machine 62
    if head[:6] != b"\x7fELF\2\1" or head[18:20] != b"\x3e\0":
        raise Usage(f"--peer {text}: {program} is not an x86-64 program; the host has an interpreter for nothing else")
    if name == "qemu":
        for rom in QEMU_ROMS:
            if not os.path.exists(rom):
                raise Usage(f"--peer {text}: its firmware {rom} is not there; run tools/setup")
    return Peer(name, program.absolute())


def peers_of(texts):
    """Of all --peer, in their order; Debian's QEMU if there is none."""
    peers = [peer_of(text) for text in texts or ["qemu"]]
    for i, peer in enumerate(peers):
        if peer.name in [other.name for other in peers[:i]]:
            raise Usage(f"--peer {peer.name} is given twice")
    return peers
