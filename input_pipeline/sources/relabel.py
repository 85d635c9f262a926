"""Map the labels of a data set to those of a model, by the names of the classes.

Labels are kept, and only the numbers of classes are compared, if names do not identify
the classes: one side has none, or merely counts (tfds names unnamed classes "0", "1",
...).
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from input_pipeline.sources.class_names import synsets
from input_pipeline.sources.folder import FolderSource
from input_pipeline.sources.folder_layouts import whole_numbers
from input_pipeline.tracing import as_written

METHODS = ("name", "number", "known")
Names = tuple[str, ...]


class OtherClasses(ValueError):
    """The classes are not the same ones; the message says which differ."""


class Relabelled:
    """A source with its labels mapped to other classes; see `sources.Source`.

    Args:
      source: the source; every feature of its `label_keys` ("label") is mapped.
      table: the new label for each label of `source`; -1 is no class.
      class_names: of the new labels.
    """

    def __init__(self, source: Any, table: Sequence[int], class_names: Names):
        self.class_names = class_names
        self.num_classes = len(class_names)
        self.describe, self.nbytes = source.describe, source.nbytes
        self.finish, self.notices = source.finish, source.notices
        if hasattr(source, "labels"):
            self.labels = lambda: np.asarray(table, np.int64)[source.labels()]
        self.as_seen = getattr(source, "as_seen", False)
        self.path = getattr(source, "path", None)
        self.prepared = getattr(source, "prepared", None)
        self.ahead = getattr(source, "ahead", None)
        self._source = source
        self._keys = getattr(source, "label_keys", ("label",))
        with tf.device("CPU"):
            self._table = tf.constant(table, tf.int64)

    def __len__(self) -> int:
        return len(self._source)

    def read(self, index: tf.Tensor) -> dict[str, tf.Tensor]:
        """Return example `index` of the source, relabelled."""
        return self._relabelled(self._source.read(index))

    def parse(self, item: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        """Return the example of an item of `ahead`, relabelled."""
        return self._relabelled(self._source.parse(item))

    def sequential(self, start: int, stop: int) -> tf.data.Dataset:
        """Return examples start to stop of the source, relabelled."""
        return self._source.sequential(start, stop).map(as_written(self._relabelled))

    def _relabelled(self, features: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        new = {
            key: tf.cast(tf.gather(self._table, features[key]), features[key].dtype)
            for key in self._keys
        }
        return features | new


def reordered(source: Any, names: Sequence[str]) -> Any:
    """Return the source with the labels of `names`, which are its classes in any order.

    The result is the source itself if they are in its order, or if it has no names.
    Raises OtherClasses, with the differences, if they are not the same classes.
    """
    theirs, ours = source.class_names, tuple(names)
    if theirs is None:
        return source
    place, same = _places(theirs, ours)
    added, gone = _differing(theirs, ours, place)
    if gone or added:
        changes = [("lacks", gone), ("adds", added)]
        parts = [f"{what} {in_short(some)}" for what, some in changes if some]
        raise OtherClasses(f"it {' and '.join(parts)}")
    return source if same else Relabelled(source, place, ours)


def matched(
    source: Any,
    names: Sequence[str] | None,
    count: int | None,
    how: Any,
    what: str,
) -> tuple[Any, str | None]:
    """Return (the source with the labels of a model's classes, a notice or None).

    Args:
      names: the model's classes, in the order of their labels; None: unknown.
      count: the number of the model's classes; None: unknown.
      how: "name" maps by name; "known" does too, and gives examples of classes that the
        model does not know the label -1, of no class; "number" keeps the labels; None
        keeps them too, and compares nothing. A list of names replaces `names`.
      what: the data, for messages.

    Raises ValueError for a class that the model does not know.
    """
    if how is None:
        return source, None
    cure = "match_classes='number' keeps its label numbers"
    whose = " to the model"
    if isinstance(how, str):
        if how not in METHODS:
            raise ValueError(_wrong(how))
        leave = "match_classes='known' leaves their examples out of the count, "
        cure = f"{leave}and {cure}"
    elif isinstance(how, list | tuple) and all(isinstance(x, str) for x in how):
        names, count, how = how, len(how), "name"
        cure, whose = "match_classes=None keeps its label numbers", ""
    else:
        raise ValueError(_wrong(how))
    ours: Any = None if names is None else tuple(names)
    theirs: Any = source.class_names
    if how == "number" or not _comparable(theirs, ours):
        notice = _by_number(source, count, how, what)
        if notice is None and how == "name" and ours is None and count:
            notice = _by_value(source, what)
        if notice is None and how == "name" and ours and theirs:
            notice = (
                f"labels of {what} keep their numbers, because one side has numbers for "
                f"names: {in_short(theirs)} are the model's {in_short(ours)}; if that is "
                "wrong, give the model's names in this data section as match_classes=[...]"
            )
        return source, notice
    place, same = _places(theirs, ours)
    if same:
        return source, None
    unknown, missing = _differing(theirs, ours, place)
    if unknown and how != "known":
        raise ValueError(
            f"{what} has classes that are not known{whose}, {in_short(unknown)} (known: "
            f"{in_short(ours)}): rename or remove them; in this data section {cure}"
        )
    sentences = [f"labels of {what} are mapped by name to those of {in_short(ours)}"]
    if unknown:
        sentences.append(f"examples of {in_short(unknown)} are left out")
    if missing:
        sentences.append(f"there is no example of {in_short(missing)}")
    return Relabelled(source, place, ours), "; ".join(sentences)


def in_short(names: Sequence[str]) -> str:
    """Return the first few names of many, in quotation marks."""
    few = ", ".join(repr(name) for name in names[:5])
    return few if len(names) <= 5 else f"{few} and {len(names) - 5} more"


def _wrong(how: Any) -> str:
    methods = ", ".join(map(repr, METHODS))
    return (
        f"match_classes must be one of {methods}, a list of names, or None, got {how!r}"
    )


def _by_number(source: Any, count: int | None, how: str, what: str) -> str | None:
    """Return a notice on kept labels. Raises ValueError on too many classes."""
    theirs = source.num_classes
    if theirs is None or count is None or how == "known":
        return None
    if theirs > count:
        raise ValueError(
            f"{what} has {theirs} classes, but the model {count}, and there are no names "
            "on both sides to match them: evaluate it on the classes that it was trained "
            "on, or give their names in this data section as match_classes=[...], in the "
            "order of the model's labels"
        )
    if theirs == count or how == "number" or source.class_names is None:
        return None
    return (
        f"{what} has {theirs} of the model's {count} classes, taken to be the first ones "
        "because there are no names to compare: if that is wrong, give the model's in "
        "this data section as match_classes=[...]"
    )


def _by_value(source: Any, what: str) -> str | None:
    """Return a notice for folders named by numbers, which others sort as text."""
    names = source.class_names
    numbered = isinstance(source, FolderSource) and whole_numbers(names)
    if not numbered or list(names) == sorted(names):
        return None
    return (
        f"the classes of {what} are numbered by value, {in_short(names)}, and the model "
        "has no names: if a library that sorts folders as text trained it, as "
        "torchvision's ImageFolder does, give this data section match_classes="
        f"[{', '.join(map(repr, sorted(names)[:3]))}, ...], all in the order of its labels"
    )


def _differing(
    theirs: Names, ours: Names, place: Sequence[int]
) -> tuple[list[str], list[str]]:
    """Return (their classes that are none of ours, ours that are none of theirs)."""
    there = set(place)
    added = [name for name, k in zip(theirs, place, strict=True) if k < 0]
    return added, [name for k, name in enumerate(ours) if k not in there]


def _comparable(theirs: Names | None, ours: Names | None) -> bool:
    """Return whether the names identify the classes."""
    if theirs is None or ours is None:
        return False
    if _counts(theirs):
        return whole_numbers(ours)
    return not _counts(ours) or whole_numbers(theirs)


def _counts(names: Names) -> bool:
    return names == tuple(map(str, range(len(names))))


def _places(theirs: Any, ours: Any) -> tuple[list[int], bool]:
    """Return (the index of each of their names in ours, or -1; if none changes)."""
    stay = list(range(len(ours)))
    if theirs == ours:
        return stay, True
    place = _found(theirs, ours)
    if -1 in place:  # other words for the same classes of ImageNet?
        place = _found(synsets(theirs), synsets(ours))
    return place, place == stay


def _found(theirs: Sequence[str], ours: Sequence[str]) -> list[int]:
    place = {name: k for k, name in enumerate(ours)}
    return [place.get(name, -1) for name in theirs]
