# SPDX-License-Identifier: Apache-2.0
"""Builds a small root file system for tests and demos, as a newc cpio
archive: static busybox, tools/guest-initramfs-init as process 1, and what is
asked for. Prints the path of the archive, or writes it to --output."""

import hashlib
import os
import posixpath
import stat
import subprocess
import sys
import tempfile
from pathlib import Path

import cache
from command_line import Options, Usage

INIT = Path(__file__).resolve().parents[1] / "guest-initramfs-init"
BUSYBOX = "/bin/busybox"
# What Debian's cloud kernel needs for our devices and does not have built in.
MODULES = ["virtio_blk", "virtio_net", "virtio_rng", "pvpanic_mmio", "button", "evdev"]

EPILOG = """\
The guest runs /tests/NAME and powers off when its command line has
casemate.test=NAME; otherwise it gives a shell on the console, and powers off
when the shell exits. The ACPI power button powers it off.

The same input gives the same bytes: the archive's name in the cache
(CASEMATE_CACHE, or ~/.cache/casemate) is its hash.

example:
  tools/guest-initramfs --modules "$(tools/kvm-host --print-modules)" --add /sbin/mkfs.ext4
"""


class Tree:
    """Paths in the guest -> (mode, bytes); the bytes of a link are its target."""

    def __init__(self):
        self.entries = {}

    def put(self, path, mode, data=b""):
        path = posixpath.normpath(path).lstrip("/")
        parent = posixpath.dirname(path)
        if parent and parent not in self.entries:
            self.put(parent, stat.S_IFDIR | 0o755)
        self.entries[path] = (mode, data)

    def add_file(self, path, source):
        data = source.read_bytes()
        executable = os.access(source, os.X_OK)
        self.put(path, stat.S_IFREG | (0o755 if executable else 0o644), data)
        if executable and data[:4] == b"\x7fELF":
            self.add_libraries(source)

    def add_libraries(self, program):
        listed = subprocess.run(["ldd", program], capture_output=True, text=True)
        for word in listed.stdout.split():  # a static program lists none
            if word.startswith("/") and word.lstrip("/") not in self.entries:
                self.put(word, stat.S_IFREG | 0o755, Path(word).read_bytes())

    def add(self, path, source):
        if not source.exists():
            raise Usage(f"--add {source}: no such file")
        if not source.is_dir():
            return self.add_file(path, source)
        self.put(path, stat.S_IFDIR | 0o755)
        for child in sorted(source.iterdir()):
            self.add(posixpath.join(path, child.name), child)

    def archive(self):
        """Linux Documentation/driver-api/early-userspace/buffer-format.rst"""
        out = bytearray()
        entries = sorted(self.entries.items()) + [("TRAILER!!!", (0, b""))]
        for inode, (path, (mode, data)) in enumerate(entries, 1):
            name = path.encode() + b"\0"
            fields = [inode, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(name), 0]
            out += b"070701" + b"".join(b"%08x" % f for f in fields) + name
            out += bytes(-len(out) % 4) + data
            out += bytes(-len(out) % 4)
        return bytes(out)


def module_name(path):
    return Path(path).name.removesuffix(".ko").replace("-", "_")


def modules_in_order(directory, more):
    """Files of MODULES and of `more`, each after those it depends on, from depmod's list."""
    lists = [directory / "modules.dep", *directory.glob("lib/modules/*/modules.dep"),
             *directory.glob("*/modules.dep")]
    found = next((f for f in lists if f.exists()), None)
    if not found:
        raise Usage(f"--modules {directory}: no modules.dep in it")
    depends = {}
    for line in found.read_text().splitlines():
        path, _, needs = line.partition(":")
        depends[module_name(path)] = (path, needs.split())
    builtin = found.parent / "modules.builtin"
    known = {*depends, *map(module_name, builtin.read_text().splitlines() if builtin.exists() else [])}
    if unknown := [name for name in more if module_name(name) not in known]:
        raise Usage(f"--module {unknown[0]}: {found.parent} has none of this name")
    order = []
    for wanted in [*MODULES, *map(module_name, more)]:
        if wanted not in depends:
            continue  # built in
        path, needs = depends[wanted]
        order += [p for p in [*reversed(needs), path] if p not in order]
    return [found.parent / p for p in order]


def build(options):
    tree = Tree()
    for directory in ["dev", "proc", "sys", "tmp", "run", "mnt", "root", "sbin", "usr/bin", "usr/sbin"]:
        tree.put(directory, stat.S_IFDIR | 0o755)
    tree.put("init", stat.S_IFREG | 0o755, INIT.read_bytes())
    tree.add_file("bin/busybox", Path(BUSYBOX))
    applets = subprocess.run([BUSYBOX, "--list"], capture_output=True, text=True, check=True)
    for applet in applets.stdout.split():
        if applet != "busybox":
            tree.put(f"bin/{applet}", stat.S_IFLNK | 0o777, b"busybox")
    if options.module and not options.modules:
        raise Usage(f"--module {options.module[0]}: --modules has to say where it is")
    if options.modules:
        modules = modules_in_order(options.modules, options.module)
        for module in modules:
            tree.put(f"lib/casemate-modules/{module.name}", stat.S_IFREG | 0o644, module.read_bytes())
        tree.put("etc/modules", stat.S_IFREG | 0o644, "".join(f"{m.name}\n" for m in modules).encode())
    for item in options.add:
        source, _, path = item.partition(":")
        tree.add(path or f"/bin/{Path(source).name}", Path(source))
    return tree.archive()


def write(path, data):
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as new:
        new.write(data)
    os.chmod(new.name, 0o644)
    os.rename(new.name, path)


def main():
    p = Options(prog="guest-initramfs", description=__doc__, epilog=EPILOG)
    p.add_argument("--modules", type=Path, metavar="DIR",
                   help="add and load the virtio modules found there (uncompressed, with modules.dep)")
    p.add_argument("--module", action="append", default=[], metavar="NAME",
                   help="one more of them, with those it needs (repeatable)")
    p.add_argument("--add", action="append", default=[], metavar="FILE[:PATH]",
                   help="add a file, with the libraries it needs, or a directory (repeatable)")
    p.add_argument("--output", type=Path, metavar="FILE", help="write there instead of the cache")
    options = p.parse_args()
    if not Path(BUSYBOX).exists():
        raise Usage(f"{BUSYBOX} is missing: run tools/setup")
    data = build(options)
    path = options.output or cache.directory() / "guest-initramfs" / f"{hashlib.sha256(data).hexdigest()[:20]}.cpio"
    if options.output or not path.exists():
        write(path, data)
    print(path.absolute())


if __name__ == "__main__":
    try:
        main()
    except Usage as e:
        sys.exit((print(f"guest-initramfs: {e}", file=sys.stderr), 2)[1])
    except OSError as e:
        sys.exit((print(f"guest-initramfs: {e.filename}: {e.strerror}", file=sys.stderr), 1)[1])
