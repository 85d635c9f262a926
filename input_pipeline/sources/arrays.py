"""Examples held in memory: scikit-learn's digits, and the arrays of array_files."""

from collections.abc import Callable, Collection, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from input_pipeline.sources import splits
from input_pipeline.tracing import as_written


class ArraySource:
    """Examples in memory: `images` (n, h, w, c) uint8 and `labels` (n,) int64."""

    notices: tuple[str, ...] = ()

    def __init__(
        self,
        images: np.ndarray,
        labels: np.ndarray,
        *,
        what: str,
        class_names: Sequence[str] | None = None,
        num_classes: int | None = None,
    ):
        if len(images) != len(labels) or not len(images):
            raise ValueError(
                f"{what} needs as many images as labels and at least one, but has "
                f"{len(images)} images and {len(labels)} labels"
            )
        self._what = what
        self.class_names = tuple(class_names) if class_names is not None else None
        self.num_classes = len(class_names) if class_names else num_classes
        check_labels(labels, self.num_classes, what)
        if self.num_classes is None:  # count at least the classes that occur
            self.num_classes = int(np.max(labels)) + 1
        with tf.device("CPU"):
            self._images = tf.constant(images, tf.uint8)
            self._labels = tf.constant(labels, tf.int64)

    def __len__(self) -> int:
        return len(self._labels)

    def read(self, index: tf.Tensor) -> dict[str, tf.Tensor]:
        """Return example `index`: image (h, w, c) uint8, label int64, `_id` int32."""
        return {
            "image": tf.gather(self._images, index),
            "label": tf.gather(self._labels, index),
            "_id": tf.cast(index, tf.int32),
        }

    def labels(self) -> np.ndarray:
        """Return the label of every example, int64[n]."""
        labels: Any = self._labels.numpy()
        return labels

    def sequential(self, start: int, stop: int) -> tf.data.Dataset:
        """Return examples start to stop in order."""
        return tf.data.Dataset.range(start, stop).map(as_written(self.read))

    def finish(self, features: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        """Return `features`: `sequential` leaves nothing to do."""
        return features

    def describe(self, index: int) -> str:
        """Return the data set and the example's index."""
        return f"example {index} of {self._what}"

    def nbytes(self) -> int:
        """Return how many bytes the images take."""
        return self._images.dtype.size * int(tf.size(self._images, tf.int64))


def check_labels(labels: np.ndarray, num_classes: int | None, what: str) -> None:
    """Raise ValueError unless all labels are in 0 ... num_classes - 1.

    None means an unknown number of classes; negative labels are still refused.
    """
    wrong = labels < 0
    if num_classes is not None:
        wrong |= labels >= num_classes
    if wrong.any():
        row = int(np.argmax(wrong))
        limit = "0 or more" if num_classes is None else f"in 0 to {num_classes - 1}"
        raise ValueError(
            f"the labels of {what} must be {limit}, but {int(wrong.sum())} of "
            f"{len(labels)} are not, the first of them {labels[row]} at row {row}"
        )


def count_classes(
    what: str, class_names: Sequence[str] | None, num_classes: int | None
) -> int | None:
    """Return the number of classes, given in either way; the two must agree."""
    if class_names is None:
        return num_classes
    if num_classes not in (None, len(class_names)):
        raise ValueError(
            f"{what} was given {len(class_names)} class_names, but num_classes is "
            f"{num_classes}: leave one of them out"
        )
    return len(class_names)


def from_splits(
    spec: str,
    known: Collection[str] | None,
    load: Callable[[str], tuple[np.ndarray, np.ndarray]],
    *,
    what: str,
    class_names: Sequence[str] | None = None,
    num_classes: int | None = None,
    order: Callable[[int], np.ndarray] = splits.fixed_order,
) -> ArraySource:
    """Return the examples of a split, or of parts of splits, of arrays.

    `load` returns images (n, h, w) or (n, h, w, c) and labels (n,) of one split. The
    other arguments are those of `splits.select` and `ArraySource`.
    """

    def sized(split: str) -> tuple[Any, int]:
        loaded = load(split)
        return loaded, len(loaded[0])

    chosen = splits.select(spec, known, what, sized, order)
    images = [images[rows] for (images, _), rows in chosen]
    if len({x.shape[1:] for x in images}) > 1:
        raise ValueError(
            f"the images of {what} {spec} differ in shape between its splits: "
            f"{', '.join(str(x.shape[1:]) for x in images)}"
        )
    together = np.concatenate(images)
    return ArraySource(
        together[..., None] if together.ndim == 3 else together,
        np.concatenate([labels[rows] for (_, labels), rows in chosen]),
        what=f"{what} {spec}",
        class_names=class_names,
        num_classes=num_classes,
    )


_DIGITS_SEED = 1797
"""The seed of the permutation that fixes which fifth of the digits is held out."""


def _digits(split: str) -> ArraySource:
    import sklearn.datasets  # takes a second, so only if needed

    digits: Any = sklearn.datasets.load_digits()
    images = np.round(digits.images * (255 / 16)).astype(np.uint8)
    order = np.random.default_rng(_DIGITS_SEED).permutation(len(images))
    held_out = len(images) // 5
    rows = {"train": order[held_out:], "test": order[:held_out]}
    return from_splits(
        split,
        tuple(rows),
        lambda name: (images[rows[name]], digits.target[rows[name]]),
        what="digits",
        class_names=[str(name) for name in digits.target_names],
        order=np.arange,  # the rows are in random order already
    )


ARRAYS = {"digits": _digits}
