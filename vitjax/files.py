"""Writing files so that a reader, or a power cut, never finds half of one."""

import io
import os
from pathlib import Path
from typing import Any


def write_whole(path: Path, content: str | bytes) -> None:
    """Replace the file at once by `content`, which is on the disk before it is visible."""
    partial = path.with_name(path.name + ".partial")
    with partial.open("wb") as file:
        file.write(content.encode() if isinstance(content, str) else content)
        file.flush()
        os.fsync(file.fileno())
    os.replace(partial, path)


def write_picture(path: Path, figure: Any, dpi: int) -> None:
    """A figure of matplotlib as PNG, whole or not at all."""
    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=dpi)
    write_whole(path, picture.getvalue())
