"""Functions that training and evaluation share: a process's rows, map, check, batch."""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from input_pipeline.ops import Preprocess
from input_pipeline.stream import order
from input_pipeline.tracing import as_written


@dataclasses.dataclass(frozen=True)
class Rows:
    """One process's share of each global batch."""

    batch_size: int
    process_index: int
    process_count: int

    def __post_init__(self):
        if self.batch_size >= 2**31:
            raise ValueError(
                f"the batch_size must be below 2**31, got {self.batch_size}"
            )
        if self.batch_size < 1 or self.batch_size % self.process_count:
            raise ValueError(
                "the batch_size must be a positive multiple of the number of processes"
                f", which is {self.process_count}, but it is {self.batch_size}"
            )
        if not 0 <= self.process_index < self.process_count:
            raise ValueError(
                f"process_index must be in 0 to {self.process_count - 1}, but it is "
                f"{self.process_index}"
            )

    @property
    def local_batch_size(self) -> int:
        """The number of rows of each batch in this process."""
        return self.batch_size // self.process_count

    def positions(self, step: tf.Tensor) -> tf.Tensor:
        """Return the positions of this process's rows in the batch of `step`."""
        return order.local_positions(
            step,
            batch_size=self.batch_size,
            process_index=self.process_index,
            process_count=self.process_count,
        )


def example_fn(preprocess: Preprocess, read: Callable) -> Callable[[Any, Any], dict]:
    """Return the function (input of `read`, chance) -> one preprocessed example."""

    # Without autograph, an op's own error message reaches the user unchanged.
    @as_written
    def one(item, chance):
        features = preprocess({**read(item), **chance})
        drop = chance.keys() - preprocess.kept
        return {name: x for name, x in features.items() if name not in drop}

    return one


def chances(
    preprocess: Preprocess, seed: Any, batch_seed: Any, epoch: Any, index: Any
) -> dict[str, Any]:
    """Return the chance of examples: seeds int32 [..., 2], and the ops' random draws.

    Drawing for a whole batch is many times faster than each op for each example. The
    epoch and index, int64 [...], are included if an op asks for them.
    """
    place = {"epoch": epoch, "index": index} if preprocess.follows_epochs else {}
    return {"seed": seed, **preprocess.draw(seed, batch_seed), **place}


def fetched(pairs: tf.data.Dataset, source: Any, in_flight: int) -> tf.data.Dataset:
    """Return `pairs` (index, chance), with an item read ahead if the source is remote."""
    return source.ahead.items(pairs, in_flight) if remote(source) else pairs


def read(source: Any, item: Any) -> dict[str, tf.Tensor]:
    """Return the example of what `fetched` has in the place of its index."""
    return source.parse(item) if remote(source) else source.read(item)


def remote(source: Any) -> bool:
    """Return whether the examples of a source are read ahead; see `sources.Source`."""
    return getattr(source, "ahead", None) is not None


def map_examples(
    pairs: tf.data.Dataset,
    preprocess: Preprocess,
    threads: int,
    read: Callable = lambda features: features,
) -> tf.data.Dataset:
    """Preprocess pairs (input of `read`, chance) in order, `threads` at a time."""
    one = example_fn(preprocess, read)
    return pairs.map(one, num_parallel_calls=threads, deterministic=True)


def stackable_specs(examples: tf.data.Dataset) -> dict[str, tf.TensorSpec]:
    """Return the shapes and dtypes of the features, after a check that they stack.

    Raises:
      ValueError: a feature is a string or not a plain tensor, or its shape differs between
        examples.
    """
    specs: Any = examples.element_spec
    for name, spec in specs.items():
        if not isinstance(spec, tf.TensorSpec) or spec.dtype == tf.string:
            if name == "image":
                raise ValueError(
                    "the images of the data are files, which cannot be part of a batch "
                    "before they are decoded: begin the preprocessing with decode, such "
                    'as \'decode|resize(224)|keep("image", "labels")\''
                )
            kind = (
                "a string" if isinstance(spec, tf.TensorSpec) else "not a plain tensor"
            )
            raise ValueError(
                f"the feature {name!r} is {kind} after preprocessing, which cannot be "
                'part of a batch: end the preprocessing with keep("image", "labels"), '
                "or the features that you need"
            )
        if not spec.shape.is_fully_defined():
            raise ValueError(
                f"the feature {name!r} has the shape {spec.shape} after preprocessing, "
                "which differs between examples: resize or crop it to one size, or "
                "leave it out with keep"
            )
    return specs


def shapes_of_one(specs: Any) -> dict[str, tuple[tuple[int, ...], np.dtype]]:
    """Return shape and dtype of each feature of one example, from a batch's specs."""
    return {
        name: (tuple(spec.shape[1:]), np.dtype(spec.dtype.as_numpy_dtype))
        for name, spec in specs.items()
    }


def batches(
    examples: tf.data.Dataset, rows: Rows, threads: int, prefetch: int
) -> tf.data.Dataset:
    """Return this process's rows of each batch, `prefetch` batches ahead.

    Raises:
      ValueError: a feature cannot be stacked.
    """
    stackable_specs(examples)
    stacked = examples.batch(rows.local_batch_size, drop_remainder=True)
    return run_ahead(stacked, threads, prefetch)


def run_ahead(stacked: tf.data.Dataset, threads: int, prefetch: int) -> tf.data.Dataset:
    """Make batches in a pool of `threads` threads, `prefetch` batches ahead."""
    options = tf.data.Options()
    # As in big_vision: one pool of threads, each example on one of them.
    options.threading.private_threadpool_size = threads
    options.threading.max_intra_op_parallelism = 1
    options.experimental_optimization.inject_prefetch = False
    return stacked.prefetch(prefetch).with_options(options)
