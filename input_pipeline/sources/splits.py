"""Splits of a data set and parts of them: "train", "train[:99%]", "train[:9]+test".

The language and rounding are tfds', for sources that are not tfds'. A part is taken
over one fixed random order of the split, never over the order of the files, which is by
class: a tail of that order would hold only a few classes.
"""

import re
from collections.abc import Callable, Collection
from typing import Any

import numpy as np

from input_pipeline.plans import threefry2x32
from input_pipeline.spec import did_you_mean

_PART = re.compile(
    r"\s*(?P<split>[^\[\]+:]+?)\s*"
    r"(\[(?P<start>-?\d+%?)?:(?P<stop>-?\d+%?)?\])?\s*"
)
_KEY = (0x73706C69, 0x74730000)  # any constant, but another would change the splits


class DataNotFound(ValueError):
    """The data set is not on this machine; says where it was searched, and a cure."""


def fixed_order(size: int) -> np.ndarray:
    """Return the one random order of `size` items, int64, the same in every run."""
    counter = (np.zeros(size, np.uint32), np.arange(size, dtype=np.uint32))
    high, low = (word.astype(np.uint64) for word in threefry2x32(_KEY, counter))
    return np.argsort(high << np.uint64(32) | low).astype(np.int64)


def parts(
    spec: str, known: Collection[str] | None, what: str
) -> list[tuple[str, slice]]:
    """Return the splits of a spec and the slice of each, its bounds as "500" or "99%".

    Args:
      spec: such as "train[:99%]" or "train[:500]+test".
      known: the existing splits; None admits any name.
      what: the data set, for messages.
    """
    found = []
    for text in spec.split("+"):
        match = _PART.fullmatch(text)
        if match is None:
            raise ValueError(
                f"{what} has no split {text!r}: write the name of a split or a part of "
                "one such as 'train[:99%]' or 'train[500:]'"
            )
        if known is not None and match["split"] not in known:
            hint = did_you_mean(match["split"], known)
            raise ValueError(
                f"{what} has no split {match['split']!r}{hint} "
                f"(known: {', '.join(known) or 'none'}, and parts such as 'train[:99%]')"
            )
        found.append((match["split"], slice(match["start"], match["stop"])))
    return found


def bounds(part: slice, size: int) -> tuple[int, int]:
    """Return start and stop of a part of a split of `size` examples, as in tfds."""
    numbers = []
    for text, default in ((part.start, 0), (part.stop, size)):
        number = default
        if text is not None and text.endswith("%"):
            number = round(int(text[:-1]) * size / 100)
        elif text is not None:
            number = int(text)
        if abs(number) > size:
            raise ValueError(
                f"the part [{part.start or ''}:{part.stop or ''}] goes beyond the "
                f"split's {size} examples"
            )
        numbers.append(number + size if number < 0 else number)
    return numbers[0], max(numbers)


def select(
    spec: str,
    known: Collection[str] | None,
    what: str,
    load: Callable[[str], tuple[Any, int]],
    order: Callable[[int], np.ndarray] = fixed_order,
) -> list[tuple[Any, np.ndarray]]:
    """Return `load(split)` for each part of a spec, and the rows of the part.

    `load` returns the split, in any representation, and the number of its examples; it
    is called once per split. The rows are in `order`, so those of "train[:9]" are the
    first nine of "train".

    Raises:
      ValueError: an unknown split, an invalid part, or no examples.
    """
    loaded, found = {}, []
    for split, part in parts(spec, known, what):
        if split not in loaded:
            loaded[split] = load(split)
        content, size = loaded[split]
        start, stop = bounds(part, size)
        found.append((content, order(size)[start:stop]))
    if not sum(len(rows) for _, rows in found):
        raise ValueError(f"the split {spec!r} of {what} has no examples")
    return found
