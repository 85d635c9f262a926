"""The endless stream of training batches, with another example for each damaged one.

A batch is first made without the failed rows, which are then made one by one from other
examples. No position shifts, so a stream with damaged examples resumes as exactly as any
other.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterable, Iterator
from typing import Any, ClassVar

import numpy as np
import tensorflow as tf
from absl import logging

from input_pipeline.stream import batching, damaged
from input_pipeline.stream.train import TrainData
from input_pipeline.tracing import as_written

SPARES = 7
"""The number of further examples tried in place of a damaged one."""
_WARNINGS = 10

Batch = dict[str, np.ndarray]


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


@dataclasses.dataclass(frozen=True, eq=False)
class SkippingTrainData(TrainData):
    """A `TrainData` that replaces examples that cannot be read or decoded."""

    _CURE: ClassVar[str] = (
        "restore it: with a shuffle buffer only decoding errors are skipped"
    )

    replaced: Replaced

    @property
    def element_spec(self) -> dict[str, tuple[tuple[int, ...], np.dtype]]:
        """Shape and dtype of each feature of one example, without the batch."""
        specs: Any = self._batches.element_spec  # (asked, numbers, features)
        return batching.shapes_of_one(specs[-1])

    def skipped(self, start: int, stop: int) -> int:
        """Return how many rows of steps start to stop - 1 hold a replacement.

        Counts this process's rows in the batches that it has made.
        """
        return self.replaced.count(start, stop)

    def __iter__(self) -> Iterator[Batch]:
        batches = damaged.batches(
            self._batches, self.start_step, self._explain, self.source
        )
        for step, (asked, numbers, features) in enumerate(batches, self.start_step):
            if len(numbers) < self.rows.local_batch_size:
                features = self._replace(step, asked, numbers, features)
            yield features

    @functools.cached_property
    def _batches(self) -> tf.data.Dataset:
        good = _good_rows(
            self._fetched(self._pairs()),
            self._index_of,
            batching.example_fn(self.preprocess, self._read),
            batching.stackable_specs,
            self.rows.local_batch_size,
            self.threads,
        )
        return batching.run_ahead(good, self.threads, self.prefetch)

    @functools.cached_property
    def _one_again(self) -> Callable:
        """The function (index, chance) -> example, outside of any dataset."""
        one = batching.example_fn(self.preprocess, self.source.read)
        return tf.function(one, autograph=False)

    def _replace(self, step: int, asked: Any, numbers: Any, features: Any) -> Any:
        """Return the batch of `step` with other examples in its damaged rows.

        A damaged row takes the first of the next positions whose example can be read,
        with that position's chance. A shuffle buffer has no positions: the row takes
        the first of the next indices that can be read, with the row's own chance.
        """
        chances, indices = asked

        def pair(index: Any, chances: Any, row: Any) -> tuple[tf.Tensor, Any]:
            chance = {name: tf.constant(x[row]) for name, x in chances.items()}
            return tf.constant(index), chance

        rows, damages, reasons = {}, [], []
        for row in np.setdiff1d(np.arange(len(indices)), numbers):
            spares = np.arange(1, 1 + SPARES)
            if self.shuffle_buffer_size is None:
                position = self.rows.positions(tf.constant(step, tf.int64))[row]
                others, theirs = self._pairs_at(position + spares)
                spares = [pair(i, theirs, n) for n, i in enumerate(others.numpy())]
            else:
                others = (indices[row] + spares) % len(self.source)
                spares = [pair(i, chances, row) for i in others]
            tried, rows[row], why = _first_that_works(
                self._one_again, [pair(indices[row], chances, row), *spares]
            )
            damaged.raise_failure(self.source)
            if rows[row] is None:
                raise ValueError(
                    f"{self.source.describe(int(indices[row]))} cannot be read ({why[0]}), "
                    f"and neither can the {SPARES} that would take its place"
                )
            if tried:  # 0: the example could be read this time
                damages.append(int(indices[row]))
                reasons.append(why[0])
        self.replaced.note(step, damages, reasons)
        return _fill(len(indices), numbers, features, rows)


def skip_errors(data: TrainData) -> SkippingTrainData:
    """Return the same stream with damaged examples replaced."""
    fields = {f.name: getattr(data, f.name) for f in dataclasses.fields(data)}
    return SkippingTrainData(**fields, replaced=Replaced(data.source.describe))


def _good_rows(
    pairs: tf.data.Dataset,
    index_of: Callable[[Any], Any],
    one: Callable[[Any, Any], dict],
    check: Callable[[tf.data.Dataset], Any],
    batch_size: int,
    threads: int,
) -> tf.data.Dataset:
    """Return batches without the rows that failed.

    Elements of `pairs` are (item, chance). `index_of(item)` is the example's index,
    `one(item, chance)` makes the example, and `check` is called with the dataset of
    examples. An element of the result is ((chances, indices) of all rows, the numbers
    of the good rows, their features).

    A nested pipeline per batch costs 3 ms a batch. One per example would be simpler,
    but would cost 0.3 to 2 ms an example.
    """

    @as_written
    def numbered(number, columns):
        item, chance = columns
        return number, one(item, chance)

    @as_written
    def batch(*windows):
        window = tf.data.Dataset.zip(windows)
        rows = window.map(as_written(lambda item, chance: (chance, index_of(item))))
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


def _first_that_works(
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
            reasons.append(damaged.reason(error))
        else:
            return number, {k: x.numpy() for k, x in features.items()}, reasons
    return len(reasons), None, reasons


def _fill(batch_size: int, numbers: np.ndarray, features: Batch, rows: dict) -> Batch:
    """Return a whole batch: `features` in the rows `numbers`, `rows` by row number."""
    whole = {}
    for name, good in features.items():
        whole[name] = np.empty((batch_size, *good.shape[1:]), good.dtype)
        whole[name][numbers] = good
        for number, row in rows.items():
            whole[name][number] = row[name]
    return whole
