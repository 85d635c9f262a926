"""Examples that cannot be read or decoded: named, and replaced if that is wished.

TensorFlow's error says what went wrong, but not in which example. So a batch that fails
is made again, example by example, to find the one. With `skip_errors` a batch comes
without the rows that failed, and these are made one by one from other examples: nothing
shifts, so a stream with damaged examples resumes as exactly as any other.
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
"""How many further examples are tried in the place of a damaged one."""
_WARNINGS = 10

Batch = dict[str, np.ndarray]
OpError = tf.errors.OpError  # what a failed op of TensorFlow raises


def batches(
    dataset: tf.data.Dataset, first_step: int, explain: Callable[[int, str], str]
) -> Iterator[Any]:
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


def explain(
    what: str,
    why: str,
    pairs: tf.data.Dataset,
    examples: Callable[[tf.data.Dataset], tf.data.Dataset],
    describe: Callable[[int], str],
    cure: str,
) -> str:
    """One sentence on a batch that failed: which of its examples it is, and why.

    Args:
      what: the batch. why: the reason that came with the failure.
      pairs: (index, chance) of the batch; they are tried one by one.
      examples: makes examples of pairs.
      describe: what to call the example of an index.
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
    """What an error of TensorFlow says, without the names of its graph's nodes."""
    text = re.sub(
        r"\{\{.*?\}\}|\[\[.*?\]\]|\[Op:.*?\](?: name:)?", " ", error.message or ""
    )
    lines = [" ".join(line.split()) for line in text.splitlines()]
    lines = [line for line in lines if line] or [type(error).__name__]
    # Errors of Python are followed by a traceback, those of a tf.function come after
    # its call stack.
    first = lines[-1 if lines[0].startswith("Graph execution error") else 0]
    # Where in a pipeline it was: "... with iterator: Iterator::Root::ParallelMapV2: ".
    first = re.sub(r"^Error in user-defined function.*Iterator::\S*: ", "", first)
    first = first.removeprefix("ValueError: ")  # of a numpy_function
    assertion = re.search(r"assertion failed: (.*)", first)
    if assertion:  # its parts come in brackets
        first = re.sub(r"[\[\]]", "", assertion[1])
    # Outside of a graph it is put in other words.
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
    """Batches without the rows that failed.

    Elements of `pairs` are (item, chance, index); `one(item, chance)` makes an example, and
    `check` is called with the dataset of examples. An element of the result is
    ((chances, indices) of all rows, the numbers of the good rows, their features).

    One such pipeline in a pipeline for each batch costs 3 ms; one for each example
    would be simpler, and would cost 0.3 to 2 ms of each example.
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
        # Always one element, also if no row is good.
        good = good.concatenate(tf.data.Dataset.from_tensors(none)).take(1)
        return good.map(lambda numbers, features: (asked, numbers, features))

    windows = pairs.window(batch_size, drop_remainder=True)
    # Two at a time, so that no thread waits at the end of a batch.
    return windows.interleave(
        batch, cycle_length=2, num_parallel_calls=2, deterministic=True
    )


def first_that_works(
    one: Callable[[Any, Any], Any], candidates: Iterable[tuple[Any, Any]]
) -> tuple[int, Batch | None, list[str]]:
    """`one` of the first (index, chance) for which it works, and which that was.

    None if it works for none; the reasons of all failures come with it.
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
    """A whole batch: `features` at the row numbers `numbers`, and `rows` at theirs."""
    whole = {}
    for name, good in features.items():
        whole[name] = np.empty((batch_size, *good.shape[1:]), good.dtype)
        whole[name][numbers] = good
        for number, row in rows.items():
            whole[name][number] = row[name]
    return whole


class Replaced:
    """How many rows of which batches were replaced, and a warning for the first few."""

    def __init__(self, describe: Callable[[int], str]):
        self._describe = describe
        self._counts: dict[int, int] = {}
        self._named: set[int] = set()

    def note(self, step: int, indices: list[int], reasons: list[str]) -> None:
        """These examples were replaced in the batch of `step`, for these reasons."""
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
        """How many rows of the batches of steps start to stop - 1 were replaced."""
        return sum(n for step, n in self._counts.copy().items() if start <= step < stop)
