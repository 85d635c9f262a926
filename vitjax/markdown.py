"""Tables in Markdown, which are readable as plain text too."""

from collections.abc import Iterable, Sequence
from typing import Any


def table(head: Sequence[Any], rows: Iterable[Sequence[Any]]) -> str:
    """Format a table; its last line has no newline."""
    return "\n".join([*heading(head), *map(line, rows)])


def heading(head: Sequence[Any]) -> list[str]:
    """Return the two lines of a table before its rows."""
    return [line(head), "|" + "---|" * len(head)]


def line(cells: Sequence[Any]) -> str:
    """Format one row."""
    texts = [str(cell).replace("|", "\\|") for cell in cells]
    return "|" + "".join(f" {text} |" if text else " |" for text in texts)
