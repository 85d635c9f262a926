"""Writing files so that a reader, or a power cut, never finds half of one; pictures."""

import contextlib
import io
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from absl import logging


def write_whole(path: Path, content: str | bytes) -> None:
    """Replace the file at once by `content`, which is on the disk before it is visible."""
    partial = path.with_name(path.name + ".partial")
    with partial.open("wb") as file:
        file.write(content.encode() if isinstance(content, str) else content)
        file.flush()
        os.fsync(file.fileno())
    os.replace(partial, path)


def write_picture(path: Path, figure: Any, dpi: int) -> None:
    """A figure of matplotlib as PNG, whole or not at all; see `no_formulas`."""
    no_formulas(figure)
    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=dpi)
    write_whole(path, picture.getvalue())


def no_formulas(figure: Any) -> None:
    """Have every text of a figure drawn as it is, but for the numbers of logarithmic axes.

    A class may be called "$5_to_$10", which matplotlib takes for a formula; powers of ten
    are formulas of its own.
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
    """A picture that cannot be drawn or written costs a warning, whatever the error."""
    try:
        yield
    except Exception as error:
        why = " ".join(str(error).split()) or type(error).__name__
        logging.warning("%s cannot be written: %s", name, why)
