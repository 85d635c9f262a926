"""Looking a name up in one of the literal tables, with an error for people."""

import difflib
from collections.abc import Iterable, Mapping
from typing import TypeVar

T = TypeVar("T")


def unknown(name: str, known: Iterable[str], what: str) -> ValueError:
    """The error for a `name` that is not among the `known` ones; names the nearest."""
    known = sorted(known)
    near = difflib.get_close_matches(str(name), known, n=1, cutoff=0.5)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    return ValueError(f"unknown {what} {name!r}{hint} (known: {', '.join(known)})")


def lookup(table: Mapping[str, T], name: str, what: str) -> T:
    """`table[name]`, or a ValueError that names the known and the nearest names."""
    if not isinstance(name, str) or name not in table:
        raise unknown(name, table, what)
    return table[name]
