# SPDX-License-Identifier: Apache-2.0
"""How the tools of the emulated hosts fail: one line, with the status that
tells whose fault it was; and how they run other programs."""

import subprocess


class Usage(Exception):
    """The caller's mistake: one line, status 2."""


class HostFailure(Exception):
    """The machine or its preparation failed: one line, status 125."""


def run_tool(*argv, **kwargs):
    """A helper program's stdout; its failure is ours, with its last line."""
    try:
        done = subprocess.run(argv, check=True, capture_output=True,
                              **(kwargs if "input" in kwargs else {"stdin": subprocess.DEVNULL, **kwargs}))
    except FileNotFoundError:
        raise HostFailure(f"{argv[0]} is not installed; tools/setup installs it") from None
    except subprocess.CalledProcessError as e:
        lines = e.stderr.decode(errors="replace").strip().splitlines()
        raise HostFailure(f"{argv[0]} failed: {lines[-1] if lines else e.returncode}") from None
    return done.stdout
