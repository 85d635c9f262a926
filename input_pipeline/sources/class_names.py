"""Names of classes, even if the data set itself is not on this machine."""

from collections.abc import Mapping, Sequence
from typing import Any

from input_pipeline import sources
from input_pipeline.sources import tfds


def of_data(**data) -> tuple[str, ...] | None:
    """Return the class names of a data section, None if the data set has none.

    For a tfds data set that is not prepared, they are the names that tfds knows.

    Raises:
      DataNotFound: the data set is missing, and its names are not known otherwise.
      ValueError: the section is wrong.
    """
    try:
        return sources.open_source(**data).class_names
    except sources.DataNotFound:
        if data.get("kind", "tfds") != "tfds":
            raise
        return tfds.known_class_names(data["name"])


def of_run(
    kept: Sequence[str] | None,
    *,
    data: Mapping[str, Any],
    relabels: bool,
    file_classes: int | None = None,
) -> tuple[str, ...] | None:
    """Return a model's class names in the order of its labels; None if unknown.

    Args:
      kept: the names in its checkpoint.
      data: the section of its training data, read if the checkpoint has no names.
      relabels: whether its labels differ from those of that data.
      file_classes: the number of classes of a file of weights, which another program may
        have trained on other data. The names of `data` count only if their number is
        equal, and names of folders only if all programs sort them alike.
    """
    if kept is not None or relabels:
        return None if kept is None else tuple(kept)
    try:
        names = of_data(**data)
    except ValueError:  # the data set is elsewhere
        return None
    if file_classes is None or names is None:
        return names
    by_text = data.get("kind") != "folder" or list(names) == sorted(names)
    return names if len(names) == file_classes and by_text else None


def in_words(names: Sequence[str]) -> tuple[str, ...]:
    """Return ImageNet's synsets as words, "n01440764" as "tench, Tinca tinca".

    Other names are kept.
    """
    words = _words_of_synsets()
    return tuple(words.get(name, name) for name in names)


def synsets(names: Sequence[str]) -> tuple[str, ...]:
    """Return ImageNet's words as synsets, the inverse of `in_words`.

    Lists of all 1000 words differ in spelling, and some call two classes "crane". Names
    are taken for such a list if they mostly agree, position by position, in the first
    of a class's words.
    """
    words = _words_of_synsets()
    first = lambda text: text.split(",")[0].strip().lower()
    both = zip(map(first, names), map(first, words.values()), strict=False)
    if len(names) == len(words) and sum(a == b for a, b in both) > 0.9 * len(words):
        return tuple(words)
    known = dict(zip(words.values(), words.keys(), strict=True))
    return tuple(known.get(name, name) for name in names)


def _words_of_synsets() -> dict[str, str]:
    """Return synset -> words of ImageNet's 1000 classes, in label order (tfds)."""
    try:
        from tensorflow_datasets.datasets.siscore.labels import IMAGENET_LABELS_LIST
    except ImportError:  # an internal module of tfds, which may move
        return {}
    names = tfds.known_class_names("imagenet2012") or ()
    return dict(zip(names, IMAGENET_LABELS_LIST, strict=True))
