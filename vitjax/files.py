"""Write files and pictures whole: even after a crash, no reader finds half of one."""

import contextlib
import io
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from absl import logging


def write_whole(path: Path, content: str | bytes) -> None:
    """Replace the file atomically; `content` is on disk before it becomes visible."""
    partial = path.with_name(path.name + ".partial")
    with partial.open("wb") as file:
        file.write(content.encode() if isinstance(content, str) else content)
        file.flush()
        os.fsync(file.fileno())
    os.replace(partial, path)


def write_picture(path: Path, figure: Any, dpi: int) -> None:
    """Write a matplotlib figure as PNG, whole or not at all; see `no_formulas`."""
    no_formulas(figure)
    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=dpi)
    write_whole(path, picture.getvalue())


def no_formulas(figure: Any) -> None:
    """Turn off formulas in a figure's texts, except in ticks of logarithmic axes.

    A class may be called "$5_to_$10", which matplotlib would read as a formula. The
    labels of logarithmic axes are formulas of matplotlib.
    """
    from matplotlib.text import Text
    from matplotlib.ticker import LogFormatter

    numbers = {
        text
        for axes in figure.axes
        for axis in (axes.xaxis, axes.yaxis)
        if isinstance(axis.get_major_formatter(), LogFormatter)
        for text in axis.get_ticklabels(which="both")
    }
    for text in figure.findobj(Text):
        if text not in numbers:
            text.set_parse_math(False)


@contextlib.contextmanager
def or_without(name: str) -> Iterator[None]:
    """Turn any error in drawing or writing a picture into a warning."""
    try:
        yield
    except Exception as error:
        why = " ".join(str(error).split()) or type(error).__name__
        logging.warning("%s cannot be written: %s", name, why)
