# SPDX-License-Identifier: Apache-2.0
"""What the commands in tools/ have in common on their command lines."""

import argparse


class Usage(Exception):
    """The caller's mistake: one line, status 2."""


class Options(argparse.ArgumentParser):
    def __init__(self, **arguments):
        super().__init__(allow_abbrev=False, formatter_class=argparse.RawDescriptionHelpFormatter, **arguments)

    def error(self, message):
        raise Usage(f"{message} (--help explains)")


def built(directory, name):
    """A file of a build directory, which has to be there."""
    file = directory / name
    if not file.is_file():
        raise Usage(f"{file} is not there; run tools/setup if you have not, then "
                    f"meson setup {directory} && ninja -C {directory}")
    return file
