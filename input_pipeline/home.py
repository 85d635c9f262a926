"""The user's home folder: `~` on command lines, and a place for caches, if there is one.

In a container a user may have no home: HOME is not set, and no entry of passwd says.
"""

import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path

# "~" or "~name", as a shell reads it at the start of a word; here also after "=".
_TILDE = re.compile(r"(?:(?<==)|^)~[\w.-]*(?=[/,]|$)")


def expanded(argv: Sequence[str] | None = None) -> list[str]:
    """The words of a command line, None: this process's, with `~` as the home folder.

    A shell leaves it as it is in --ckpt=~/run and configs/transfer.py:ckpt=~/vit.npz. It
    stays where there is no such home.
    """
    words = sys.argv[1:] if argv is None else argv
    return [_TILDE.sub(lambda m: os.path.expanduser(m[0]), word) for word in words]


def cache() -> Path | None:
    """The user's folder of caches: XDG_CACHE_HOME or ~/.cache; None without a home."""
    named = os.environ.get("XDG_CACHE_HOME")
    if named:
        return Path(named)
    home = os.path.expanduser("~")
    return Path(home) / ".cache" if os.path.isabs(home) else None
