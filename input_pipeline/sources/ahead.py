"""Read the examples of a bucket ahead of their use: many at a time, in order.

A read takes tens of milliseconds and little CPU, so hundreds of threads read at once. A
damaged example becomes a value, which a later operation turns into TensorFlow's error:
`skip_errors` can then replace it. Any other failure ends the stream, since another run
would not see it.
"""

import collections
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np
import tensorflow as tf

from input_pipeline.tracing import as_written

IN_FLIGHT = 256  # where no config says it
_CHUNK = 32  # examples that pass from Python to tf.data in one call, at most

Item = dict[str, tf.Tensor]


class Damaged(ValueError):
    """An example that every reader finds damaged; the message is the reason."""


class Ahead:
    """The examples of a source in a bucket, each of them the bytes of one read.

    `items` and `item` return a dict: `index` (int64), `content` (string), and `damage`
    (string), "" or the reason why there is no content.

    Args:
      read: returns the bytes of the example of an index; called by many threads. Raises
        Damaged for a damaged example, and another error if the read failed.
    """

    def __init__(self, read: Callable[[int], bytes]):
        self._read = read
        self._failure: Exception | None = None

    def raise_failure(self) -> None:
        """Raise the error of a failed read, which TensorFlow reports as its own."""
        if self._failure is not None:
            raise self._failure

    def item(self, index: tf.Tensor) -> Item:
        """Return the item of one index, in graph, read when it is asked for."""

        def read(index: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            content, damage = self._content(int(index))
            return np.array(content, object), np.array(damage, object)

        content, damage = tf.numpy_function(read, [index], [tf.string, tf.string])
        item = {"index": index, "content": content, "damage": damage}
        return {name: tf.ensure_shape(x, []) for name, x in item.items()}

    def items(self, pairs: tf.data.Dataset, in_flight: int) -> tf.data.Dataset:
        """Return pairs (item, chance) for pairs (index, chance), in the same order.

        About `in_flight` examples are read or wait in memory at a time.
        """
        chunk = min(_CHUNK, in_flight)
        chunks = pairs.batch(chunk)
        specs: Any = chunks.element_spec
        index_spec, chance_spec = specs
        text = tf.TensorSpec([None], tf.string)
        item_spec = {"index": index_spec, "content": text, "damage": text}

        def generate() -> Iterator[Any]:
            # The iterator of a pass ends with it, and so do its threads.
            pool = ThreadPoolExecutor(in_flight, thread_name_prefix="read ahead")
            try:
                for index, chance, reads in _started(
                    chunks, pool, in_flight // chunk, self._content
                ):
                    content, damage = zip(*(x.result() for x in reads), strict=True)
                    yield (
                        {
                            "index": index,
                            "content": np.array(content, object),
                            "damage": np.array(damage, object),
                        },
                        chance,
                    )
            finally:
                pool.shutdown(wait=False, cancel_futures=True)

        items = tf.data.Dataset.from_generator(
            generate, output_signature=(item_spec, chance_spec)
        )
        return items.unbatch()

    def in_order(self, indices: tf.data.Dataset) -> tf.data.Dataset:
        """Return the items of a dataset of indices (int64), in the same order."""
        pairs = tf.data.Dataset.zip((indices, indices))
        return self.items(pairs, IN_FLIGHT).map(as_written(lambda item, index: item))

    def _content(self, index: int) -> tuple[bytes, bytes]:
        try:
            return self._read(index), b""
        except Damaged as error:
            return b"", str(error).encode()
        except Exception as error:
            self._failure = error
            raise


def _started(
    chunks: tf.data.Dataset,
    pool: ThreadPoolExecutor,
    count: int,
    read: Callable[[int], Any],
) -> Iterator[tuple[np.ndarray, Any, list[Future]]]:
    """Yield (index, chance, futures) of each chunk, with the next `count` begun."""
    waiting: collections.deque = collections.deque()
    for index, chance in chunks.as_numpy_iterator():
        waiting.append((index, chance, [pool.submit(read, i) for i in index.tolist()]))
        if len(waiting) > count:
            yield waiting.popleft()
    yield from waiting


def content_of(item: Item) -> tf.Tensor:
    """Return the content of an item. TensorFlow raises an error if it is damaged."""
    sound = tf.debugging.Assert(tf.equal(item["damage"], ""), [item["damage"]])
    with tf.control_dependencies([sound]):
        return tf.identity(item["content"])
