"""The endless stream of training batches, in the order of `order` or of a buffer."""

import dataclasses
import functools
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar

import numpy as np
import tensorflow as tf

from input_pipeline import ops, sources
from input_pipeline.sources import relabel
from input_pipeline.stream import balanced, batching, damaged, order
from input_pipeline.tracing import as_written

_ENDLESS = 2**48


@dataclasses.dataclass(frozen=True, eq=False)
class TrainData:
    """The endless training batches of one process, made by `pipeline.make_train`.

    Each iteration starts at `start_step`; the first one builds the graph.
    """

    _CURE: ClassVar[str] = (
        "set skip_errors=True in input to take the next example in its place"
    )

    source: sources.Source
    preprocess: ops.Preprocess
    rows: batching.Rows
    seed: int
    start_step: int
    sampling: str | None
    shuffle_buffer_size: int | None
    cache_raw: bool
    threads: int
    prefetch: int
    reads_in_flight: int

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
    def prepared(self) -> dict[str, Any] | None:
        """The settings with which `input_pipeline.prepare` resized the images, or None."""
        return getattr(self.source, "prepared", None)

    @property
    def element_spec(self) -> dict[str, tuple[tuple[int, ...], np.dtype]]:
        """Shape and dtype of each feature of one example, without the batch."""
        return batching.shapes_of_one(self._batches.element_spec)

    def labels(self) -> np.ndarray:
        """Return the label of every example, int64[n]; see `sources.labels_of`."""
        return sources.labels_of(self.source)

    def skipped(self, start: int, stop: int) -> int:
        """Return how many rows of steps start to stop - 1 hold a replacement.

        Counts this process's rows in the batches that it has made. Always 0 without
        `skip_errors`, where a damaged example ends the stream.
        """
        return 0

    def from_step(self, step: int) -> "TrainData":
        """Return the same stream from the batch of `step` on (0 is the first)."""
        return dataclasses.replace(self, start_step=step)

    def labelled_as(self, class_names: Sequence[str]) -> "TrainData":
        """Return the same stream with its labels in the order of `class_names`.

        Raises relabel.OtherClasses if `class_names` are not its classes.
        """
        source = relabel.reordered(self.source, class_names)
        return dataclasses.replace(self, source=source)

    def example_at(self, positions) -> tuple[tf.Tensor, tf.Tensor]:
        """Return (epoch, index) of positions in the stream, each an int64[n]."""
        if self._balanced is not None:
            return self._balanced.example_at(positions)
        return order.example_at(positions, seed=self.seed, size=len(self.source))

    def span(self, epoch: int, index: int) -> tuple[int, int]:
        """Return the range of positions in which example `index` has this epoch."""
        if self._balanced is not None:
            return self._balanced.span(epoch, index)
        return epoch * len(self.source), (epoch + 1) * len(self.source)

    @functools.cached_property
    def _balanced(self) -> balanced.Balanced | None:
        """The order of sampling="balanced"; made late, since labels may be reordered."""
        if self.sampling is None:
            return None
        return balanced.Balanced(self.labels(), self.seed)

    def __iter__(self) -> Iterator[dict[str, np.ndarray]]:
        return damaged.batches(
            self._batches, self.start_step, self._explain, self.source
        )

    @functools.cached_property
    def _batches(self) -> tf.data.Dataset:
        examples = self._examples(self._pairs())
        return batching.batches(examples, self.rows, self.threads, self.prefetch)

    def _pairs(self) -> tf.data.Dataset:
        """Return pairs (index or raw example, chance) in the order of the stream."""
        if self.shuffle_buffer_size is None:
            return self._global_shuffle()
        return self._buffer_shuffle(self.shuffle_buffer_size)

    def _examples(self, pairs: tf.data.Dataset) -> tf.data.Dataset:
        return batching.map_examples(
            self._fetched(pairs), self.preprocess, self.threads, self._read
        )

    def _fetched(self, pairs: tf.data.Dataset) -> tf.data.Dataset:
        """Return `pairs` with what `_read` takes in place of the index."""
        if self.shuffle_buffer_size is not None:
            return pairs
        return batching.fetched(pairs, self.source, self.reads_in_flight)

    def _read(self, item: Any) -> dict:
        if self.shuffle_buffer_size is None:
            return batching.read(self.source, item)
        return self.source.finish(item)

    def _index_of(self, item: Any) -> Any:
        """Return the index of an item of `_pairs`."""
        if self.shuffle_buffer_size is None:
            return item["index"] if isinstance(item, dict) else item
        return tf.cast(item["_id"], tf.int64)

    def _pairs_at(self, positions: tf.Tensor) -> tuple[tf.Tensor, dict[str, tf.Tensor]]:
        """Return (index, chance) of each position."""
        epoch, index = self.example_at(positions)
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
        """Return pairs (index, chance) in the order of `example_at`."""

        @as_written
        def of_step(step):
            return self._pairs_at(self.rows.positions(step))

        # A whole batch at once, because a step is a hundred tiny operations.
        return tf.data.Dataset.range(self.start_step, _ENDLESS).map(of_step).unbatch()

    @property
    def _part(self) -> tuple[int, int]:
        """The range (start, stop) of this process's examples with a shuffle buffer."""
        size, rows = len(self.source), self.rows
        start = size * rows.process_index // rows.process_count
        stop = size * (rows.process_index + 1) // rows.process_count
        if start == stop:
            raise ValueError(
                f"{size} examples are too few for {rows.process_count} processes with "
                "shuffle_buffer_size, which gives each its own part: leave it out"
            )
        return start, stop

    def _buffer_shuffle(self, buffer_size: int) -> tf.data.Dataset:
        """Return pairs (raw example, chance) from a shuffle buffer.

        The order is big_vision's: read, cache, shuffle, repeat.
        """
        start, stop = self._part
        raw = self.source.sequential(start, stop)
        if self.cache_raw:
            raw = raw.cache()
        # A resumed run must not start with the examples of the first start.
        entropy = np.random.SeedSequence([self.seed % 2**64, self.start_step])
        # Shuffle before repeat, so that each epoch has every example once.
        buffer_size = min(buffer_size, stop - start)  # tf.data allocates it at once
        raw = raw.shuffle(buffer_size, seed=int(entropy.generate_state(1)[0])).repeat()
        first = self.start_step * self.rows.local_batch_size

        @as_written
        def with_chance(count, features):
            epoch = (first + count) // (stop - start)
            index = self._index_of(features)
            step = self.start_step + count // self.rows.local_batch_size
            chance = self._chance(epoch, index, step)
            return features, chance

        pairs = raw.enumerate()
        return pairs.map(with_chance, num_parallel_calls=2, deterministic=True)

    def _explain(self, step: int, why: str) -> str:
        """Return the error of a failed batch: the damaged example, and the remedy."""
        again = dataclasses.replace(self, start_step=step, shuffle_buffer_size=None)
        if self.shuffle_buffer_size is None:
            pairs = again._pairs().take(self.rows.local_batch_size)
        else:
            # The buffer's contents are unknown: search this process's part.
            pairs = tf.data.Dataset.range(*self._part).map(
                as_written(lambda index: (index, self._chance(0, index, step)))
            )
        return damaged.explain(
            f"the training batch of step {step}",
            why,
            pairs,
            again._examples,
            self.source.describe,
            self._CURE,
        )
