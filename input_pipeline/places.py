"""Paths that people give: refuse one that is not on this machine, as gs:// is not.

`Path("gs://bucket/run")` is the relative path gs:/bucket/run, so a program that does not
look makes a local folder of that name.
"""

import argparse
import re
from collections.abc import Collection
from pathlib import Path

# Any word before "://", and known ones where a Path or a shell has left one slash.
_KNOWN = "gs|gcs|s3|s3a|az|abfs|abfss|adl|hdfs|hf|https?|ftp|file"
_SCHEME = re.compile(rf"([a-z][a-z0-9+.-]*)://|({_KNOWN}):/", re.IGNORECASE)


BUCKETS = ("gs", "s3")


# argparse prints the message of an ArgumentTypeError, and hides that of a ValueError.
class NotServed(ValueError, argparse.ArgumentTypeError):
    """A path is not on this machine; the message is a sentence for users."""


def scheme(path: str | Path) -> str | None:
    """Return "gs" for gs://bucket/x and for gs:/bucket/x; None for a local path."""
    match = _SCHEME.match(str(path))
    return (match[1] or match[2]).lower() if match else None


def check(path: str | Path, what: str = "", served: Collection[str] = ()) -> None:
    """Raise NotServed for a path with a scheme, unless the scheme is among `served`.

    `what` names the argument. A scheme with one slash, as in gs:/bucket/x, is never
    served.
    """
    found = scheme(path)
    if found is None or (found in served and "://" in str(path)):
        return
    whose = f"{what} must be" if what else "expected"
    or_one = "".join(f" or {name}://BUCKET/PATH" for name in served)
    slash = "" if "://" in str(path) else f" (a folder of that name: './{path}')"
    raise NotServed(
        f"{whose} a path of this machine{or_one}, got {str(path)!r}, and "
        f"{found if '://' in str(path) else f'{found}:/ with one slash'} is not served: "
        f"give a local path, and copy what it holds from there or to there{slash}"
    )


def local(text: str) -> Path:
    """Return the path of a command line's argument, as argparse's `type`."""
    check(text)
    return Path(text)


def local_text(text: str) -> str:
    """Return an argument that begins with a path as it is, as argparse's `type`."""
    check(text)
    return text


def anywhere(text: str) -> str:
    """Return a path of this machine or of a bucket, as argparse's `type`."""
    check(text, served=BUCKETS)
    return text
