# SPDX-License-Identifier: Apache-2.0
"""Debian systems for the system tests to boot: a root file system with systemd
and its own kernel, and the installer. Made by mmdebstrap from the mirror that
apt has on this machine, and kept in the cache."""

import hashlib
import os
import pwd
import re
import subprocess
import time
from pathlib import Path

import cache
from failures import HostFailure, find_program, need_programs, run_tool
from host_cache import locked, scratch

SUITES = {"bookworm": 12, "trixie": 13}
ROOT_PASSWORD = "casemate"
SYSTEM = ["systemd-sysv", "udev", "dbus", "login", "e2fsprogs", "initramfs-tools", "linux-image-cloud-amd64"]
# Before the kernel comes: its initramfs brings the fsck of what fstab names.
FSTAB = """echo '/dev/vda / ext4 errors=remount-ro 0 1' >"$1/etc/fstab\""""
# An empty machine-id is one to be made, without the questions of a first boot.
SETTINGS = f"""echo casemate >"$1/etc/hostname"
: >"$1/etc/machine-id"
echo root:{ROOT_PASSWORD} | chroot "$1" chpasswd"""
UNREAD = ["/usr/share/doc/*", "/usr/share/locale/*", "/usr/share/man/*"]
DISK_MIB = 768
KEPT_SECONDS = 7 * 86400  # those that nobody takes any more
# The tree is in a file system of the namespace's own: it goes with it, whoever its files belong to.
MAKE_DISK = """set -e
mount -t tmpfs tmpfs "$1"
tar -C "$1" --exclude './dev/*' --exclude './boot/*' --numeric-owner -xf "$2"
truncate -s "$4"M "$3"
mkfs.ext4 -q -d "$1" "$3" """
APT_HELPER = "/usr/lib/apt/apt-helper"


def run_debian(what, *command):
    """Of what apt and mmdebstrap say when they fail, the first error is the cause, and the rest follows from it."""
    done = subprocess.run(command, env=os.environ | {"LC_ALL": "C"}, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, text=True, errors="replace")
    if done.returncode:
        said = re.findall(r"^E: (.*)", done.stdout, re.M) or done.stdout.split("\n")[-2:-1] or ["no word of it"]
        raise HostFailure(f"{what}: {os.path.basename(command[0])}: {said[0]}")


def mirror_of(label):
    """The archive with this label among apt's sources here, or None."""
    listed = run_tool("apt-get", "indextargets", "--format", "$(LABEL) $(REPO_URI)", "Created-By: Packages").decode()
    found = re.search(rf"^{label} (http\S*?)/*$", listed, re.M)
    return found and found[1]


def sources(suite):
    """The lines of sources.list for a suite, the archive itself first."""
    debian, security = mirror_of("Debian"), mirror_of("Debian-Security")
    if not debian:
        raise HostFailure(f"apt has no Debian archive here, to make Debian {SUITES[suite]} from: "
                          "add one to /etc/apt and run apt-get update")
    lines = [f"deb {debian} {suite} main", f"deb {debian} {suite}-updates main"]
    return lines + ([f"deb {security} {suite}-security main"] if security else [])


def namespace():
    """How to be root over many ids: mmdebstrap's mode, and the options of unshare."""
    if os.geteuid() == 0:
        return "root", []
    user = pwd.getpwuid(os.getuid()).pw_name
    if not any(line.startswith(f"{user}:") for line in Path("/etc/subuid").read_text().splitlines()):
        raise HostFailure(f"{user} has no subordinate ids: add a range to /etc/subuid and /etc/subgid, or be root")
    return "unshare", ["--user", "--map-root-user", "--map-auto"]


def mmdebstrap(suite, target, *options):
    mode, _ = namespace()
    run_debian(f"cannot make Debian {SUITES[suite]}",
               "mmdebstrap", "--quiet", f"--mode={mode}", *options, suite, target, *sources(suite))


def make_system(suite, new):
    tar = new / "root.tar"
    mmdebstrap(suite, tar, "--variant=minbase", f"--include={','.join(SYSTEM)}", f"--essential-hook={FSTAB}",
               f"--customize-hook={SETTINGS}", *(f"--dpkgopt=path-exclude={path}" for path in UNREAD))
    made, tree = new / "made", new / "tree"
    made.mkdir()
    tree.mkdir()
    for name, pattern in [("vmlinuz", "./boot/vmlinuz-*"), ("initrd", "./boot/initrd.img-*")]:
        (made / name).write_bytes(run_tool("tar", "-xOf", tar, "--wildcards", pattern))
    _, options = namespace()
    disk_maker = [find_program("sh"), "-c", MAKE_DISK, "sh", tree, tar, made / "disk", str(DISK_MIB)]
    run_tool("unshare", *options, "--mount", *disk_maker)
    return made


def make_installer(suite, new):
    number = SUITES[suite]
    tar = new / "root.tar"
    mmdebstrap(suite, tar, "--variant=extract", f"--include=debian-installer-{number}-netboot-amd64,memtest86+")
    made = new / "made"
    made.mkdir()
    images = f"./usr/lib/debian-installer/images/{number}/amd64/text/debian-installer/amd64"
    for name, pattern in [("linux", f"{images}/linux"), ("initrd", f"{images}/initrd.gz"),
                          ("memtest", "./boot/*x64.bin")]:
        (made / name).write_bytes(run_tool("tar", "-xOf", tar, "--wildcards", pattern))
    return made


KINDS = {"system": (make_system, "a minimal system"), "installer": (make_installer, "the installer and memtest86+")}


def directory(kind, suite, say):
    """Where a kind of a suite's files are: of a system disk, vmlinuz and initrd; of an installer linux, initrd
    and memtest. Made again when the suite has a new release or this file has changed."""
    if suite not in SUITES:
        raise HostFailure(f"no suite '{suite}': there are {' and '.join(SUITES)}")
    need_programs("mmdebstrap", "unshare", "mkfs.ext4", "tar")
    make, what = KINDS[kind]
    kept = cache.directory() / "debian"
    kept.mkdir(parents=True, exist_ok=True)
    recipe = hashlib.sha256(Path(__file__).read_bytes()).hexdigest()[:12]
    with locked(kept), scratch(kept) as new:
        offered = new / "InRelease"
        archive = sources(suite)[0].split()[1]
        try:
            run_debian(f"the Debian mirror does not give {suite} (check the network and /etc/apt)",
                       APT_HELPER, "-o", "Acquire::Retries=1", "download-file",
                       f"{archive}/dists/{suite}/InRelease", offered)
        except HostFailure as e:
            if not (made := list(kept.glob(f"{kind}-{suite}-{recipe}-*"))):
                raise
            say(f"{e}; taking {what} of before")
            return made[0]
        release = hashlib.sha256(offered.read_bytes()).hexdigest()[:12]
        final = kept / f"{kind}-{suite}-{recipe}-{release}"
        if not final.exists():
            say(f"making {what} of Debian {SUITES[suite]} ...")
            made = make(suite, new)
            made.rename(final)
        os.utime(final)
        for other in kept.glob(f"{kind}-{suite}-*"):  # another clone may be at work with it
            if other.stat().st_mtime < time.time() - KEPT_SECONDS:
                run_tool("rm", "-r", other)
    return final
