"""From a config's input section to numpy batches; the same on any number of workers.

Training: the global stream of order.py, cut into batches of `batch_size` rows; each
process reads only its rows. Evaluation: every example once, in order, padded. Both give
dicts of numpy arrays: what the preprocessing string `pp` leaves of an example, stacked.
"""

import dataclasses
import functools
import os
from collections.abc import Iterator
from typing import Any

import numpy as np
import tensorflow as tf
from absl import logging

from input_pipeline import batching, ops, order, sources

_ENDLESS = 2**48
_EVAL_SEED = 0  # random ops in an evaluation do the same thing every time


def hide_accelerators() -> None:
    """Keep TensorFlow off all accelerators: it would take their memory from JAX."""
    for kind in ("GPU", "TPU"):
        tf.config.set_visible_devices([], kind)


@dataclasses.dataclass(frozen=True, eq=False)
class TrainData:
    """The endless stream of one process's training batches; made by `make_train`.

    Each iteration starts at `start_step`; the graph is built at the first.
    """

    source: sources.Source
    preprocess: batching.Preprocess
    rows: batching.Rows
    seed: int
    start_step: int
    shuffle_buffer_size: int | None
    cache_raw: bool
    threads: int
    prefetch: int

    @property
    def total_examples(self) -> int:
        """The number of examples of an epoch, over all processes."""
        return len(self.source)

    @property
    def class_names(self) -> tuple[str, ...] | None:
        """The names of the classes, if the source has them."""
        return self.source.class_names

    @property
    def num_classes(self) -> int | None:
        """The number of classes, if the source knows it."""
        return self.source.num_classes

    @property
    def element_spec(self) -> dict[str, tuple[tuple[int, ...], np.dtype]]:
        """Shape and dtype of each feature of one example, without the batch."""
        specs: Any = self._batches.element_spec
        return {
            name: (tuple(spec.shape[1:]), np.dtype(spec.dtype.as_numpy_dtype))
            for name, spec in specs.items()
        }

    def from_step(self, step: int) -> "TrainData":
        """The same stream, starting with the batch of `step` (0 is the first)."""
        return dataclasses.replace(self, start_step=step)

    def __iter__(self) -> Iterator[dict[str, np.ndarray]]:
        batches: Any = self._batches.as_numpy_iterator()
        return batches

    @functools.cached_property
    def _batches(self) -> tf.data.Dataset:
        if self.shuffle_buffer_size is None:
            examples = batching.map_examples(
                self._global_shuffle(), self.preprocess, self.threads, self.source.read
            )
        else:
            raw = self._buffer_shuffle(self.shuffle_buffer_size)
            examples = batching.map_examples(raw, self.preprocess, self.threads)
        return batching.batches(examples, self.rows, self.threads, self.prefetch)

    def _global_shuffle(self) -> tf.data.Dataset:
        """Pairs (index, seed) in the order of order.example_at."""

        @tf.autograph.experimental.do_not_convert
        def plan(step):
            epoch, index = order.example_at(
                self.rows.positions(step), seed=self.seed, size=len(self.source)
            )
            return index, order.example_seed(epoch, index, seed=self.seed)

        # A whole batch is planned at once: a plan is a hundred tiny operations.
        return tf.data.Dataset.range(self.start_step, _ENDLESS).map(plan).unbatch()

    def _buffer_shuffle(self, buffer_size: int) -> tf.data.Dataset:
        """Pairs (raw example, seed), by big_vision's read, cache, shuffle, repeat."""
        size, rows = len(self.source), self.rows
        start = size * rows.process_index // rows.process_count
        stop = size * (rows.process_index + 1) // rows.process_count
        if start == stop:
            raise ValueError(
                f"{size} examples are too few for {rows.process_count} processes with "
                "shuffle_buffer_size, which gives each its own: leave it out"
            )
        raw = self.source.sequential(start, stop)
        if self.cache_raw:
            raw = raw.cache()
        # A resumed run must not begin with the examples that the first began with.
        entropy = np.random.SeedSequence([self.seed % 2**64, self.start_step])
        # Shuffled before repeated, so that each epoch has every example once.
        raw = raw.shuffle(buffer_size, seed=int(entropy.generate_state(1)[0])).repeat()
        first = self.start_step * rows.local_batch_size

        def with_seed(count, features):
            epoch = (first + count) // (stop - start)
            index = tf.cast(features["_id"], tf.int64)
            return features, order.example_seed(epoch, index, seed=self.seed)

        return raw.enumerate().map(with_seed, num_parallel_calls=2, deterministic=True)


@dataclasses.dataclass(frozen=True, eq=False)
class EvalData:
    """One process's evaluation batches, from the first at each iteration."""

    source: sources.Source
    preprocess: batching.Preprocess
    rows: batching.Rows
    threads: int
    prefetch: int

    @property
    def total_examples(self) -> int:
        """The number of examples, over all processes."""
        return len(self.source)

    @property
    def class_names(self) -> tuple[str, ...] | None:
        """The names of the classes, if the source has them."""
        return self.source.class_names

    @property
    def num_classes(self) -> int | None:
        """The number of classes, if the source knows it."""
        return self.source.num_classes

    @property
    def steps(self) -> int:
        """The number of batches of one pass, the same in every process."""
        return -(-len(self.source) // self.rows.batch_size)

    def __iter__(self) -> Iterator[dict[str, np.ndarray]]:
        batches: Any = self._batches.as_numpy_iterator()
        return batches

    @functools.cached_property
    def _batches(self) -> tf.data.Dataset:
        rows, size = self.rows, len(self.source)

        @tf.autograph.experimental.do_not_convert
        def plan(step):
            index = rows.positions(step)
            return index, order.example_seed(0, index, seed=_EVAL_SEED)

        full = size // rows.batch_size
        rest = size % rows.batch_size - rows.process_index * rows.local_batch_size
        real = full * rows.local_batch_size + min(max(rest, 0), rows.local_batch_size)
        pairs = tf.data.Dataset.range(self.steps).map(plan).unbatch().take(real)
        examples = batching.map_examples(
            pairs, self.preprocess, self.threads, self.source.read
        )

        padding = {
            name: tf.zeros(spec.shape, spec.dtype)
            for name, spec in batching.stackable_specs(examples).items()
        }
        missing = self.steps * rows.local_batch_size - real
        padding = tf.data.Dataset.from_tensors((padding, 0.0)).repeat(missing)
        examples = examples.map(lambda features: (features, 1.0)).concatenate(padding)
        examples = examples.map(lambda features, mask: {**features, "_mask": mask})
        return batching.batches(examples, rows, self.threads, self.prefetch)


def make_train(
    *,
    data: Any,
    batch_size: int,
    seed: int,
    pp: str = "",
    start_step: int = 0,
    shuffle_buffer_size: int | None = None,
    cache_raw: bool = False,
    process_index: int = 0,
    process_count: int = 1,
    num_parallel_calls: int | None = None,
    prefetch: int = 2,
) -> tuple[TrainData, int]:
    """The training batches of one process, and the number of examples of an epoch.

    Args:
      data: the keyword arguments of `sources.open_source`, a dict or ConfigDict.
      batch_size: rows of a global batch; row r of step s is position
        s * batch_size + r of the global stream.
      seed: of orders and augmentations.
      pp: the preprocessing of one example, in the language of `ops`.
      start_step: the step whose batch comes first; see also `TrainData.from_step`.
      shuffle_buffer_size: None shuffles globally. A number selects big_vision's way:
        each process reads its own part in order through a shuffle buffer of so many
        undecoded examples; such a stream cannot go on where it was.
      cache_raw: with shuffle_buffer_size, keep all undecoded examples in memory.
      process_index: which process's rows these are, of `process_count`.
      process_count: how many processes share each global batch, in equal parts.
      num_parallel_calls: examples worked on at a time; None is twice the CPU cores.
      prefetch: batches made ahead.

    Raises:
      DataNotFound: the data set is not on this machine.
      ValueError: unknown names, damaged files, or a batch_size that does not divide.
    """
    hide_accelerators()
    rows = batching.Rows(batch_size, process_index, process_count)
    preprocess = ops.get_preprocess_fn(pp)
    if shuffle_buffer_size is not None:
        logging.warning(
            "shuffle_buffer_size=%d reads and shuffles as big_vision does, so a "
            "resumed run sees other batches than an uninterrupted one: leave it out for "
            "a global shuffle that resumes to the bit",
            shuffle_buffer_size,
        )
    elif cache_raw:
        logging.warning(
            "cache_raw has no effect on the global shuffle, which reads any example at "
            "any time; the operating system keeps in memory what fits"
        )
    stream = TrainData(
        source=sources.open_source(**data),
        preprocess=preprocess,
        rows=rows,
        seed=seed,
        start_step=start_step,
        shuffle_buffer_size=shuffle_buffer_size,
        cache_raw=cache_raw,
        threads=_threads(num_parallel_calls),
        prefetch=prefetch,
    )
    return stream, stream.total_examples


def make_eval(
    *,
    data: Any,
    batch_size: int,
    pp_fn: str = "",
    process_index: int = 0,
    process_count: int = 1,
    num_parallel_calls: int | None = None,
    prefetch: int = 2,
) -> tuple[EvalData, int]:
    """The evaluation batches of one process, and how many there are.

    Row r of step s is example s * batch_size + r. The last batch is filled up with
    zeros; `_mask`, float32, is 1 for an example and 0 for what fills up. The arguments
    and errors are those of `make_train`; `pp_fn` is its `pp`.
    """
    hide_accelerators()
    stream = EvalData(
        rows=batching.Rows(batch_size, process_index, process_count),
        preprocess=ops.get_preprocess_fn(pp_fn),
        source=sources.open_source(**data),
        threads=_threads(num_parallel_calls),
        prefetch=prefetch,
    )
    return stream, stream.steps


def _threads(num_parallel_calls: int | None) -> int:
    # More than cores, since some wait for the disk.
    return num_parallel_calls or 2 * (os.cpu_count() or 4)
