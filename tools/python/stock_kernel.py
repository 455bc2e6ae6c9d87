# SPDX-License-Identifier: Apache-2.0
"""Debian's own kernel for the emulated hosts, fetched with apt and kept in the
cache with its modules."""

import hashlib

from failures import HostFailure, need_programs, run_tool
from host_cache import cache_directory, locked, scratch
from kernel_image import flat_kernel, unpack_kernel

VERSION = "6.12"
# Debian 12 has it beside its older kernel; in Debian 13 it is the kernel.
META_PACKAGES = [f"linux-image-{VERSION}-cloud-amd64", "linux-image-cloud-amd64"]


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
        need_programs("apt-get", "dpkg-deb", "xz", "zstd", "depmod")
        package = kernel_package()
        say(f"fetching Debian's {package} (34 MB, once)")
        with scratch(cache) as new:
            fetch_kernel(package, new, current)
        return current.resolve()


def stock_modules(kernel):
    return next(kernel.glob("modules/lib/modules/*"))


def kernel_package():
    """The package with the newest kernel of VERSION that apt knows."""
    for meta in META_PACKAGES:
        for name in depends_of(meta):
            if name.startswith(f"linux-image-{VERSION}."):
                # The same kernel without a signature, where it is as new.
                return name + "-unsigned" if depends_of(name + "-unsigned") else name
    raise HostFailure(f"apt knows neither {' nor '.join(META_PACKAGES)} of Linux {VERSION}: run apt-get update; "
                      "Debian 12 (with its security updates) and 13 have it")


def depends_of(package):
    try:
        return run_tool("apt-cache", "depends", package).decode().split()
    except HostFailure:
        return []  # not known


def fetch_kernel(name, new, current):
    try:
        run_tool("apt-get", "download", name, cwd=new)
    except HostFailure as e:
        raise HostFailure(f"cannot fetch {name}: {e}; try again when apt's mirror is there, "
                          "or run apt-get update if it has no such file") from None
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
        # Debian 12 has its modules in lib/, Debian 13 in usr/lib/.
        source = next(f for lib in ["lib", "usr/lib"] for f in tree.glob(f"{lib}/modules/*"))
        run_tool("sh", "-c", "find . -name '*.ko.xz' -print0 | xargs -0 -P2 -n64 xz -d", cwd=source)
        target = made / "modules/lib/modules"
        target.mkdir(parents=True)
        source = source.rename(target / source.name)
        # Each Debian's depmod looks where its own packages have them.
        usr = made / "modules/usr"
        usr.symlink_to(".")
        run_tool("depmod", "-b", made / "modules", source.name)
        usr.unlink()
        if not (source / "modules.dep").exists():
            raise HostFailure(f"depmod left no modules.dep for {name}")
        made.rename(final)
    link = new / "link"
    link.symlink_to(final.name)
    link.rename(current)
