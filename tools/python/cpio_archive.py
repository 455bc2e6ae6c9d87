# SPDX-License-Identifier: Apache-2.0
"""Writes an initramfs: Linux
Documentation/driver-api/early-userspace/buffer-format.rst."""

import os
import posixpath
import shutil
import stat

from command_line import Usage


class Archive:
    """Writes a newc cpio archive, everything owned by root."""

    def __init__(self, file):
        self.file, self.known, self.inode = file, {"/"}, 0

    def entry(self, path, mode, size=0):
        self.inode += 1
        name = path.lstrip("/").encode() + b"\0"
        fields = [self.inode, mode, 0, 0, 1, 0, size, 0, 0, 0, 0, len(name), 0]
        header = b"070701" + b"".join(b"%08x" % f for f in fields) + name
        self.file.write(header + bytes(-len(header) % 4))

    def parents(self, path):
        parent = posixpath.dirname(path)
        if parent not in self.known:
            self.directory(parent)

    def directory(self, path, mode=0o755):
        if path in self.known:
            return
        self.parents(path)
        self.known.add(path)
        self.entry(path, stat.S_IFDIR | mode)

    def data(self, path, data, mode=0o644, kind=stat.S_IFREG):
        self.parents(path)
        self.entry(path, kind | mode, len(data))
        self.file.write(data + bytes(-len(data) % 4))

    def copy(self, path, source):
        with open(source, "rb") as f:
            info = os.fstat(f.fileno())
            if info.st_size >= 1 << 32:
                raise Usage(f"--add {source}: 4 GiB is too big for an initramfs")
            self.parents(path)
            self.entry(path, stat.S_IFREG | (info.st_mode & 0o7777), info.st_size)
            shutil.copyfileobj(f, self.file, 1 << 20)
            self.file.write(bytes(-info.st_size % 4))

    def link(self, path, target):
        self.data(path, os.fsencode(target), kind=stat.S_IFLNK)

    def finish(self):
        self.entry("TRAILER!!!", 0)
        # The kernel looks for the next archive at a multiple of four.
        self.file.write(bytes(-self.file.tell() % 512))
