"""Evaluation batches: every example once, in order, padded to full batches."""

import dataclasses
import functools
from collections.abc import Iterator
from typing import Any

import numpy as np
import tensorflow as tf

from input_pipeline import ops, sources
from input_pipeline.sources import ahead
from input_pipeline.stream import batching, damaged, order
from input_pipeline.tracing import as_written

_EVAL_SEED = 0  # fixed, so that random ops draw the same in every evaluation


@dataclasses.dataclass(frozen=True, eq=False)
class EvalData:
    """One process's evaluation batches; each iteration starts at the first."""

    source: sources.Source
    preprocess: ops.Preprocess
    rows: batching.Rows
    threads: int
    prefetch: int
    notices: tuple[str, ...] = ()  # how the data set was read and labels were mapped

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
    def prepared(self) -> dict[str, Any] | None:
        """The settings with which `input_pipeline.prepare` resized the images, or None."""
        return getattr(self.source, "prepared", None)

    @property
    def steps(self) -> int:
        """The number of batches of one pass, the same in every process."""
        return -(-len(self.source) // self.rows.batch_size)

    def __iter__(self) -> Iterator[dict[str, np.ndarray]]:
        return damaged.batches(self._batches, 0, self._explain, self.source)

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
        """Return pairs (index, chance) of this process's rows, the padding's too."""

        @as_written
        def of_step(step):
            index = self.rows.positions(step)
            seed = order.example_seed(0, index, seed=_EVAL_SEED)
            batch_seed = order.batch_seed(tf.fill(index.shape, step), seed=_EVAL_SEED)
            epoch = tf.zeros_like(index)
            return index, batching.chances(
                self.preprocess, seed, batch_seed, epoch, index
            )

        return tf.data.Dataset.range(start_step, self.steps).map(of_step).unbatch()

    def _examples(self, pairs: tf.data.Dataset) -> tf.data.Dataset:
        return batching.map_examples(
            batching.fetched(pairs, self.source, ahead.IN_FLIGHT),
            self.preprocess,
            self.threads,
            functools.partial(batching.read, self.source),
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
            "an evaluation reads every example and skips none: restore it",
        )
