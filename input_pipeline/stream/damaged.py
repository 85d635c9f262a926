"""Name examples that cannot be read or decoded, and replace them on request.

TensorFlow's error gives the reason but not the example, so a failed batch is made
again, example by example, to find it. With `skip_errors`, a batch is first made without
the failed rows, which are then made one by one from other examples. No position shifts,
so a stream with damaged examples resumes as exactly as any other.
"""

import itertools
import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
import tensorflow as tf
from absl import logging

from input_pipeline.tracing import as_written

SPARES = 7
"""The number of further examples tried in place of a damaged one."""
_WARNINGS = 10

Batch = dict[str, np.ndarray]
OpError = tf.errors.OpError  # raised by a failed TensorFlow op


def batches(
    dataset: tf.data.Dataset, first_step: int, explain: Callable[[int, str], str]
) -> Iterator[Any]:
    """Yield the batches of a dataset as numpy arrays, from step `first_step` on.

    Raises:
      ValueError: an example failed; the message is `explain(step, reason)`.
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


def explain(
    what: str,
    why: str,
    pairs: tf.data.Dataset,
    examples: Callable[[tf.data.Dataset], tf.data.Dataset],
    describe: Callable[[int], str],
    cure: str,
) -> str:
    """Return one sentence on a failed batch: which example failed, and why.

    Args:
      what: the name of the batch.
      why: the reason that came with the failure.
      pairs: (index, chance) of the batch's examples, which are tried one by one.
      examples: makes examples from pairs.
      describe: names the example of an index.
      cure: what to do.
    """
    iterator = iter(examples(pairs))
    for number in itertools.count():
        try:
            next(iterator)
        except StopIteration:
            return (
                f"{what} could not be made ({why}), but each of its examples can when "
                "tried again: the disk or the memory may be failing"
            )
        except tf.errors.OpError as error:
            index = int(next(iter(pairs.skip(number)))[0])
            return f"{describe(index)} cannot be read ({reason(error)}); {cure}"
    raise AssertionError("unreachable")


def reason(error: tf.errors.OpError) -> str:
    """Return the message of a TensorFlow error without the names of graph nodes."""
    text = re.sub(
        r"\{\{.*?\}\}|\[\[.*?\]\]|\[Op:.*?\](?: name:)?", " ", error.message or ""
    )
    lines = [" ".join(line.split()) for line in text.splitlines()]
    lines = [line for line in lines if line] or [type(error).__name__]
    # A Python error is followed by a traceback; an error in a tf.function comes after
    # its call stack.
    first = lines[-1 if lines[0].startswith("Graph execution error") else 0]
    # The place in the pipeline: "... with iterator: Iterator::Root::ParallelMapV2: ".
    first = re.sub(r"^Error in user-defined function.*Iterator::\S*: ", "", first)
    first = first.removeprefix("ValueError: ")  # of a numpy_function
    assertion = re.search(r"assertion failed: (.*)", first)
    if assertion:  # its parts come in brackets
        first = re.sub(r"[\[\]]", "", assertion[1])
    # TensorFlow words the same assertion differently outside of a graph.
    first = re.sub(
        r"^Expected '.*' to be true\. Summarized data: b'(.*)'$", r"\1", first
    )
    return first.rstrip(" :;.")


# --------------------------------------------------------------------- skip_errors


def good_rows(
    pairs: tf.data.Dataset,
    one: Callable[[Any, Any], dict],
    check: Callable[[tf.data.Dataset], Any],
    batch_size: int,
    threads: int,
) -> tf.data.Dataset:
    """Return batches without the rows that failed.

    Elements of `pairs` are (item, chance, index). `one(item, chance)` makes an example,
    and `check` is called with the dataset of examples. An element of the result is
    ((chances, indices) of all rows, the numbers of the good rows, their features).

    A nested pipeline per batch costs 3 ms a batch. One per example would be simpler,
    but would cost 0.3 to 2 ms an example.
    """

    @as_written
    def numbered(number, columns):
        item, chance, _ = columns
        return number, one(item, chance)

    @as_written
    def batch(*windows):
        window = tf.data.Dataset.zip(windows)
        rows = window.map(lambda item, chance, index: (chance, index))
        asked = rows.batch(batch_size).get_single_element()
        examples = window.enumerate().map(
            numbered, num_parallel_calls=threads, deterministic=True
        )
        check(examples.map(lambda number, features: features))
        none = tf.nest.map_structure(
            lambda spec: tf.zeros([0, *spec.shape], spec.dtype), examples.element_spec
        )
        good = examples.ignore_errors().batch(batch_size)
        # Always one element, even if no row is good.
        good = good.concatenate(tf.data.Dataset.from_tensors(none)).take(1)
        return good.map(lambda numbers, features: (asked, numbers, features))

    windows = pairs.window(batch_size, drop_remainder=True)
    # Two batches at a time, so that no thread waits at the end of a batch.
    return windows.interleave(
        batch, cycle_length=2, num_parallel_calls=2, deterministic=True
    )


def first_that_works(
    one: Callable[[Any, Any], Any], candidates: Iterable[tuple[Any, Any]]
) -> tuple[int, Batch | None, list[str]]:
    """Return `one` of the first candidate that works, as (number, example, reasons).

    The example is None if none works. The reasons are those of all failures.
    """
    reasons = []
    for number, (index, seed) in enumerate(candidates):
        try:
            features = one(index, seed)
        except tf.errors.OpError as error:
            reasons.append(reason(error))
        else:
            return number, {k: x.numpy() for k, x in features.items()}, reasons
    return len(reasons), None, reasons


def fill(batch_size: int, numbers: np.ndarray, features: Batch, rows: dict) -> Batch:
    """Return a whole batch: `features` in the rows `numbers`, `rows` by row number."""
    whole = {}
    for name, good in features.items():
        whole[name] = np.empty((batch_size, *good.shape[1:]), good.dtype)
        whole[name][numbers] = good
        for number, row in rows.items():
            whole[name][number] = row[name]
    return whole


class Replaced:
    """The number of replaced rows of each batch, with a warning for the first few."""

    def __init__(self, describe: Callable[[int], str]):
        self._describe = describe
        self._counts: dict[int, int] = {}
        self._named: set[int] = set()

    def note(self, step: int, indices: list[int], reasons: list[str]) -> None:
        """Record the examples replaced in the batch of `step`, and the reasons."""
        self._counts[step] = len(indices)
        for index, why in zip(indices, reasons, strict=True):
            if index not in self._named and len(self._named) < _WARNINGS:
                self._named.add(index)
                last = "; no more are named" if len(self._named) == _WARNINGS else ""
                logging.warning(
                    "skip_errors: %s cannot be read (%s): the next example of the order "
                    "takes its place%s",
                    self._describe(index),
                    why,
                    last,
                )

    def count(self, start: int, stop: int) -> int:
        """Return how many rows of steps start to stop - 1 were replaced."""
        return sum(n for step, n in self._counts.copy().items() if start <= step < stop)
