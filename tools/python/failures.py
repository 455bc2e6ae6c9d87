# SPDX-License-Identifier: Apache-2.0
"""How the tools of the emulated hosts fail: with one line, and a status that
tells whose fault it was; and how they run other programs."""

import errno
import os
import shutil
import subprocess
import tempfile

import cache


class HostFailure(Exception):
    """The machine or its preparation failed: one line, status 125."""


def find_program(name):
    """Where a program is, or None. An ordinary user's PATH in Debian has no sbin."""
    return shutil.which(name, path=os.environ.get("PATH", os.defpath) + ":/usr/sbin:/sbin")


def need_programs(*names):
    missing = [name for name in names if not find_program(name)]
    if missing:
        raise HostFailure(f"{' and '.join(missing)} not installed: run tools/setup")


def run_tool(name, *arguments, **kwargs):
    """A helper program's stdout; its failure is ours, with its last line."""
    need_programs(name)
    try:
        done = subprocess.run([find_program(name), *arguments], check=True, capture_output=True,
                              env=os.environ | {"LC_ALL": "C"},
                              **(kwargs if "input" in kwargs else {"stdin": subprocess.DEVNULL, **kwargs}))
    except subprocess.CalledProcessError as e:
        lines = e.stderr.decode(errors="replace").strip().splitlines()
        if any(os.strerror(errno.ENOSPC) in line for line in lines):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)) from None
        raise HostFailure(f"{os.path.basename(name)} failed: {lines[-1] if lines else e.returncode}") from None
    return done.stdout


def in_words(error):
    """One line for a failure, whoever raised it."""
    if not isinstance(error, OSError):
        return str(error)
    if error.errno == errno.ENOSPC:
        return (f"no room left on the disk of {error.filename or tempfile.gettempdir()}: make some; "
                f"{cache.directory()} can be removed at any time, TMPDIR says where else to work")
    return ": ".join(str(part) for part in [error.filename, error.strerror or error] if part)
