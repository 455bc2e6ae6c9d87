# SPDX-License-Identifier: Apache-2.0
"""Where the emulated hosts' kernels, archives and logs are kept."""

import contextlib
import errno
import fcntl
import shutil
import tempfile
from pathlib import Path

import cache
from failures import HostFailure


def cache_directory():
    path = cache.directory() / "kvm-host"
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as e:
        raise HostFailure(f"cannot make {path}: {e.strerror}: CASEMATE_CACHE says where else things are kept") from None
    return path


@contextlib.contextmanager
def locked(directory):
    with open(directory / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@contextlib.contextmanager
def scratch(directory):
    """A place to make something that is renamed into the cache when it is
    whole; for whoever has it locked. What a killed run left goes first."""
    for left in directory.glob("new.*"):
        shutil.rmtree(left, ignore_errors=True)
    try:
        with tempfile.TemporaryDirectory(dir=directory, prefix="new.", ignore_cleanup_errors=True) as new:
            yield Path(new)
    except OSError as e:
        if e.errno == errno.ENOSPC:
            e.filename = str(directory)
        raise
