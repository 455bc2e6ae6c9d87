# SPDX-License-Identifier: Apache-2.0
"""What an emulated host starts with: one archive that every run of a lane
shares, and one with the command and its files."""

import contextlib
import hashlib
import os
import posixpath
import shlex
import subprocess
from pathlib import Path

import cpio_archive
from command_line import Usage
from cpio_archive import Archive
from failures import find_program, need_programs, run_tool
from host_cache import locked, scratch
from kernel_modules import with_dependencies

INIT = Path(__file__).resolve().parents[1] / "kvm-host-init"
HOLD_VM = INIT.with_name("kvm-host-hold-vm.c")


def lane_modules(tree, vendor):
    disks = ["virtio_blk", "null_blk"] if vendor == "amd" else ["ata_piix", "sd_mod"]
    wanted = [f"kvm_{vendor}", "tun", "loop", *disks]
    return with_dependencies(tree, wanted) if tree else {}


def base_archive(cache, tree, vendor):
    """What every run of a lane shares: busybox, init and the modules, if the
    kernel has a tree of any. Kept under the hash of all that goes in."""
    need_programs("busybox", "gcc", "objcopy")
    busybox = find_program("busybox")
    ours = [__file__, cpio_archive.__file__, INIT, HOLD_VM]
    key = hashlib.sha256(b"".join(Path(p).read_bytes() for p in [*ours, busybox]))
    key.update(vendor.encode())
    modules = lane_modules(tree, vendor)
    for name, (_, data, needs) in modules.items():
        key.update(f"{tree.name} {name} {needs}".encode() + data)
    base = cache / f"base-{key.hexdigest()[:20]}.cpio"
    if base.exists():
        return base
    with locked(cache), scratch(cache) as new:
        make_base(new / "base", vendor, busybox, tree and tree.name, modules)
        (new / "base").rename(base)
    return base


def make_base(file, vendor, busybox, release, modules):
    with open(file, "wb") as f:
        archive = Archive(f)
        for name in ["/dev", "/proc", "/sys", "/run", "/root", "/sbin", "/usr/sbin"]:
            archive.directory(name)
        archive.directory("/tmp", 0o1777)
        archive.copy("/init", INIT)
        archive.copy("/bin/busybox", busybox)
        if vendor == "amd":
            hold_vm = file.with_name("hold-vm")
            run_tool("gcc", "-O2", "-static", "-s", "-o", hold_vm, HOLD_VM)
            archive.copy("/bin/hold-vm", hold_vm)
        for applet in run_tool(busybox, "--list").decode().split():
            if applet != "busybox":
                archive.link(f"/bin/{applet}", "busybox")
        archive.link("/usr/bin/env", "/bin/busybox")
        archive.data("/etc/passwd", b"root:x:0:0:root:/root:/bin/sh\n")
        archive.data("/etc/group", b"root:x:0:\n")
        lines = []
        for name, (_, data, needs) in modules.items():
            # Signature, type information and the names of trace enums cost
            # Bochs twelve seconds, and nobody reads them. Not .BTF_ids, by
            # which KVM registers functions.
            whole, lean = file.with_name("whole.ko"), file.with_name("lean.ko")
            whole.write_bytes(data)
            run_tool("objcopy", "--strip-debug", "--remove-section=.BTF", "--remove-section=.BTF.base",
                     "--remove-section=_ftrace_eval_map", whole, lean)
            archive.copy(f"/lib/modules/{release}/{name}.ko", lean)
            # The last is loaded first.
            lines.append(f"{name}.ko: {' '.join(f'{n}.ko' for n in reversed(needs))}\n")
        if release:
            archive.data(f"/lib/modules/{release}/modules.dep", "".join(lines).encode())
        archive.finish()


def inside(path):
    """Where a --add or --get path lies in the emulated machine."""
    return posixpath.normpath(posixpath.join("/lane", path))


def same_output():
    with contextlib.suppress(OSError):
        return os.path.sameopenfile(1, 2)
    return False


def payload_archive(o, work):
    """The command, its settings and its files."""
    payload = work / "payload.cpio"
    settings = {"lane": o.lane, "kvm_module": "kvm_amd" if o.lane.startswith("amd") else "kvm_intel",
                "merge": "1" if same_output() else "", "disks": len(o.disk)}
    if o.interactive:
        size = os.get_terminal_size(0)
        settings |= {"interactive": "1", "term": os.environ.get("TERM", "vt100"),
                     "rows": size.lines or 24, "columns": size.columns or 80}
    with open(payload, "wb") as f:
        archive = Archive(f)
        archive.directory("/lane")
        archive.data("/kvm-host/settings",
                     "".join(f"{k}={shlex.quote(str(v))}\n" for k, v in settings.items()).encode())
        archive.data("/kvm-host/command", os.fsencode(o.command) + b"\n")
        archive.data("/kvm-host/get", "".join(f"{inside(p)[1:]}\n" for p, _ in o.get).encode())
        programs = []
        for source, path in o.add:
            add_tree(archive, source, inside(path), programs)
        for library in sorted(libraries(programs)):
            archive.copy(library, library)
        archive.finish()
    return payload


def add_tree(archive, source, path, programs):
    if source.is_dir():
        archive.directory(path)
        for child in sorted(source.iterdir()):
            if child.is_symlink():
                archive.parents(posixpath.join(path, child.name))
                archive.link(posixpath.join(path, child.name), os.readlink(child))
            else:
                add_tree(archive, child, posixpath.join(path, child.name), programs)
    elif source.is_file():
        archive.copy(path, source)
        with open(source, "rb") as f:
            if f.read(4) == b"\x7fELF":
                programs.append(source)


def libraries(programs):
    if not programs:
        return set()
    # ldd's status says only whether all were dynamic.
    listing = subprocess.run(["ldd", *programs], capture_output=True, text=True, check=False).stdout
    found = set()
    for line in listing.splitlines():
        if line.startswith("\t"):
            found.update(w for w in line.split() if w.startswith("/"))
            if "not found" in line:
                raise Usage(f"--add: no library {line.split()[0]} on this machine")
    if found:
        # glibc loads it when a thread is cancelled, so ldd cannot know.
        found.update(p for p in ["/lib/x86_64-linux-gnu/libgcc_s.so.1"] if os.path.exists(p))
    return found
