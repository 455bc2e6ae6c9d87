# SPDX-License-Identifier: Apache-2.0
"""Where the emulated hosts' kernels, archives and logs are kept."""

import contextlib
import fcntl

import cache


def cache_directory():
    path = cache.directory() / "kvm-host"
    path.mkdir(parents=True, exist_ok=True)
    return path


@contextlib.contextmanager
def locked(directory):
    with open(directory / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
