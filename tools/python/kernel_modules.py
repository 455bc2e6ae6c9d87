# SPDX-License-Identifier: Apache-2.0
"""Where a kernel's modules lie, which of them a lane needs, and what is in
them, in Debian's packages and in what tools/host-kernel builds."""

import gzip
import lzma
import os
import struct
from pathlib import Path

from command_line import Usage
from failures import HostFailure, run_tool

SUFFIXES = [".ko", ".ko.xz", ".ko.zst", ".ko.gz"]


def modules_beside(image, release):
    """The directory of the image's modules, or None if it has none; a tree that
    lacks only them is the caller's mistake."""
    heres = list(dict.fromkeys([image.parent, image.resolve().parent]))
    places = [place for here in heres for place in [
        here / "modules/lib/modules" / release,       # tools/host-kernel
        here.parent / release,                        # usr/lib/modules/RELEASE/vmlinuz
        here.parent / "lib/modules" / release,        # boot/vmlinuz-RELEASE
        here.parent / "usr/lib/modules" / release]]
    for place in places:
        if next(module_files(place), None):
            return place
    for here in heres:
        others = [f.name for f in here.glob("modules/lib/modules/*")]
        if others:
            raise Usage(f"--kernel {image}: it is Linux {release}, and modules/ beside it is for {', '.join(others)}")
        if here.name in ["boot", release]:
            raise Usage(f"--kernel {image}: its tree has no modules for Linux {release}: unpack the package that has "
                        f"them there too (Debian's linux-modules-{release}, or linux-image-{release})")
    return None


def module_files(tree):
    for directory, _, files in os.walk(tree):
        yield from (Path(directory, f) for f in files if f.endswith(tuple(SUFFIXES)))


def module_name(path):
    """As the kernel and the modules' own lists have it."""
    return path.name.partition(".")[0].replace("-", "_")


def with_dependencies(tree, wanted):
    """The wanted modules that are there, and those that they need, as name ->
    (path, ELF file, names it needs), each after what it needs. From the modules
    themselves: modules.dep is not in a package, but made when it is installed."""
    paths = {module_name(path): path for path in module_files(tree)}
    chosen = {}

    def choose(name, by):
        if name in chosen:
            return chosen[name][2]
        if name not in paths:
            raise HostFailure(f"{tree}: the module {name}, which {by} needs, is not there")
        data = module_bytes(paths[name])
        needs = []
        for direct in dependencies(data, paths[name]):
            needs += [n for n in [*choose(direct, name), direct] if n not in needs]
        chosen[name] = (paths[name], data, needs)
        return needs

    for name in wanted:
        if name in paths:  # else built in
            choose(name, None)
    return chosen


def module_bytes(path):
    data = path.read_bytes()
    try:
        if path.suffix == ".xz":
            return lzma.decompress(data)
        if path.suffix == ".gz":
            return gzip.decompress(data)
    except (lzma.LZMAError, EOFError, OSError) as e:
        raise HostFailure(f"cannot unpack {path}: {e}: unpack its package anew") from None
    return run_tool("zstd", "-dc", input=data) if path.suffix == ".zst" else data


def dependencies(module, path):
    """What the module's ELF section .modinfo says of "depends"."""
    try:
        (sections,) = struct.unpack_from("<Q", module, 40)
        size, count, names = struct.unpack_from("<HHH", module, 58)
        headers = [struct.unpack_from("<IIQQQQ", module, sections + i * size) for i in range(count)]
        for header in headers:
            start = headers[names][4] + header[0]
            if module[start:module.index(b"\0", start)] == b".modinfo":
                info = module[header[4]:header[4] + header[5]].split(b"\0")
                depends = next((i[len(b"depends="):].decode() for i in info if i.startswith(b"depends=")), "")
                return [name.replace("-", "_") for name in depends.split(",") if name]
    except (struct.error, IndexError, ValueError):
        pass
    raise HostFailure(f"{path} is no kernel module")
