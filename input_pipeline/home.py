"""The user's home folder: `~` on command lines, and a cache folder if there is a home.

A user in a container may have no home: HOME is not set, and passwd has no entry.
"""

import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path

# "~" or "~name" at the start of a word, as in a shell; here also after "=".
_TILDE = re.compile(r"(?:(?<==)|^)~[\w.-]*(?=[/,]|$)")


def expanded(argv: Sequence[str] | None = None) -> list[str]:
    """Return the arguments of a command line (None: this process's) with `~` expanded.

    A shell does not expand it in --ckpt=~/run and configs/transfer.py:ckpt=~/vit.npz.
    It is kept if there is no such home.
    """
    args = sys.argv[1:] if argv is None else argv
    return [_TILDE.sub(lambda m: os.path.expanduser(m[0]), arg) for arg in args]


def cache() -> Path | None:
    """Return the cache folder, XDG_CACHE_HOME or ~/.cache; None without a home."""
    named = os.environ.get("XDG_CACHE_HOME")
    if named:
        return Path(named)
    home = os.path.expanduser("~")
    return Path(home) / ".cache" if os.path.isabs(home) else None
