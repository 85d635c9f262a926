"""Examples that cannot be read or decoded: named, and replaced if that is wished.

TensorFlow's error says what went wrong, but not in which example. So a batch that fails
is made again, example by example, to find the one. `first_good` takes others in the
place of damaged examples and marks such rows; nothing shifts, so a stream with damaged
examples resumes as exactly as any other.
"""

import itertools
import re
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import tensorflow as tf
from absl import logging

REPLACED = "_skipped"
"""The feature that marks rows: the index of the example that was replaced, or -1."""
SPARES = 7
"""How many further examples are tried in the place of a damaged one."""
_WARNINGS = 10


def first_good(
    pairs: tf.data.Dataset,
    one: Callable[[Any, Any], dict],
    spares: Callable[..., tf.data.Dataset],
    threads: int,
) -> tf.data.Dataset:
    """`one` of each pair, or of the first of its spares for which it works.

    Elements of `pairs` are (item, seed, index, place); `spares(place, item, seed)` gives
    the pairs (item, seed) to try instead, in order. It costs 0.04 ms an example.
    """

    @tf.autograph.experimental.do_not_convert
    def first(item, seed, index, place):
        own = tf.data.Dataset.from_tensors((item, seed))
        tried = own.concatenate(spares(place, item, seed)).enumerate()

        @tf.autograph.experimental.do_not_convert
        def attempt(number, pair):
            mark = tf.where(number > 0, index, tf.constant(-1, tf.int64))
            return {**one(*pair), REPLACED: mark}

        return tried.map(attempt).ignore_errors().take(1).get_single_element()

    return pairs.map(first, num_parallel_calls=threads, deterministic=True)


def first_failure(examples: tf.data.Dataset) -> tuple[int, str] | None:
    """The number of the first element that raises, and the reason; None if none does."""
    iterator = iter(examples)
    for number in itertools.count():
        try:
            next(iterator)
        except StopIteration:
            return None
        except tf.errors.OpError as error:
            return number, reason(error)
    raise AssertionError("unreachable")


def explain(
    what: str,
    why: str,
    pairs: tf.data.Dataset,
    examples: Callable[[tf.data.Dataset], tf.data.Dataset],
    plain: Callable[[tf.data.Dataset], tf.data.Dataset],
    describe: Callable[[int], str],
    cure: str,
) -> str:
    """One sentence on a batch that failed: which of its examples it is, and why.

    Args:
      what: the batch. why: the reason that came with the failure.
      pairs: (index, ...) of the batch; they are tried one by one.
      examples: makes examples of pairs, as the batch was made.
      plain: the same of (index, seed), without spares.
      describe: what to call the example of an index.
      cure: what to do.
    """
    failure = first_failure(examples(pairs))
    if failure is None:
        return (
            f"{what} could not be made ({why}), but each of its examples can when tried "
            "again: the disk or the memory may be failing"
        )
    number, why = failure
    pair = pairs.skip(number).take(1).map(lambda *columns: columns[:2])
    index = int(next(iter(pair))[0])
    _, why = first_failure(plain(pair)) or failure
    return f"{describe(index)} cannot be read ({why}); {cure}"


def reason(error: tf.errors.OpError) -> str:
    """What an error of TensorFlow says, without the names of its graph's nodes."""
    text = re.sub(r"\{\{.*?\}\}|\[\[.*?\]\]|\[Op:.*?\]", " ", error.message or "")
    lines = [" ".join(line.split()) for line in text.splitlines()]
    # Errors of Python come with a traceback, those of a graph with its call stack.
    first = next((line for line in lines if line), type(error).__name__)
    return first.removeprefix("assertion failed: ").rstrip(" :;.")


def batches(
    dataset: tf.data.Dataset, first_step: int, explain: Callable[[int, str], str]
) -> Iterator[dict[str, np.ndarray]]:
    """The batches of a dataset as numpy arrays, the first of which is `first_step`'s.

    Raises:
      ValueError: an example failed: `explain(step, reason)`.
    """
    iterator: Any = dataset.as_numpy_iterator()
    for step in itertools.count(first_step):
        try:
            batch = next(iterator)
        except StopIteration:
            return
        except tf.errors.OpError as error:
            raise ValueError(explain(step, reason(error))) from error
        yield batch


class Replaced:
    """How many rows of which batches were replaced, and a warning for the first few."""

    def __init__(self, describe: Callable[[int], str]):
        self._describe = describe
        self._counts: dict[int, int] = {}
        self._named: set[int] = set()

    def take(self, step: int, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """The batch of `step` without its marks, which are counted."""
        marks = batch[REPLACED]
        replaced = marks[marks >= 0]
        if len(replaced):
            self._counts[step] = len(replaced)
        for index in map(int, replaced):
            if index not in self._named and len(self._named) < _WARNINGS:
                self._named.add(index)
                last = "; no more are named" if len(self._named) == _WARNINGS else ""
                logging.warning(
                    "skip_errors: %s cannot be read and is replaced by the next example "
                    "of the order%s",
                    self._describe(index),
                    last,
                )
        return {name: x for name, x in batch.items() if name != REPLACED}

    def count(self, start: int, stop: int) -> int:
        """How many rows of the batches of steps start to stop - 1 were replaced."""
        return sum(n for step, n in self._counts.copy().items() if start <= step < stop)
