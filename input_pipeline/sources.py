"""Where examples come from. Every source is random access: `read(index)`, in graph.

A config's `data` section is the keyword arguments of one source, plus `kind`, its name
in SOURCES: `dict(name="imagenet2012", split="train[:99%]")` is a tfds data set, the
default kind; `dict(kind="arrays", name="digits", split="train")` needs no files.
"""

import difflib
import inspect
from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np
import tensorflow as tf

from input_pipeline.tfds_source import DataNotFound, TfdsSource

__all__ = ["SOURCES", "ArraySource", "DataNotFound", "Source", "arrays", "open_source"]


@runtime_checkable
class Source(Protocol):
    """What the pipeline asks of a source."""

    class_names: tuple[str, ...] | None
    """The names of the classes in the order of their labels, if the source has them."""
    num_classes: int | None
    """The number of classes, if the source knows it."""

    def __len__(self) -> int:
        """The number of examples."""
        ...

    def read(self, index: tf.Tensor) -> dict[str, tf.Tensor]:
        """Example `index` (an int64 scalar), with its index in the split as `_id`."""
        ...

    def sequential(self, start: int, stop: int) -> tf.data.Dataset:
        """Examples start to stop, each once, in the order that is fastest to read."""
        ...

    def describe(self, index: int) -> str:
        """What to call example `index` in a message, its file included."""
        ...


class ArraySource:
    """Examples in memory: `images` (n, h, w, c) uint8 and `labels` (n,) int64."""

    def __init__(
        self,
        images: np.ndarray,
        labels: np.ndarray,
        *,
        what: str,
        class_names: Sequence[str] | None = None,
    ):
        if len(images) != len(labels) or not len(images):
            raise ValueError(
                f"{what} needs as many images as labels and at least one, but has "
                f"{len(images)} images and {len(labels)} labels"
            )
        self._what = what
        self.class_names = tuple(class_names) if class_names is not None else None
        self.num_classes = len(self.class_names) if self.class_names else None
        with tf.device("CPU"):
            self._images = tf.constant(images, tf.uint8)
            self._labels = tf.constant(labels, tf.int64)

    def __len__(self) -> int:
        return len(self._labels)

    def read(self, index: tf.Tensor) -> dict[str, tf.Tensor]:
        """Example `index`: image (h, w, c) uint8, label int64, `_id` int32."""
        return {
            "image": tf.gather(self._images, index),
            "label": tf.gather(self._labels, index),
            "_id": tf.cast(index, tf.int32),
        }

    def sequential(self, start: int, stop: int) -> tf.data.Dataset:
        """Examples start to stop in order."""
        return tf.data.Dataset.range(start, stop).map(self.read)

    def describe(self, index: int) -> str:
        """The data set and the example's index."""
        return f"example {index} of {self._what}"


_DIGITS_SEED = 1797
"""Of the one permutation that fixes which fifth of the digits is held out."""


def _digits(split: str) -> ArraySource:
    if split not in ("train", "test"):
        raise ValueError(
            f"the data set 'digits' has the splits 'train' and 'test', not {split!r}"
        )
    import sklearn.datasets  # a second that nobody else should wait

    digits: Any = sklearn.datasets.load_digits()
    images = np.round(digits.images * (255 / 16)).astype(np.uint8)[..., None]
    order = np.random.default_rng(_DIGITS_SEED).permutation(len(images))
    held_out = len(images) // 5
    rows = order[held_out:] if split == "train" else order[:held_out]
    return ArraySource(
        images[rows],
        digits.target[rows],
        what=f"digits {split}",
        class_names=[str(name) for name in digits.target_names],
    )


_ARRAYS = {"digits": _digits}


def arrays(*, name: str, split: str) -> ArraySource:
    """A data set held in memory.

    "digits": scikit-learn's 1,797 handwritten digits, grey, 8x8, their values 0 to 16
    scaled to uint8 0 to 255; "test" is a fixed random fifth (359), "train" the others.
    """
    return _lookup(_ARRAYS, name, "data set of kind 'arrays'")(split)


SOURCES = {"tfds": TfdsSource, "arrays": arrays}


def open_source(*, kind: str = "tfds", **data) -> Source:
    """The source that a config's data section describes.

    Raises:
      DataNotFound: its files are not there.
      ValueError: an unknown kind, key, name or split, or damaged files.
    """
    source = _lookup(SOURCES, kind, "kind of data")
    keys = {name: None for name in inspect.signature(source).parameters}
    for key in data:
        _lookup(keys, key, f"key of data of kind {kind!r}:")
    if "name" not in data:
        raise ValueError(f"the data section lacks a name: {data}")
    return source(**data)


def _lookup(table: dict, name: str, what: str):
    if name not in table:
        near = difflib.get_close_matches(str(name), table, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        known = ", ".join(table)
        raise ValueError(f"unknown {what} {name!r}{hint} (known: {known})")
    return table[name]
