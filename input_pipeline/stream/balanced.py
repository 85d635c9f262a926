"""An order with every class equally often, from (seed, position) and the labels alone.

The stream is cut into blocks of as many positions as there are classes. Each block has
one example of each class, in random order; block b has the b-th of the class's own
shuffled stream, in which all its examples come before one comes again. A class of n
examples thus has visit b // n of one of them in block b.

Permutations sort random words. The cipher of `order` takes a millisecond an example to
permute three elements, which is what a rare class may have.
"""

from typing import Any

import numpy as np
import tensorflow as tf

from input_pipeline.plans import threefry2x32
from input_pipeline.stream import order


class Balanced:
    """The order for a data set with these labels, int64[n].

    It keeps one permutation of each class in memory, together 8 bytes an example.
    """

    def __init__(self, labels: np.ndarray, seed: int):
        self._labels = labels
        self._keys = [order.stream_key(seed, x) for x in (order.CLASSES, order.MEMBERS)]
        _, counts = np.unique(labels, return_counts=True)
        self._members = np.split(
            np.argsort(labels, kind="stable"), np.cumsum(counts)[:-1]
        )
        self._counts = counts  # of the classes that occur
        self._current: dict[int, tuple[int, np.ndarray]] = {}

    def example_at(self, position: Any) -> tuple[tf.Tensor, tf.Tensor]:
        """Return (visit, index) of positions, each an int64[n].

        The visit counts how often the example came before; `order.example_seed` of both
        is its seed.
        """
        position = tf.convert_to_tensor(position, tf.int64)
        found: Any = tf.numpy_function(self._at, [position], [tf.int64, tf.int64])
        return tuple(tf.ensure_shape(x, position.shape) for x in found)

    def span(self, visit: int, index: int) -> tuple[int, int]:
        """Return the range of positions in which example `index` has this visit."""
        count = int(np.sum(self._labels == self._labels[index])) * len(self._counts)
        return visit * count, (visit + 1) * count

    def _at(self, position: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        block, slot = np.divmod(position, len(self._counts))
        blocks, row = np.unique(block, return_inverse=True)
        slots = np.arange(len(self._counts), dtype=np.uint32)
        words = _words(self._keys[0], blocks[:, None], slots)
        chosen = np.argsort(words, axis=1, kind="stable")[row, slot]
        visit, place = np.divmod(block, self._counts[chosen])
        triples = zip(chosen.tolist(), visit.tolist(), place.tolist(), strict=True)
        return visit, np.array(
            [self._shuffled(c, v)[k] for c, v, k in triples], np.int64
        )

    def _shuffled(self, one: int, visit: int) -> np.ndarray:
        """Return the examples of a class in the order of a visit."""
        kept = self._current.get(one)
        if kept is not None and kept[0] == visit:
            return kept[1]
        members = self._members[one]
        words = _words(self._keys[1], np.array([visit]), members.astype(np.uint32))
        shuffled = members[np.argsort(words, kind="stable")]
        self._current[one] = visit, shuffled
        return shuffled


def _words(key: tuple[int, int], high: np.ndarray, low: np.ndarray) -> np.ndarray:
    """Return 64 random bits of each pair of numbers."""
    x, y = threefry2x32(key, (high.astype(np.uint32), low))
    return x.astype(np.uint64) << np.uint64(32) | y
