"""Writing files so that a reader, or a power cut, never finds half of one."""

import os
from pathlib import Path


def write_whole(path: Path, text: str) -> None:
    """Replace the file at once by `text`, which is on the disk before it is visible."""
    partial = path.with_name(path.name + ".partial")
    with partial.open("w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(partial, path)
