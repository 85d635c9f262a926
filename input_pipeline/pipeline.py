"""From a config's input section to numpy batches; the same on any number of workers.

Training: the global stream of order.py, cut into batches of `batch_size` rows; each
process reads only its rows. Evaluation: every example once, in order, padded. Both give
dicts of numpy arrays: what the preprocessing string `pp` leaves of an example, stacked.
"""

import dataclasses
import functools
import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import tensorflow as tf
from absl import logging

from input_pipeline import ops, sources
from input_pipeline.sources import relabel
from input_pipeline.stream import batching, damaged, memory, order
from input_pipeline.tracing import as_written

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
    preprocess: ops.Preprocess
    rows: batching.Rows
    seed: int
    start_step: int
    shuffle_buffer_size: int | None
    cache_raw: bool
    skip_errors: bool
    threads: int
    prefetch: int
    replaced: damaged.Replaced

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
            for name, spec in (specs[-1] if self.skip_errors else specs).items()
        }

    def skipped(self, start: int, stop: int) -> int:
        """How many rows of steps start to stop - 1 hold another example than they should.

        Of this process's rows, and of batches that it has made; see `skip_errors`.
        """
        return self.replaced.count(start, stop)

    def from_step(self, step: int) -> "TrainData":
        """The same stream, starting with the batch of `step` (0 is the first)."""
        return dataclasses.replace(self, start_step=step)

    def labelled_as(self, class_names: Sequence[str]) -> "TrainData":
        """The same stream with the labels of its classes in another order.

        Raises relabel.OtherClasses if `class_names` are not its classes.
        """
        source = relabel.reordered(self.source, class_names)
        return dataclasses.replace(self, source=source)

    def __iter__(self) -> Iterator[dict[str, np.ndarray]]:
        batches = damaged.batches(self._batches, self.start_step, self._explain)
        if not self.skip_errors:
            yield from batches
        for step, (asked, numbers, features) in enumerate(batches, self.start_step):
            if len(numbers) < self.rows.local_batch_size:
                features = self._replace(step, asked, numbers, features)
            yield features

    @functools.cached_property
    def _batches(self) -> tf.data.Dataset:
        if not self.skip_errors:
            examples = self._examples(self._pairs())
            return batching.batches(examples, self.rows, self.threads, self.prefetch)
        good = damaged.good_rows(
            self._pairs(),
            batching.example_fn(self.preprocess, self._read),
            batching.stackable_specs,
            self.rows.local_batch_size,
            self.threads,
        )
        return batching.run_ahead(good, self.threads, self.prefetch)

    def _pairs(self) -> tf.data.Dataset:
        """Pairs (what to read or what was read, chance), in the order of the stream.

        With skip_errors the example's index is a third column.
        """
        if self.shuffle_buffer_size is None:
            return self._global_shuffle()
        return self._buffer_shuffle(self.shuffle_buffer_size)

    def _examples(self, pairs: tf.data.Dataset) -> tf.data.Dataset:
        return batching.map_examples(pairs, self.preprocess, self.threads, self._read)

    def _read(self, item: Any) -> dict:
        if self.shuffle_buffer_size is None:
            return self.source.read(item)
        return self.source.finish(item)

    def _fate(self, positions: tf.Tensor) -> tuple[tf.Tensor, dict[str, tf.Tensor]]:
        """(index, chance) of each position."""
        epoch, index = order.example_at(
            positions, seed=self.seed, size=len(self.source)
        )
        step = tf.math.floordiv(positions, self.rows.batch_size)
        return index, self._chance(epoch, index, step)

    def _chance(self, epoch: Any, index: Any, step: Any) -> dict[str, tf.Tensor]:
        seed = order.example_seed(epoch, index, seed=self.seed)
        batch_seed = order.batch_seed(step, seed=self.seed)
        epoch, index = (
            tf.broadcast_to(tf.cast(x, tf.int64), tf.shape(seed)[:-1])
            for x in (epoch, index)
        )
        return batching.chances(self.preprocess, seed, batch_seed, epoch, index)

    def _global_shuffle(self) -> tf.data.Dataset:
        """Pairs (index, chance) in the order of order.example_at."""

        @as_written
        def plan(step):
            index, chance = self._fate(self.rows.positions(step))
            return (index, chance, index) if self.skip_errors else (index, chance)

        # A whole batch is planned at once: a plan is a hundred tiny operations.
        return tf.data.Dataset.range(self.start_step, _ENDLESS).map(plan).unbatch()

    @functools.cached_property
    def _one_again(self) -> Callable:
        """(index, chance) -> the example, outside of any dataset."""
        one = batching.example_fn(self.preprocess, self.source.read)
        return tf.function(one, autograph=False)

    def _replace(self, step: int, asked: Any, numbers: Any, features: Any) -> Any:
        """The batch of `step` with other examples in its damaged rows.

        The example of the first of the next positions that can be read, as it is there;
        with a shuffle buffer, which has no positions, that of the next index, with what
        chance decided for the row.
        """
        chances, indices = asked

        def pair(index: Any, chances: Any, row: Any) -> tuple[tf.Tensor, Any]:
            chance = {name: tf.constant(x[row]) for name, x in chances.items()}
            return tf.constant(index), chance

        rows, damages, reasons = {}, [], []
        for row in np.setdiff1d(np.arange(len(indices)), numbers):
            spares = np.arange(1, 1 + damaged.SPARES)
            if self.shuffle_buffer_size is None:
                position = self.rows.positions(tf.constant(step, tf.int64))[row]
                others, fates = self._fate(position + spares)
                spares = [pair(i, fates, n) for n, i in enumerate(others.numpy())]
            else:
                others = (indices[row] + spares) % len(self.source)
                spares = [pair(i, chances, row) for i in others]
            tried, rows[row], why = damaged.first_that_works(
                self._one_again, [pair(indices[row], chances, row), *spares]
            )
            if rows[row] is None:
                raise ValueError(
                    f"{self.source.describe(int(indices[row]))} cannot be read ({why[0]}), "
                    f"and neither can the {damaged.SPARES} that would take its place"
                )
            if tried:  # else it could be read this time
                damages.append(int(indices[row]))
                reasons.append(why[0])
        self.replaced.note(step, damages, reasons)
        return damaged.fill(len(indices), numbers, features, rows)

    def _explain(self, step: int, why: str) -> str:
        """The error of a batch that failed: the example that did it, and what to do."""
        again = dataclasses.replace(
            self, start_step=step, shuffle_buffer_size=None, skip_errors=False
        )
        if self.shuffle_buffer_size is None:
            pairs = again._pairs().take(self.rows.local_batch_size)
        else:
            # Nobody knows what the buffer held: look through this process's part.
            pairs = tf.data.Dataset.range(*self._part).map(
                as_written(lambda index: (index, self._chance(0, index, step)))
            )
        cure = "set skip_errors=True in input to take the next example in its place"
        if self.skip_errors:
            cure = "restore it: a shuffle buffer needs each, and skips in decoding only"
        return damaged.explain(
            f"the training batch of step {step}",
            why,
            pairs,
            again._examples,
            self.source.describe,
            cure,
        )

    @property
    def _part(self) -> tuple[int, int]:
        """First and last example (and one) of this process with a shuffle buffer."""
        size, rows = len(self.source), self.rows
        start = size * rows.process_index // rows.process_count
        stop = size * (rows.process_index + 1) // rows.process_count
        if start == stop:
            raise ValueError(
                f"{size} examples are too few for {rows.process_count} processes with "
                "shuffle_buffer_size, which gives each its own: leave it out"
            )
        return start, stop

    def _buffer_shuffle(self, buffer_size: int) -> tf.data.Dataset:
        """Pairs (raw example, chance), by big_vision's read, cache, shuffle, repeat."""
        start, stop = self._part
        raw = self.source.sequential(start, stop)
        if self.cache_raw:
            raw = raw.cache()
        # A resumed run must not begin with the examples that the first began with.
        entropy = np.random.SeedSequence([self.seed % 2**64, self.start_step])
        # Shuffled before repeated, so that each epoch has every example once.
        buffer_size = min(buffer_size, stop - start)  # it is allocated at once
        raw = raw.shuffle(buffer_size, seed=int(entropy.generate_state(1)[0])).repeat()
        first = self.start_step * self.rows.local_batch_size

        @as_written
        def with_chance(count, features):
            epoch = (first + count) // (stop - start)
            index = tf.cast(features["_id"], tf.int64)
            step = self.start_step + count // self.rows.local_batch_size
            chance = self._chance(epoch, index, step)
            return (features, chance, index) if self.skip_errors else (features, chance)

        pairs = raw.enumerate()
        return pairs.map(with_chance, num_parallel_calls=2, deterministic=True)


@dataclasses.dataclass(frozen=True, eq=False)
class EvalData:
    """One process's evaluation batches, from the first at each iteration."""

    source: sources.Source
    preprocess: ops.Preprocess
    rows: batching.Rows
    threads: int
    prefetch: int
    notices: tuple[str, ...] = ()  # of how the data set was read, and labels mapped

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
        return damaged.batches(self._batches, 0, self._explain)

    @functools.cached_property
    def _batches(self) -> tf.data.Dataset:
        rows, size = self.rows, len(self.source)
        full = size // rows.batch_size
        rest = size % rows.batch_size - rows.process_index * rows.local_batch_size
        real = full * rows.local_batch_size + min(max(rest, 0), rows.local_batch_size)
        examples = self._examples(self._pairs(0).take(real))

        padding = {
            name: tf.zeros(spec.shape, spec.dtype)
            for name, spec in batching.stackable_specs(examples).items()
        }
        missing = self.steps * rows.local_batch_size - real
        padding = tf.data.Dataset.from_tensors((padding, 0.0)).repeat(missing)
        examples = examples.map(as_written(lambda features: (features, 1.0)))
        examples = examples.concatenate(padding).map(
            as_written(lambda features, mask: {**features, "_mask": mask})
        )
        return batching.batches(examples, rows, self.threads, self.prefetch)

    def _pairs(self, start_step: int) -> tf.data.Dataset:
        """Pairs (index, chance) of this process's rows, beyond the last example too."""

        @as_written
        def plan(step):
            index = self.rows.positions(step)
            seed = order.example_seed(0, index, seed=_EVAL_SEED)
            batch_seed = order.batch_seed(tf.fill(index.shape, step), seed=_EVAL_SEED)
            epoch = tf.zeros_like(index)
            return index, batching.chances(
                self.preprocess, seed, batch_seed, epoch, index
            )

        return tf.data.Dataset.range(start_step, self.steps).map(plan).unbatch()

    def _examples(self, pairs: tf.data.Dataset) -> tf.data.Dataset:
        return batching.map_examples(
            pairs, self.preprocess, self.threads, self.source.read
        )

    def _explain(self, step: int, why: str) -> str:
        rows = self.rows
        first = step * rows.batch_size + rows.process_index * rows.local_batch_size
        real = min(rows.local_batch_size, len(self.source) - first)
        return damaged.explain(
            f"the evaluation batch {step}",
            why,
            self._pairs(step).take(real),
            self._examples,
            self.source.describe,
            "an evaluation is of every example and skips none: restore it",
        )


def make_train(
    *,
    data: Any,
    batch_size: int,
    seed: int,
    pp: str = "",
    start_step: int = 0,
    shuffle_buffer_size: int | None = None,
    cache_raw: bool = False,
    skip_errors: bool = False,
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
      cache_raw: with shuffle_buffer_size, keep all undecoded examples in memory;
        refused if they would take more than 80 % of what is free.
      skip_errors: in the place of an example that cannot be read or decoded, take the
        next one of the order that can be, of seven; `TrainData.skipped` counts them.
        False stops, with an error that names the example.
      process_index: which process's rows these are, of `process_count`.
      process_count: how many processes share each global batch, in equal parts.
      num_parallel_calls: examples worked on at a time; None is twice the CPU cores.
      prefetch: batches made ahead.

    Raises:
      DataNotFound: the data set is not on this machine.
      ValueError: unknown names, damaged files, or a batch_size that does not divide.
    """
    hide_accelerators()
    _check_numbers(num_parallel_calls, prefetch, shuffle_buffer_size)
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
    source = sources.open_source(**_section(data))
    if process_index == 0:
        for notice in source.notices:
            logging.warning("%s", notice)
    if shuffle_buffer_size is not None and cache_raw:
        memory.check_cache(source.nbytes(), memory.available(), process_count)
    stream = TrainData(
        source=source,
        preprocess=preprocess,
        rows=rows,
        seed=seed,
        start_step=start_step,
        shuffle_buffer_size=shuffle_buffer_size,
        cache_raw=cache_raw,
        skip_errors=skip_errors,
        replaced=damaged.Replaced(source.describe),
        threads=_threads(num_parallel_calls),
        prefetch=prefetch,
    )
    return stream, stream.total_examples


def make_eval(
    *,
    data: Any,
    batch_size: int,
    pp_fn: str = "",
    class_names: Sequence[str] | None = None,
    num_classes: int | None = None,
    process_index: int = 0,
    process_count: int = 1,
    num_parallel_calls: int | None = None,
    prefetch: int = 2,
) -> tuple[EvalData, int]:
    """The evaluation batches of one process, and how many there are.

    Row r of step s is example s * batch_size + r. The last batch is filled up with
    zeros; `_mask`, float32, is 1 for an example and 0 for what fills up. The arguments
    and errors are those of `make_train`; `pp_fn` is its `pp`.

    Labels become those of the model, by the names of the classes, unless pp_fn looks them
    up itself; what was mapped is among the stream's `notices`. `match_classes` in `data` says
    otherwise: see `relabel.matched`.

    Args:
      class_names: of the model, in the order of its labels; None: nobody knows.
      num_classes: of the model; None: any.
    """
    hide_accelerators()
    _check_numbers(num_parallel_calls, prefetch)
    rows = batching.Rows(batch_size, process_index, process_count)
    preprocess = ops.get_preprocess_fn(pp_fn)
    section = dict(_section(data))
    how = section.pop("match_classes", "name")
    source = sources.open_source(**section)
    where = section.get("name") or section.get("data_dir") or section.get("path")
    source, notice = relabel.matched(
        source,
        class_names,
        num_classes,
        None if "lookup(" in pp_fn else how,
        f"{where} {section.get('split')}",
    )
    stream = EvalData(
        rows=rows,
        preprocess=preprocess,
        source=source,
        threads=_threads(num_parallel_calls),
        prefetch=prefetch,
        notices=(*source.notices, *([notice] if notice else [])),
    )
    return stream, stream.steps


def _section(data: Any) -> Any:
    if not hasattr(data, "keys"):  # a ConfigDict is no Mapping
        raise ValueError(
            "data must be a section such as dict(name='imagenet2012', split='train'), "
            f"got {data!r}"
        )
    return data


def _check_numbers(
    num_parallel_calls: int | None,
    prefetch: int,
    shuffle_buffer_size: int | None = None,
) -> None:
    """Raise ValueError on what TensorFlow would refuse later, and not for people."""
    for name, value, least, most in (
        ("num_parallel_calls", num_parallel_calls, 1, 4096),
        ("prefetch", prefetch, 0, 4096),
        ("shuffle_buffer_size", shuffle_buffer_size, 1, 2**62),
    ):
        if value is not None and not least <= value <= most:
            raise ValueError(f"{name} must be {least} to {most:,}, got {value}")


def _threads(num_parallel_calls: int | None) -> int:
    # More than cores, since some wait for the disk.
    return num_parallel_calls or 2 * (os.cpu_count() or 4)
