# SPDX-License-Identifier: Apache-2.0
"""What an emulated host starts with: one archive that every run of a lane
shares, and one with the command and its files."""

import contextlib
import hashlib
import os
import posixpath
import shlex
import shutil
import subprocess
import tempfile
from pathlib import Path

from cpio_archive import Archive
from failures import HostFailure, Usage, run_tool

INIT = Path(__file__).resolve().parents[1] / "kvm-host-init"
HOLD_VM = INIT.with_name("kvm-host-hold-vm.c")


def lane_modules(kernel, vendor):
    """Paths of the lane's modules and, for each, of those it depends on."""
    tree = next(kernel.glob("modules/lib/modules/*"))
    wanted = [f"kvm-{vendor}", "tun", "loop"]
    if vendor == "intel":
        wanted += ["ata_piix", "sd_mod"]
    depends = {}
    for line in (tree / "modules.dep").read_text().splitlines():
        path, needs = line.split(":")
        depends[path] = needs.split()
    chosen = {}
    for path, needs in depends.items():
        if posixpath.basename(path)[:-len(".ko")] in wanted:
            chosen.update({p: depends[p] for p in [path, *needs]})
    return tree, chosen


def base_archive(cache, kernel, vendor):
    """What every run of a lane shares: busybox, init and modules. Kept under
    the hash of all that goes in."""
    busybox = shutil.which("busybox")
    if not busybox:
        raise HostFailure("busybox is not installed; tools/setup installs busybox-static")
    key = hashlib.sha256(b"".join(Path(p).read_bytes() for p in [__file__, INIT, HOLD_VM, busybox]))
    key.update(vendor.encode())
    tree, modules = lane_modules(kernel, vendor) if kernel else (None, {})
    for path in modules:
        key.update(f"{tree.name} {path} {modules[path]}".encode() + (tree / path).read_bytes())
    base = cache / f"base-{key.hexdigest()[:20]}.cpio"
    if base.exists():
        return base
    with tempfile.TemporaryDirectory(dir=cache, prefix="new.") as new:
        made = Path(new, "base")
        with open(made, "wb") as f:
            archive = Archive(f)
            for name in ["/dev", "/proc", "/sys", "/run", "/root", "/sbin", "/usr/sbin"]:
                archive.directory(name)
            archive.directory("/tmp", 0o1777)
            archive.copy("/init", INIT)
            archive.copy("/bin/busybox", busybox)
            if vendor == "amd":
                hold_vm = Path(new, "hold-vm")
                run_tool("gcc", "-O2", "-static", "-s", "-o", hold_vm, HOLD_VM)
                archive.copy("/bin/hold-vm", hold_vm)
            for applet in run_tool(busybox, "--list").decode().split():
                if applet != "busybox":
                    archive.link(f"/bin/{applet}", "busybox")
            archive.link("/usr/bin/env", "/bin/busybox")
            archive.data("/etc/passwd", b"root:x:0:0:root:/root:/bin/sh\n")
            archive.data("/etc/group", b"root:x:0:\n")
            if kernel:
                for path in modules:
                    # Signature, type information and the names of trace
                    # enums cost Bochs twelve seconds, and nobody reads them.
                    lean = Path(new, "module.ko")
                    run_tool("objcopy", "--strip-debug", "--remove-section=.BTF*",
                             "--remove-section=_ftrace_eval_map", tree / path, lean)
                    archive.copy(f"/lib/modules/{tree.name}/{path}", lean)
                lines = [f"{path}: {' '.join(needs)}\n" for path, needs in modules.items()]
                archive.data(f"/lib/modules/{tree.name}/modules.dep", "".join(lines).encode())
            archive.finish()
        made.rename(base)
    return base


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
    settings = {"lane": o.lane, "kvm_module": "kvm-amd" if o.lane.startswith("amd") else "kvm-intel",
                "merge": "1" if same_output() else ""}
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
