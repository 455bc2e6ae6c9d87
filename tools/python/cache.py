# SPDX-License-Identifier: Apache-2.0
"""Where what was made once is kept: CASEMATE_CACHE, or ~/.cache/casemate."""

import os
from pathlib import Path


def directory():
    return Path(os.environ.get("CASEMATE_CACHE") or
                Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "casemate")).absolute()
