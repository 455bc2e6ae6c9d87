# SPDX-License-Identifier: Apache-2.0
"""Debian's own kernel for the emulated hosts, fetched with apt and kept in the
cache with its modules."""

import hashlib
import tempfile
from pathlib import Path

from failures import HostFailure, run_tool
from host_cache import cache_directory, locked
from kernel_image import flat_kernel, unpack_kernel

META_PACKAGE = "linux-image-6.12-cloud-amd64"


def stock_kernel(say, refresh=False):
    """The directory with vmlinuz, vmlinux and modules/ of Debian's kernel.

    Its name is the package's content hash. `stock` links to the one in use,
    so a run is repeatable until a refresh moves it.
    """
    cache = cache_directory()
    current = cache / "stock"
    if current.exists() and not refresh:
        return current.resolve()
    with locked(cache):
        if current.exists() and not refresh:
            return current.resolve()
        say(f"fetching Debian's {META_PACKAGE} (34 MB, once)")
        with tempfile.TemporaryDirectory(dir=cache, prefix="new.") as new:
            fetch_kernel(Path(new), current)
        return current.resolve()


def fetch_kernel(new, current):
    depends = run_tool("apt-cache", "depends", META_PACKAGE).decode().split()
    names = [w for w in depends if w.startswith("linux-image-") and w != META_PACKAGE]
    if not names:
        raise HostFailure(f"apt knows no {META_PACKAGE}: run apt-get update")
    try:
        run_tool("apt-get", "download", names[0] + "-unsigned", cwd=new)
    except HostFailure:
        run_tool("apt-get", "download", names[0], cwd=new)
    package = next(new.glob("*.deb"))
    final = current.parent / ("kernel-" + hashlib.sha256(package.read_bytes()).hexdigest()[:20])
    if not final.exists():
        tree = new / "tree"
        run_tool("dpkg-deb", "-x", package, tree)
        made = new / "made"
        made.mkdir()
        next(tree.glob("boot/vmlinuz-*")).rename(made / "vmlinuz")
        (made / "vmlinux").write_bytes(unpack_kernel((made / "vmlinuz").read_bytes()))
        (made / "bzimage-flat").write_bytes(
            flat_kernel((made / "vmlinuz").read_bytes(), (made / "vmlinux").read_bytes()))
        source = next(tree.glob("lib/modules/*"))
        run_tool("sh", "-c", "find . -name '*.ko.xz' -print0 | xargs -0 -P2 -n64 xz -d", cwd=source)
        run_tool("/sbin/depmod", "-b", tree, source.name)
        target = made / "modules/lib/modules"
        target.mkdir(parents=True)
        source.rename(target / source.name)
        made.rename(final)
    link = new / "link"
    link.symlink_to(final.name)
    link.rename(current)
