"""An order with every class equally often, as pure functions in the graph.

The stream is cut into blocks of as many positions as there are classes. Each block has
one example of each class, in random order; block b has the b-th of the class's own
shuffled stream, in which all its examples come before one comes again. Position p of a
class of n examples in block b is thus visit b // n of that example. Like `order`, all
this depends on (seed, position) and the labels alone.
"""

import numpy as np
import tensorflow as tf

from input_pipeline.stream import order


class Balanced:
    """The order for a data set with these labels, int64[n]."""

    def __init__(self, labels: np.ndarray, seed: int):
        self._labels, self._seed = labels, seed
        _, counts = np.unique(labels, return_counts=True)
        # Eagerly, whoever asks first: a graph then refers to them.
        with tf.init_scope(), tf.device("CPU"):
            self._members = tf.constant(np.argsort(labels, kind="stable"), tf.int64)
            self._starts = tf.constant(np.cumsum(counts) - counts, tf.int64)
            self._counts = tf.constant(counts, tf.int64)
        self._classes = len(counts)  # that occur

    def example_at(self, position) -> tuple[tf.Tensor, tf.Tensor]:
        """Return (visit, index) of positions, each an int64[n].

        The visit counts how often the example came before; `order.example_seed` of both
        is its seed.
        """
        position = tf.convert_to_tensor(position, tf.int64)
        block = tf.math.floordiv(position, self._classes)
        chosen = order.shuffled(
            tf.math.floormod(position, self._classes),
            order.CLASSES,
            (block, tf.zeros_like(block)),
            seed=self._seed,
            size=tf.fill(tf.shape(block), tf.constant(self._classes, tf.int64)),
        )
        count = tf.gather(self._counts, chosen)
        visit = tf.math.floordiv(block, count)
        place = order.shuffled(
            tf.math.floormod(block, count),
            order.MEMBERS,
            (visit, chosen),
            seed=self._seed,
            size=count,
        )
        index = tf.gather(self._members, tf.gather(self._starts, chosen) + place)
        return visit, index

    def span(self, visit: int, index: int) -> tuple[int, int]:
        """Return the range of positions in which example `index` has this visit."""
        count = int(np.sum(self._labels == self._labels[index])) * self._classes
        return visit * count, (visit + 1) * count
