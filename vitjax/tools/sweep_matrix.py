"""The combinations of a sweep: a grid or random draws, and the names of their runs."""

import hashlib
import itertools
import math
import random
import re
from collections.abc import Mapping, Sequence
from typing import Any

CONFIG = "config."  # a name with this prefix is a config key, any other an argument
RANGES = ("log", "uniform", "int")
_RANGE = re.compile(rf"({'|'.join(RANGES)})\(([^,()]+),([^,()]+)\)")
_LONGEST = 80  # characters of a run's folder
_OPEN, _CLOSE = "([{", ")]}"


def parse(matrix: Sequence[str]) -> dict[str, list[str]]:
    """Read "NAME=VALUE,VALUE" items; commas inside brackets or quotes do not split.

    Raises ValueError for an item of another form, or a repeated name or value.
    """
    values = {}
    for item in matrix:
        name, equals, text = item.partition("=")
        choices = _split(text)
        if not equals or not name or not all(choices):
            raise ValueError(f"--matrix must be NAME=VALUE,VALUE items, got {item!r}")
        if name in values or len(set(choices)) < len(choices):
            raise ValueError(f"--matrix gives a name or a value twice: {item!r}")
        values[name] = choices
    return values


def _split(text: str) -> list[str]:
    """Split at commas outside of brackets and quotes."""
    parts, depth, quote = [""], 0, ""
    for char in text:
        if quote:
            quote = "" if char == quote else quote
        elif char in "'\"":
            quote = char
        elif char in _OPEN:
            depth += 1
        elif char in _CLOSE:
            depth -= 1
        elif char == "," and depth <= 0:
            parts.append("")
            continue
        parts[-1] += char
    return [part.strip() for part in parts]


def grid(matrix: Sequence[str]) -> list[dict[str, str]]:
    """Return the product of the items' values; the last name changes fastest.

    Raises ValueError as `parse` does, and for a range.
    """
    values = parse(matrix)
    for name, choices in values.items():
        if any(map(_RANGE.fullmatch, choices)):
            raise ValueError(
                f"--matrix {name}={','.join(choices)} is a range, which needs --random N"
            )
    return [
        dict(zip(values, row, strict=True))
        for row in itertools.product(*values.values())
    ]


def draws(matrix: Sequence[str], count: int, seed: int) -> list[dict[str, str]]:
    """Return `count` random combinations, fewer if some are equal.

    A value is drawn from a range, log(a,b), uniform(a,b) or int(a,b) with both ends, or
    from the list of values, each equally often. Numbers have four significant digits.
    The first combinations are the same for every count.

    Raises ValueError as `parse` does, and for a range that cannot be drawn from.
    """
    values = parse(matrix)
    samplers = {name: _sampler(name, choices) for name, choices in values.items()}
    rng = random.Random(seed)
    drawn = [
        {name: of(rng.random()) for name, of in samplers.items()} for _ in range(count)
    ]
    return list({tuple(x.items()): x for x in drawn}.values())


def _sampler(name: str, choices: Sequence[str]) -> Any:
    """Return a function from a uniform number of [0, 1) to a value's text."""
    found = _RANGE.fullmatch(choices[0])
    if not found or len(choices) > 1:
        return lambda u: choices[int(u * len(choices))]
    kind, *ends = found.groups()
    try:
        low, high = (int(x) if kind == "int" else float(x) for x in ends)
    except ValueError:
        low, high = math.nan, math.nan
    least = 0 if kind == "log" else -math.inf
    if not least < low < high < math.inf:
        above = "above 0, " if kind == "log" else ""
        whole = "whole numbers" if kind == "int" else "numbers"
        raise ValueError(
            f"--matrix {name}={choices[0]} must be {kind}(A,B) with {whole} {above}A < B"
        )
    if kind == "log":
        return lambda u: f"{low * (high / low) ** u:.4g}"
    if kind == "uniform":
        return lambda u: f"{low + (high - low) * u:.4g}"
    return lambda u: str(int(low + (high - low + 1) * u))


def split(chosen: Mapping[str, str]) -> tuple[str, list[str]]:
    """Return a combination as ("a=1,b=2", the config file's arguments; overrides)."""
    own = {k: v for k, v in chosen.items() if not k.startswith(CONFIG)}
    keys = [f"{k.removeprefix(CONFIG)}={v}" for k, v in chosen.items() if k not in own]
    return _joined(own), keys


def check_overrides(chosen: Mapping[str, str], overrides: Sequence[str]) -> None:
    """Raise ValueError if an override "a.b=VALUE" gives a key that the matrix varies."""
    for text in overrides:
        key = f"{CONFIG}{text.partition('=')[0]}"
        if key in chosen:
            raise ValueError(f"--matrix and --{key} give the same key: leave one out")


def names(combinations: Sequence[Mapping[str, str]]) -> list[str]:
    """Return a folder name for each combination: "lr=0.001,wd=0.1".

    A config key is named by its last part, or in full if two keys share it. Slashes
    become "_". The end of a long name, or of one that is taken, is a hash.
    """
    labels = _labels(combinations[0]) if combinations else {}
    found: dict[str, None] = {}
    for chosen in combinations:
        full = _joined({labels[k]: v for k, v in chosen.items()})
        name = re.sub(r"[/\\]", "_", full)
        if len(name) > _LONGEST or name in found:
            digest = hashlib.sha256(full.encode()).hexdigest()[:8]
            name = f"{name[: _LONGEST - 9]}-{digest}"
        found[name] = None
    return list(found)


def _labels(chosen: Mapping[str, str]) -> dict[str, str]:
    short = {k: k.rpartition(".")[2] for k in chosen}
    taken = list(short.values())
    return {k: s if taken.count(s) == 1 else k for k, s in short.items()}


def _joined(chosen: Mapping[str, str]) -> str:
    return ",".join(f"{k}={v}" for k, v in chosen.items())
