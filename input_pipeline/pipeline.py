"""From a config's input section to numpy batches; the same on any number of workers.

Training: the global stream of order.py, cut into batches of `batch_size` rows; each
process reads only its rows. Evaluation: every example once, in order, padded. Both give
dicts of numpy arrays: what the preprocessing string `pp` leaves of an example, stacked.
"""

import dataclasses
import functools
import os
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import tensorflow as tf
from absl import logging

from input_pipeline import ops, order, sources

_ENDLESS = 2**48
_EVAL_SEED = 0  # random ops in an evaluation do the same thing every time


def hide_accelerators() -> None:
    """Keep TensorFlow off all accelerators: it would take their memory from JAX."""
    for kind in ("GPU", "TPU"):
        tf.config.set_visible_devices([], kind)


@dataclasses.dataclass(frozen=True)
class _Rows:
    """One process's share of each global batch."""

    batch_size: int
    process_index: int
    process_count: int

    def __post_init__(self):
        if self.batch_size < 1 or self.batch_size % self.process_count:
            raise ValueError(
                f"the batch_size must be a positive multiple of the number of processes"
                f", which is {self.process_count}, but it is {self.batch_size}"
            )
        if not 0 <= self.process_index < self.process_count:
            raise ValueError(
                f"process_index must be in 0 to {self.process_count - 1}, but it is "
                f"{self.process_index}"
            )

    @property
    def local_batch_size(self) -> int:
        return self.batch_size // self.process_count

    def positions(self, step: tf.Tensor) -> tf.Tensor:
        return order.local_positions(
            step,
            batch_size=self.batch_size,
            process_index=self.process_index,
            process_count=self.process_count,
        )


Preprocess = Callable[[dict], dict]


@dataclasses.dataclass(frozen=True, eq=False)
class TrainData:
    """The endless stream of one process's training batches; made by `make_train`.

    Each iteration starts at `start_step`; the graph is built at the first.
    """

    source: sources.Source
    preprocess: Preprocess
    rows: _Rows
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

    def from_step(self, step: int) -> "TrainData":
        """The same stream, starting with the batch of `step` (0 is the first)."""
        return dataclasses.replace(self, start_step=step)

    def __iter__(self) -> Iterator[dict[str, np.ndarray]]:
        batches: Any = self._batches.as_numpy_iterator()
        return batches

    @functools.cached_property
    def _batches(self) -> tf.data.Dataset:
        if self.shuffle_buffer_size is None:
            examples = _map(
                self._global_shuffle(), self.preprocess, self.threads, self.source.read
            )
        else:
            raw = self._buffer_shuffle(self.shuffle_buffer_size)
            examples = _map(raw, self.preprocess, self.threads)
        return _batch(examples, self.rows, self.threads, self.prefetch)

    def _global_shuffle(self) -> tf.data.Dataset:
        """Pairs (index, seed) in the order of order.example_at."""

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
    preprocess: Preprocess
    rows: _Rows
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

        def plan(step):
            index = rows.positions(step)
            return index, order.example_seed(0, index, seed=_EVAL_SEED)

        full = size // rows.batch_size
        rest = size % rows.batch_size - rows.process_index * rows.local_batch_size
        real = full * rows.local_batch_size + min(max(rest, 0), rows.local_batch_size)
        pairs = tf.data.Dataset.range(self.steps).map(plan).unbatch().take(real)
        examples = _map(pairs, self.preprocess, self.threads, self.source.read)

        padding = {
            name: tf.zeros(spec.shape, spec.dtype)
            for name, spec in _specs(examples).items()
        }
        missing = self.steps * rows.local_batch_size - real
        padding = tf.data.Dataset.from_tensors((padding, 0.0)).repeat(missing)
        examples = examples.map(lambda features: (features, 1.0)).concatenate(padding)
        examples = examples.map(lambda features, mask: {**features, "_mask": mask})
        return _batch(examples, rows, self.threads, self.prefetch)


def make_train(
    *,
    data: Mapping,
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
      data: the keyword arguments of `sources.open_source`.
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
    rows = _Rows(batch_size, process_index, process_count)
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
    data: Mapping,
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
        rows=_Rows(batch_size, process_index, process_count),
        preprocess=ops.get_preprocess_fn(pp_fn),
        source=sources.open_source(**data),
        threads=_threads(num_parallel_calls),
        prefetch=prefetch,
    )
    return stream, stream.steps


def _threads(num_parallel_calls: int | None) -> int:
    # More than cores, since some wait for the disk.
    return num_parallel_calls or 2 * (os.cpu_count() or 4)


def _map(
    pairs: tf.data.Dataset,
    preprocess: Preprocess,
    threads: int,
    read: Callable = lambda features: features,
) -> tf.data.Dataset:
    """Preprocess pairs (what `read` takes, seed), in order, `threads` at a time."""

    # As it is written, not converted: an error of an op then reads as the op says it.
    @tf.autograph.experimental.do_not_convert
    def one(item, seed):
        features = preprocess({**read(item), "seed": seed})
        return {name: x for name, x in features.items() if name != "seed"}

    return pairs.map(one, num_parallel_calls=threads, deterministic=True)


def _specs(examples: tf.data.Dataset) -> dict[str, tf.TensorSpec]:
    """Shapes and dtypes of the features, which must be such as can be stacked."""
    specs: Any = examples.element_spec
    for name, spec in specs.items():
        if not isinstance(spec, tf.TensorSpec) or spec.dtype == tf.string:
            kind = "a string" if isinstance(spec, tf.TensorSpec) else "no plain tensor"
            raise ValueError(
                f"the feature {name!r} is {kind} after preprocessing, which cannot be "
                'part of a batch: end the preprocessing with keep("image", "labels"), '
                "or whatever it should keep"
            )
        if not spec.shape.is_fully_defined():
            raise ValueError(
                f"the feature {name!r} has the shape {spec.shape} after preprocessing, "
                "which differs between examples: resize or crop it to one size, or "
                "leave it out with keep"
            )
    return specs


def _batch(
    examples: tf.data.Dataset, rows: _Rows, threads: int, prefetch: int
) -> tf.data.Dataset:
    _specs(examples)
    options = tf.data.Options()
    options.deterministic = True
    # As big_vision: one pool of threads, each example on one of them.
    options.threading.private_threadpool_size = threads
    options.threading.max_intra_op_parallelism = 1
    options.experimental_optimization.inject_prefetch = False
    batches = examples.batch(rows.local_batch_size, drop_remainder=True)
    return batches.prefetch(prefetch).with_options(options)
