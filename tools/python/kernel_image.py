# SPDX-License-Identifier: Apache-2.0
"""Kernel images of x86-64: what is inside a bzImage, and one that needs no
unpacking."""

import gzip
import lzma
import re
import struct
import zlib

from command_line import Usage
from failures import run_tool

# ELF note XEN_ELFNOTE_PHYS32_ENTRY: QEMU starts an ELF kernel only with it.
PVH_NOTE = struct.pack("<I", 18) + b"Xen\0"


def unpack_kernel(image):
    """The vmlinux inside a bzImage (Linux Documentation/arch/x86/boot.rst,
    payload_offset), so that no emulated CPU has to unpack it."""
    if image[:4] == b"\x7fELF":
        return image
    if image[0x202:0x206] != b"HdrS":
        raise Usage("neither a bzImage nor an ELF vmlinux")
    offset, length = struct.unpack_from("<II", image, 0x248)
    start = ((image[0x1F1] or 4) + 1) * 512 + offset
    payload = image[start:start + length]
    try:
        if payload[:4] == b"\x28\xb5\x2f\xfd":
            # The build appends the unpacked size, which zstd would call garbage.
            return run_tool("zstd", "-dc", input=payload[:-4])
        if payload[:6] == b"\xfd7zXZ\x00":
            return lzma.LZMADecompressor().decompress(payload)
        if payload[:2] == b"\x1f\x8b":
            return gzip.decompress(payload)
    except (lzma.LZMAError, EOFError, zlib.error, gzip.BadGzipFile) as e:
        raise Usage(f"a damaged bzImage: {e}") from None
    raise Usage("its compression is not zstd, xz or gzip")


def release(image, unpacked):
    """What uname -r will say, or None."""
    if image[0x202:0x206] == b"HdrS":
        (offset,) = struct.unpack_from("<H", image, 0x20E)  # kernel_version
        text = image[0x200 + offset:0x300 + offset]
    else:
        found = re.search(rb"Linux version (\d\S*) ", unpacked)
        text = found[1] if found else b""
    return text[:64].partition(b" ")[0].decode(errors="replace") or None


def flat_kernel(bzimage, vmlinux):
    """A bzImage that holds the same kernel unpacked, for an emulated CPU that
    takes ten seconds to unpack it: loaded at 1 MiB, its segments already lie
    where they run, and a stub in front enters them as the unpacker would
    (Linux Documentation/arch/x86/boot.rst, "64-bit boot protocol")."""
    entry, phoff = struct.unpack_from("<QQ", vmlinux, 24)
    (count,) = struct.unpack_from("<H", vmlinux, 56)
    headers = [struct.unpack_from("<IIQQQQQQ", vmlinux, phoff + 56 * i) for i in range(count)]
    loads = [h for h in headers if h[0] == 1]  # PT_LOAD
    base = 0x100000
    tables, gdt = base + 0x1000, base + 0x800
    stub = b"".join([
        b"\xfa",                                                   # cli
        b"\xb8", struct.pack("<I", tables), b"\x0f\x22\xd8",       # mov $tables, %cr3
        b"\x0f\x20\xe0\x83\xc8\x20\x0f\x22\xe0",                   # or $PAE, %cr4
        b"\xb9\x80\x00\x00\xc0\x0f\x32",                           # rdmsr EFER
        b"\x0d\x00\x01\x00\x00\x0f\x30",                           # or $LME; wrmsr
        b"\x0f\x01\x15", struct.pack("<I", gdt + 32),              # lgdt
        b"\x0f\x20\xc0\x0d\x00\x00\x00\x80\x0f\x22\xc0",           # or $PG, %cr0
        b"\xea", struct.pack("<IH", entry, 16),                    # ljmp $16, $entry
    ])
    code_and_data = [0, 0, 0xAF9A000000FFFF, 0xCF92000000FFFF]
    front = stub.ljust(gdt - base, b"\0") + struct.pack("<4QHI", *code_and_data, 31, gdt)
    front = front.ljust(tables - base, b"\0")
    front += struct.pack("<Q", tables + 0x1003).ljust(4096, b"\0")  # one PML4 entry,
    front += struct.pack("<4Q", *((i << 30) | 0x83 for i in range(4)))  # four 1-GiB pages
    image = bytearray(max(h[4] + h[5] for h in loads) - base)
    image[:len(front)] = front
    for _, _, offset, _, physical, size, _, _ in loads:
        image[physical - base:physical - base + size] = vmlinux[offset:offset + size]
    # The zeros at the end are .bss and .brk, which the kernel clears.
    image = image.rstrip(b"\0")
    image += bytes(-len(image) % 4096)
    setup = bytearray(bzimage[:((bzimage[0x1F1] or 4) + 1) * 512])
    struct.pack_into("<I", setup, 0x1F4, len(image) // 16)  # syssize
    setup[0x234] = 0  # relocatable_kernel
    struct.pack_into("<Q", setup, 0x258, base)  # pref_address
    return bytes(setup + image)
